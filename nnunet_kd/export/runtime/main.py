"""``python BUNDLE -i IMAGES -o SEGMENTATIONS``."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .verify import BundleError, verify


def main(folder: Path, argv: Sequence[str] | None = None) -> int:
    """Predicts a folder of images with a bundle.

    Returns:
        The exit code: 0, or 2 when the bundle cannot be used or a case was skipped.
    """
    parser = argparse.ArgumentParser(prog=f"python {folder}", description="Predicts images with this bundle.")
    parser.add_argument("-i", required=True, metavar="FOLDER", help="images, CASE_0000.nii.gz, one for each channel")
    parser.add_argument("-o", required=True, metavar="FOLDER", help="where the segmentations go")
    parser.add_argument("-np", type=int, metavar="N", help="processors for the network; default: all")
    parser.add_argument(
        "--save_probabilities", action="store_true", help="also CASE.npz and CASE.pkl, as nnUNetv2_predict writes them"
    )
    parser.add_argument(
        "--continue_prediction", "--c", action="store_true", help="leave cases out that have a segmentation already"
    )
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring, also where the bundle allows it")
    args = parser.parse_args(argv)
    try:
        return _predict(folder, args)
    except BundleError as err:
        print(str(err), file=sys.stderr)
        return 2


def _predict(folder: Path, args: argparse.Namespace) -> int:
    start = time.monotonic()
    content = verify(folder)
    # only a bundle that is whole is executed any further
    from .description import Description
    from .folder import find_cases, predict_folder
    from .images import open_reader
    from .predictor import Predictor

    if args.np is not None and args.np < 1:
        raise BundleError(f"-np {args.np}: expected at least 1.")
    bundle = Description.from_json(content)
    output, ending = Path(args.o), bundle.file_ending
    cases = find_cases(Path(args.i), ending)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if args.save_probabilities:  # what nnUNetv2_ensemble reads beside them
            for name, part in (("dataset.json", bundle.dataset_json), ("plans.json", bundle.plans)):
                (output / name).write_text(json.dumps(part, indent=4), encoding="utf-8")
    except OSError as err:
        raise BundleError(f"-o {output}: cannot be written ({err.strerror}).") from None
    there = [c for c in cases if args.continue_prediction and (output / f"{c.name}{ending}").is_file()]
    todo = [c for c in cases if c not in there]
    predictor = Predictor(folder, bundle, args.np, not args.disable_tta)
    reader = open_reader(bundle.reader)

    def log(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    failed = predict_folder(predictor, reader, todo, output, args.save_probabilities, log)
    seconds = time.monotonic() - start
    more = f", {len(there)} were there already" if there else ""
    print(f"{len(todo) - failed} cases predicted in {seconds:.1f} s ({predictor.engine}){more}: {output}")
    if failed:
        print(f"{failed} cases were skipped, see above.", file=sys.stderr)
    return 2 if failed else 0
