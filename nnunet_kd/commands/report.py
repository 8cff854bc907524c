"""``nnUNetv2_kd report``."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The compared folders, what is known of their models, and how to judge."""
    add = parser.add_argument
    add("--reference", required=True, type=Path, metavar="FOLDER", help="reference segmentations")
    add(
        "--method",
        required=True,
        action="append",
        metavar="NAME=FOLDER",
        help="predictions of a method, the same file names; repeat for every method",
    )
    add("-o", required=True, type=Path, metavar="FOLDER", help="folder of the report: new, empty, or see --overwrite")
    add("--student", metavar="NAME", help="the method the report is about (by its name: student, distilled, kd)")
    add("--ensemble", metavar="NAME", help="the method it shall replace (by its name: ensemble, teachers)")
    add("--twin", metavar="NAME", help="the same network without distillation (by its name: twin, undistilled, hard)")
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME=FOLDER[:FOLDS]",
        help="model folder of a method: its cost, its provenance, and whether it has seen the evaluated cases",
    )
    add("--benchmark", type=Path, metavar="FILE", help="benchmark.json of nnUNetv2_kd benchmark, same names")
    add("--images", type=Path, metavar="FOLDER", help="images below the contours (CASE_0000 or CASE)")
    add("--groups", type=Path, metavar="FILE", help="CSV with case,group: cases of one patient are not independent")
    add("--soft_labels", type=Path, metavar="FOLDER", help="a soft-label store, whose entropy is shown")
    add(
        "-djfile",
        type=Path,
        metavar="FILE",
        help="dataset.json (beside the predictions, else above the reference)",
    )
    add("-np", type=int, metavar="N", help="processes (nnUNet_def_n_proc, at most one for each core)")
    add(
        "--metrics",
        nargs="+",
        default=["Dice", "HD95", "NSD"],
        metavar="METRIC",
        help="metrics to test and draw, the first one is the headline's (Dice HD95 NSD); the files hold all",
    )
    add(
        "--significance",
        default="holm",
        choices=["holm", "bonferroni", "noothout2022"],
        help="correction for many tests, and level (holm: 0.05)",
    )
    add("--nsd-tolerance", nargs="+", default=[], metavar="MM", help="as in nnUNetv2_kd evaluate")
    add("--empty", choices=["nan", "flare"], default="nan", help="as in nnUNetv2_kd evaluate (nan)")
    add("--title", default="Distillation report", help="title of the page")
    add("--overwrite", action="store_true", help="replace a previous report in the output folder")


def run(args: argparse.Namespace) -> None:
    """Builds the report and prints its headline."""
    import os
    import sys

    from nnunetv2.configuration import default_num_processes

    from nnunet_kd.benchmark.model_spec import parse_model
    from nnunet_kd.commands.evaluate import find_dataset_json, parse_tolerances
    from nnunet_kd.evaluation.metrics import MetricSettings
    from nnunet_kd.evaluation.statistics import SIGNIFICANCE_PRESETS
    from nnunet_kd.report.build import build_report
    from nnunet_kd.report.methods import choose_roles, parse_methods
    from nnunet_kd.report.request import PAGE, Request
    from nnunet_kd.utilities.errors import UserError

    if args.np is not None and args.np < 1:
        raise UserError(f"-np {args.np}: expected a number of processes, 1 or more.")
    methods = parse_methods(args.method)
    default, of_labels = parse_tolerances(args.nsd_tolerance)
    request = Request(
        methods=methods,
        roles=choose_roles([m.name for m in methods], args.student, args.ensemble, args.twin),
        references=args.reference,
        dataset_json=args.djfile or find_dataset_json(methods[0].folder, args.reference),
        output=args.o.expanduser().resolve(),
        images=args.images,
        models=tuple(parse_model(text) for text in args.model),
        benchmark=args.benchmark,
        groups=args.groups,
        soft_labels=args.soft_labels,
        shown=tuple(dict.fromkeys(args.metrics)),
        significance=SIGNIFICANCE_PRESETS[args.significance],
        settings=MetricSettings(of_labels, default, args.empty),
        processes=args.np or min(default_num_processes, os.cpu_count() or 1),
        title=args.title,
        overwrite=args.overwrite,
        command=("nnUNetv2_kd", *sys.argv[1:]),
    )
    report = build_report(request)
    print("\n" + "\n".join(s.sentence for s in report.headline))
    for warning in report.warnings:
        print(f"WARNING: {warning}")
    print(f"\nWrote {args.o / PAGE} with report.json, report.md, tables/ and plots/")
