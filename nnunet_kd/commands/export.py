"""``nnUNetv2_kd export``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_kd.teachers.model import TeacherModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``export``; nnU-Net's letters keep their meanings."""
    add = parser.add_argument
    add(
        "-m",
        required=True,
        metavar="MODELFOLDER",
        help="trained model, TRAINER__PLANS__CONFIGURATION, distilled or not",
    )
    add("-f", nargs="+", metavar="FOLD", help="folds, whose logits are averaged; default: every finished one")
    add("-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint; default: checkpoint_final.pth")
    add("-o", required=True, metavar="BUNDLE", help="folder that is written, whole or not at all")
    add("--precision", default="fp32", choices=("fp32", "bf16", "int8"), help="of the network; default: fp32")
    add("--calibrate", metavar="FOLDER", help="images that int8 is calibrated on, CASE_0000.nii.gz; no labels needed")
    add("--check", metavar="FOLDER", help="images on which the bundle is compared with nnUNetv2_predict")
    add(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="with --check: share of equal voxels below which nothing is written; default: 0.9999 for fp32, 0.999 for "
        "bf16, 0.99 for int8",
    )
    add("--disable_tta", action="store_true", help="the bundle does not mirror, also where the checkpoint allows it")
    add("--overwrite", action="store_true", help="replace a bundle of the same name")


def run(args: argparse.Namespace) -> None:
    """Writes a bundle and prints how to use it."""
    from nnunet_kd.export import bundle
    from nnunet_kd.export.describe import describe
    from nnunet_kd.teachers.model import find_model
    from nnunet_kd.utilities.errors import UserError

    if (args.precision == "int8") != (args.calibrate is not None):
        raise UserError("--precision int8 and --calibrate IMAGES belong together; give both or neither.")
    if args.min_agreement is not None and (args.check is None or not 0 <= args.min_agreement <= 1):
        raise UserError("--min-agreement: is a share from 0 to 1 beside --check IMAGES.")
    bundle.check_packages()
    folds = None if args.f is None else [f if f == "all" else _fold(f) for f in args.f]
    model = find_model(Path(args.m), folds, args.chk)
    calibration = Path(args.calibrate) if args.calibrate else None
    settings = bundle.Settings(args.precision, not args.disable_tta, calibration)
    target = Path(args.o).absolute()
    description = describe(model)  # or says what no bundle can do, before anything is written
    with bundle.new_folder(target, args.overwrite) as folder:
        bundle.write_bundle(model, description, settings, folder)
        lines = check(args, model, folder) if args.check else []
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"Wrote {target}: {bundle.folds_in_words(model.folds)}, {args.precision}, {size / 1e6:.1f} MB")
    for line in lines:
        print(line)
    print(f"Next:\n  pip install -r {target / 'requirements.txt'}   (elsewhere; without PyTorch)")
    print(f"  python {target} -i INPUT -o OUTPUT")


def _fold(text: str) -> int:
    from nnunet_kd.utilities.errors import UserError

    if not text.isdecimal():
        raise UserError(f"-f {text}: expected numbers of folds, or all.")
    return int(text)


def check(args: argparse.Namespace, model: "TeacherModel", folder: Path) -> list[str]:
    """Compares a bundle with ``nnUNetv2_predict``, writes the result into it, and says it."""
    from tempfile import TemporaryDirectory

    from nnunet_kd.export import agreement, bundle
    from nnunet_kd.export.describe import describe
    from nnunet_kd.utilities.errors import UserError

    images, mirroring = Path(args.check), not args.disable_tta
    if args.precision == "int8":
        with TemporaryDirectory(prefix="nnunet_kd_export_") as scratch:
            bundle.write_bundle(model, describe(model), bundle.Settings("fp32", mirroring), Path(scratch))
            found = agreement.check_bundle(model, folder, images, mirroring, Path(scratch))
    else:
        found = agreement.check_bundle(model, folder, images, mirroring)
    lowest = agreement.LOWEST[args.precision] if args.min_agreement is None else args.min_agreement
    if 1 - found["voxels_that_differ"] < lowest:
        raise UserError(
            f"--check {images}: {found['voxels_that_differ']:.1e} of the voxels differ from nnUNetv2_predict, more "
            f"than {1 - lowest:.1e}; no bundle was written. --min-agreement sets the limit."
        )
    bundle.add_check(folder, found | {"min_agreement": lowest})
    return describe_check(found)


def describe_check(found: dict[str, Any]) -> list[str]:
    """What a check found, for the user."""
    stock, own = found["seconds"]["nnUNetv2_predict"], found["seconds"]["bundle"]
    lines = [
        f"On {found['images']} images: {found['voxels_that_differ']:.2e} of the voxels differ from nnUNetv2_predict, "
        f"Dice between the two {_listed(found['dice'])}; {own:.1f} s instead of {stock:.1f} s, {stock / own:.1f} times "
        "less"
    ]
    if "dice_with_fp32" in found:
        lines.append(f"Dice between int8 and fp32: {_listed(found['dice_with_fp32'])}")
    return lines


def _listed(dice: dict[str, float | None]) -> str:
    return ", ".join(f"{n} {'-' if d is None else f'{d:.4f}'}" for n, d in dice.items())
