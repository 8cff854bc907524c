"""``nnUNetv2_kd predict``: coarse to fine."""

import argparse

from nnunet_kd.commands.options import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """nnUNetv2_predict's letters, and the two stages."""
    add = parser.add_argument
    add("-i", required=True, metavar="FOLDER", help="images, CASE_0000.nii.gz")
    add("-o", required=True, metavar="FOLDER", help="where the segmentations go")
    add("--coarse", required=True, metavar="MODEL", help="model folder that finds the foreground, with folds: PATH:0,1")
    add("--fine", required=True, metavar="MODEL", help="model folder that segments the box, with folds: PATH:all")
    add("--margin", type=float, default=0.1, metavar="F", help="margin of the box, fraction of its length (0.1)")
    add("--margin-mm", type=float, default=0.0, metavar="MM", help="margin of the box at least, in mm (0)")
    add("--keep-largest", action="store_true", help="keep the largest component of every class, after each stage")
    add(
        "--whole-volume",
        action="store_true",
        help="each stage resizes its input to its patch and sees it once; for models that were trained so",
    )
    add("-step_size", type=float, default=0.5, metavar="F", help="sliding-window step, fraction of the patch (0.5)")
    add("--disable_tta", action="store_true", help="no mirroring, also for models that allow it")
    add("--continue_prediction", "--c", action="store_true", help="leave what is there already")
    add("-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint of both models")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Checks everything, predicts every case, says how large the boxes were and how long it took."""
    from pathlib import Path

    from nnunet_kd.data.image_cases import find_cases, listing
    from nnunet_kd.inference.coarse_to_fine import CoarseToFine, Settings, check_models
    from nnunet_kd.inference.folder import predict_folder
    from nnunet_kd.inference.stage import load_stage
    from nnunet_kd.teachers.model import find_model, split_folds
    from nnunet_kd.utilities.environment import torch_device
    from nnunet_kd.utilities.errors import UserError

    for flag, number, least in (("--margin", args.margin, 0), ("--margin-mm", args.margin_mm, 0)):
        if not number >= least or number == float("inf"):
            raise UserError(f"{flag} {number}: expected a number >= {least}.")
    if not 0.01 <= args.step_size <= 1:  # billions of windows otherwise
        raise UserError(f"-step_size {args.step_size}: expected a number from 0.01 to 1.")
    models = []
    for flag, text in (("--coarse", args.coarse), ("--fine", args.fine)):
        folder, folds = split_folds(text, flag)
        models.append(find_model(Path(folder).expanduser(), folds, args.chk, flag))
    check_models(*models)

    ending = models[1].dataset_json["file_ending"]
    channels = len(models[1].configuration_manager.normalization_schemes)
    cases, faults = find_cases([Path(args.i).expanduser()], channels, ending)
    if faults:
        raise UserError(f"-i {args.i}: {listing([f'{name} {fault}' for name, fault in sorted(faults.items())])}.")
    if not cases:
        raise UserError(f"-i {args.i}: no image CASE_0000{ending} there.")
    output = Path(args.o).expanduser()
    if output.resolve() == Path(args.i).expanduser().resolve():
        raise UserError(f"-o {args.o}: is the folder of the images; name another.")
    device = torch_device(args.device)
    coarse, fine = (load_stage(m, device, args.step_size, not args.disable_tta, args.whole_volume) for m in models)
    method = CoarseToFine(coarse, fine, Settings(args.margin, args.margin_mm, args.keep_largest))
    print(predict_folder(method, cases, output, args.continue_prediction))
