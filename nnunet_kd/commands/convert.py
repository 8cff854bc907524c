"""``nnUNetv2_kd convert``."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_kd.dataset_conversion.declare import REPRODUCE, RawDataset, Request
from nnunet_kd.dataset_conversion.registry import find_datasets

FOLDERS = "folders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each data set, and one for any folders."""
    parser.add_argument("--list", action="store_true", help="print the data sets and end")
    subparsers = parser.add_subparsers(dest="dataset", metavar="NAME")
    for dataset in find_datasets().values():
        _add_dataset(subparsers.add_parser(dataset.name, help=dataset.title, **_texts(dataset)), dataset)
    text = "any folders of images and labels: NIfTI, MHA, MHD, NRRD, PNG, TIFF, DICOM series"
    _add_folders(subparsers.add_parser(FOLDERS, help=text, description=text))


def _texts(dataset: RawDataset) -> dict:
    epilog = [f"layout: {dataset.layout}", f"download page: {dataset.page}", f"licence: {dataset.licence}"]
    if dataset.splits:
        epilog.append(f"folds: {(dataset.splits.__doc__ or '').splitlines()[0]}")
    epilog += [f"note: {n}" for n in dataset.notes]
    if dataset.paper:
        epilog.append(f"papers: {REPRODUCE}, {dataset.paper}")
    return {
        "description": dataset.title,
        "epilog": "\n".join(epilog),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_dataset(parser: argparse.ArgumentParser, dataset: RawDataset) -> None:
    parser.add_argument("-i", required=True, type=Path, metavar="RAW", help="folder of the unpacked download")
    parser.add_argument("-d", type=int, metavar="ID", help=f"data set ID; default: {dataset.dataset_id}")
    for option in dataset.options:
        if option.choices:
            parser.add_argument(f"--{option.flag}", choices=option.choices, default=option.default, help=option.help)
        elif option.is_folder:
            parser.add_argument(f"--{option.flag}", type=Path, metavar="FOLDER", help=option.help)
        else:
            parser.add_argument(f"--{option.flag}", action="store_true", help=option.help)
    _add_common(parser)


def _add_folders(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-i", required=True, type=Path, metavar="IMAGES", help="CASE.ending, CASE_0000.ending, or DICOM folders")
    add("-l", required=True, type=Path, metavar="LABELS", help="CASE.ending")
    add("-u", type=Path, metavar="UNLABELED", help="images without labels, for imagesUn")
    add("-t", type=Path, metavar="TEST", help="test images, for imagesTs; labels of theirs in LABELS go to labelsTs")
    add("-d", required=True, type=int, metavar="ID", help="data set ID")
    add("--names", required=True, help="label names, as in liver,tumor; or 1=liver,5=tumor for other values")
    add("--channels", metavar="NAMES", help="channel names, as in CT or T1,T2; default: image")
    add("--dataset_name", metavar="NAME", help="as in DatasetXXX_NAME; default: the folder above IMAGES")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--overwrite", action="store_true", help="replace a data set of this ID and name, once the new one is complete")
    add(
        "--link",
        nargs="?",
        const="hard",
        choices=("hard", "symbolic"),
        help="link files that need no change instead of copying them; default without a word: hard",
    )
    add("-np", type=int, metavar="N", help="worker processes; default: nnU-Net's (nnUNet_def_n_proc, else 8)")
    add("--allow_missing", action="store_true", help="convert an incomplete copy: leave out incomplete cases")
    add("--allow_extra", action="store_true", help="leave out image files that do not belong to the data set")
    add(
        "--label_geometry",
        choices=("strict", "image"),
        default="strict",
        help="image: labels take the geometry of their images where it differs (same shape); default: strict",
    )
    add("--dry_run", action="store_true", help="check everything, write nothing")


def run(args: argparse.Namespace) -> None:
    """Converts, or lists what can be converted."""
    from nnunetv2.configuration import default_num_processes

    from nnunet_kd.dataset_conversion.convert import convert
    from nnunet_kd.dataset_conversion.describe import print_list
    from nnunet_kd.utilities.errors import UserError

    datasets = find_datasets()
    if args.list:
        print_list(list(datasets.values()))
        return
    if args.dataset is None:
        raise UserError(f"convert: name a data set ({', '.join(datasets)} or {FOLDERS}), or add --list.")
    if args.np is not None and args.np < 1:
        raise UserError(f"-np {args.np}: expected at least 1.")
    dataset = _folders(args) if args.dataset == FOLDERS else datasets[args.dataset]
    request = Request(
        raw=args.i,
        dataset_id=args.d,
        overwrite=args.overwrite,
        link=args.link,
        processes=args.np or default_num_processes,
        allow_missing=args.allow_missing,
        allow_extra=args.allow_extra,
        label_geometry=args.label_geometry,
        dry_run=args.dry_run,
        options={o.flag: v for o in dataset.options if (v := getattr(args, o.flag)) is not None},
    )
    with _stoppable():
        target = convert(dataset, request)
    if target is None:
        return
    print(f"Wrote {target}")
    print(f"Next: nnUNetv2_plan_and_preprocess -d {int(target.name[7:10])} --verify_dataset_integrity")
    if dataset.paper:
        print(f"Then: {REPRODUCE}, {dataset.paper}")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl+C, and what clusters send before they kill, end the command after the working folder is removed."""
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(s, lambda number, _: sys.exit(128 + number)) for s in signals]
    try:
        yield
    except SystemExit:
        print("nnunet_kd: stopped; nothing was written.", file=sys.stderr, flush=True)
        raise
    finally:
        for s, handler in zip(signals, previous, strict=True):
            signal.signal(s, handler)


def _folders(args: argparse.Namespace) -> RawDataset:
    from nnunet_kd.dataset_conversion.folders import folders_dataset

    return folders_dataset(args.i, args.l, args.u, args.t, args.names, args.channels, args.d, args.dataset_name)
