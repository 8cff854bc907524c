"""``nnUNetv2_kd benchmark``."""

import argparse
from pathlib import Path

from nnunet_kd.commands.options import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, images and how often; nnU-Net's letters keep their meanings."""
    add = parser.add_argument
    add(
        "--model",
        action="append",
        required=True,
        metavar="NAME=FOLDER[:FOLDS]",
        help="a model folder TRAINER__PLANS__CONFIGURATION with folds (:0,1,2 or :all; default: every finished one), "
        "several joined by commas; once for each model, the first is what the others are compared with",
    )
    add("-i", type=Path, required=True, metavar="IMAGES", help="folder of images, named as for nnUNetv2_predict")
    add("-o", type=Path, required=True, metavar="OUT", help="folder for benchmark.json, benchmark.md and logs/")
    add("-n", type=int, metavar="CASES", help="only the first cases, by name; default: all")
    add("--runs", type=int, default=3, metavar="N", help="how often each model is measured (3)")
    add("--no_mirroring", nargs="+", default=[], metavar="NAME", help="models that predict without mirroring")
    add("-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint (checkpoint_final.pth)")
    add_device(parser)
    add("-npp", type=int, default=3, metavar="N", help="nnUNetv2_predict's processes for preprocessing (3)")
    add("-nps", type=int, default=3, metavar="N", help="nnUNetv2_predict's processes for export (3)")
    add("--network_only", action="store_true", help="time the networks, not whole nnUNetv2_predict: seconds, no memory")
    add("--overwrite", action="store_true", help="replace a previous benchmark in OUT")


def run(args: argparse.Namespace) -> None:
    """Measures, prints the tables and writes them."""
    from nnunet_kd.benchmark.candidates import Conditions, find_candidates, find_cases
    from nnunet_kd.benchmark.model_spec import parse_model
    from nnunet_kd.benchmark.run import run_benchmark
    from nnunet_kd.benchmark.table import format_benchmark
    from nnunet_kd.utilities.environment import torch_device
    from nnunet_kd.utilities.errors import UserError
    from nnunet_kd.utilities.files import write_json, write_whole

    for flag, value, least in (("--runs", args.runs, 1), ("-npp", args.npp, 0), ("-nps", args.nps, 0)):
        if value < least:
            raise UserError(f"{flag} {value}: expected at least {least}.")
    if (args.npp == 0) != (args.nps == 0):
        raise UserError("-npp and -nps: nnUNetv2_predict takes 0 for both or for neither.")
    candidates = find_candidates([parse_model(m) for m in args.model], args.no_mirroring, args.chk)
    cases = find_cases(args.i, candidates[0].models[0], args.n)
    conditions = Conditions(cases, args.runs, torch_device(args.device), args.npp, args.nps)
    file = args.o / "benchmark.json"
    if file.exists() and not args.overwrite:
        raise UserError(f"{file}: is there already; choose another folder, or add --overwrite to replace it.")
    logs = args.o / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"-o {args.o}: cannot be made a folder ({err.strerror}); choose another.") from None
    for model in (m for c in candidates for m in c.models):
        model.check()  # nnUNetv2_predict loads every fold, and runs what its checkpoint holds

    benchmark = run_benchmark(candidates, conditions, logs, args.network_only)
    text = format_benchmark(benchmark)
    print(f"\n{text}\n")  # before the files: what was measured is not lost when the disk is full
    write_json(file, benchmark)
    write_whole(file.with_suffix(".md"), lambda f: f.write_text(text + "\n", encoding="utf-8"))
    print(f"Wrote {file} and {file.with_suffix('.md')}; the commands' output is in {logs}")
