"""``nnUNetv2_kd evaluate``."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """nnU-Net's letters, and what is special to surface metrics."""
    parser.add_argument("-i", required=True, metavar="FOLDER", type=Path, help="predicted segmentations")
    parser.add_argument("-r", required=True, metavar="FOLDER", type=Path, help="reference segmentations, same names")
    parser.add_argument(
        "-djfile", metavar="FILE", type=Path, help="dataset.json (default: beside the predictions, else above -r)"
    )
    parser.add_argument(
        "-o", metavar="FOLDER", type=Path, help="folder for summary.json and metrics.csv (default: the predictions')"
    )
    parser.add_argument("-np", type=int, metavar="N", help="processes (nnUNet_def_n_proc, at most one for each core)")
    parser.add_argument(
        "--nsd-tolerance",
        nargs="+",
        default=[],
        metavar="MM",
        help="tolerance of NSD in mm (pixels for images without physical units) for all labels, and LABEL=MM for one "
        "(FLARE22's for its organs, 1 for others)",
    )
    parser.add_argument(
        "--empty",
        choices=["nan", "flare"],
        default="nan",
        help="labels that neither mask has: undefined as in nnU-Net, or right as in FLARE (nan)",
    )
    parser.add_argument("--chill", action="store_true", help="leave out references that have no prediction")


def run(args: argparse.Namespace) -> None:
    """Evaluates, writes, prints the means."""
    import os

    from nnunetv2.configuration import default_num_processes

    from nnunet_kd.evaluation.folder import evaluate_folder, write_evaluation
    from nnunet_kd.evaluation.metrics import MetricSettings
    from nnunet_kd.utilities.errors import UserError
    from nnunet_kd.utilities.files import check_writable

    if args.np is not None and args.np < 1:
        raise UserError(f"-np {args.np}: expected a number of processes, 1 or more.")
    if args.o is not None and args.o.suffix == ".json":
        raise UserError(f"-o {args.o}: takes a folder; summary.json and metrics.csv are written into it.")
    output = args.o or args.i
    check_writable(output)
    default, of_labels = parse_tolerances(args.nsd_tolerance)
    settings = MetricSettings(of_labels, default, args.empty)
    processes = args.np or min(default_num_processes, os.cpu_count() or 1)
    dataset_json = args.djfile or find_dataset_json(args.i, args.r)
    summary = evaluate_folder(args.i, args.r, dataset_json, settings, processes, args.chill)
    print(format_means(summary))  # before the files: it is not lost when the disk is full
    write_evaluation(summary, output)
    print(f"Wrote {output / 'summary.json'} and {output / 'metrics.csv'}")


def parse_tolerances(words: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """``2``, ``liver=5`` -> tolerance of all labels (None when not given), tolerances by label."""
    from nnunet_kd.utilities.errors import UserError

    default, of_labels = None, {}
    for word in words:
        name, equals, number = word.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UserError(f"--nsd-tolerance {word}: expected a length in mm, or LABEL=MM.") from None
        if equals:
            of_labels[name] = value
        else:
            default = value
    return default, of_labels


def format_means(summary) -> str:
    """Means over the cases as text, the rules they follow, and what deserves a second look."""
    from nnunet_kd.evaluation.table import by_metric, distance_unit, structures
    from nnunet_kd.utilities.summaries import Summary

    read = Summary.of(summary)
    values, missed = by_metric(read.table), structures(read.table)["missed"].groupby("label", observed=True).sum()
    defined = values.notna().groupby("label", observed=True).sum()
    unit = distance_unit(read.settings)
    shown = ("Dice", "IoU", "NSD", "HD", "HD95", "ASSD", "MSD", "VOE", "RVD")
    rows = [["label", "cases", "missed", *shown, f"NSD {unit}", "no distance"]]
    means_of = {read.settings["labels"][key]: means for key, means in summary["mean"].items()}
    for label in defined.index:
        tolerance = f"{read.settings['nsd_tolerance_mm'][label]:g}"
        counts, no_distance = defined.loc[label], len(read.cases) - defined.loc[label, "HD"]
        row = [label, str(counts["Dice"]), str(missed[label]), *(f"{means_of[label][m]:.4g}" for m in shown)]
        rows.append([*row, tolerance, str(no_distance)])
    rows.append(["mean", "", str(missed.sum()), *(f"{summary['foreground_mean'][m]:.4g}" for m in shown), "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    unknown = read.settings["labels_not_in_dataset_json"]
    if unknown:
        found = ", ".join(map(str, sorted({label for labels in unknown.values() for label in labels})))
        lines.append(f"WARNING: {len(unknown)} files hold labels that dataset.json does not name ({found}).")
    return "\n".join(
        [
            f"Means over {len(read.cases)} cases; distances in {unit}",
            *lines,
            *read.settings["rules"],
            "cases: with a defined Dice; missed: the reference has the label, the prediction nothing of it; "
            "no distance: cases where HD, HD95, ASSD and MSD are NaN and left out",
        ]
    )


def find_dataset_json(predictions: Path, references: Path) -> Path:
    """The ``dataset.json`` beside the predictions or the references, else in the folder above the references.

    Raises:
        UserError: when there is none.
    """
    from nnunet_kd.utilities.errors import UserError

    for file in (
        predictions / "dataset.json",
        references / "dataset.json",
        references.absolute().parent / "dataset.json",
    ):
        if file.is_file():
            return file
    raise UserError(f"no dataset.json in {predictions}, {references} or the folder above it; give one with -djfile.")
