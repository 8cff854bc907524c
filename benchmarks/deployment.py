"""Whole processes against each other: ``nnUNetv2_predict`` of an ensemble and of a student, and bundles.

    python benchmarks/deployment.py -i IMAGES --cases 5 40 --runs 3 -o deployment.json \\
        --model ensemble=MODELFOLDER:0,1,2 --model student=MODELFOLDER:all --bundle fp32=FOLDER --bundle int8=FOLDER

Every command predicts the same images; images are repeated under other names until there are enough. The commands take
turns, A B C A B C, and ratios are taken turn by turn, so that other work on the machine disturbs all of them alike.
Seconds: from the start of the process to its end. Processor seconds: of the process and all its children, whatever else
the machine does. Memory: the largest sum over the process and its children (proportional set size).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from nnunet_kd.benchmark.measure import run_sampled
from nnunet_kd.export.runtime.folder import Case, find_cases
from nnunet_kd.teachers.model import find_model, split_folds
from nnunet_kd.utilities.errors import exit_on_user_error
from nnunet_kd.utilities.programs import find_program

Command = list[str]


def main() -> None:
    """Prints one table in Markdown for each number of cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", type=Path, required=True, help="images, CASE_0000.nii.gz")
    parser.add_argument("--ending", default=".nii.gz")
    parser.add_argument("--model", action="append", default=[], help="NAME=MODELFOLDER:FOLDS, by nnUNetv2_predict")
    parser.add_argument("--bundle", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--python", default=sys.executable, help="that runs the bundles")
    parser.add_argument("--cases", type=int, nargs="+", default=[5])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", type=Path, required=True, help="every single figure, JSON")
    args = parser.parse_args()
    with exit_on_user_error():
        commands = {name: stock_command(folder) for name, folder in pairs(args.model)}
        commands |= {name: [args.python, folder] for name, folder in pairs(args.bundle)}
        result = {}
        for count in args.cases:
            with TemporaryDirectory() as scratch:
                images = Path(scratch, "images")
                link_images(find_cases(args.i, args.ending), count, images, args.ending)
                result[count] = measure(commands, images, Path(scratch), args.runs)
            print(f"\n{count} cases\n\n{table(result[count], count)}", flush=True)
            args.o.write_text(json.dumps(result, indent=1))


def pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """``NAME=REST`` as (NAME, REST)."""
    return [(name, rest) for name, _, rest in (t.partition("=") for t in texts)]


def stock_command(folder: str) -> Command:
    """``nnUNetv2_predict`` of a model folder on the CPU."""
    path, folds = split_folds(folder, "--model")
    model = find_model(Path(path), folds)
    program = find_program("nnUNetv2_predict_from_modelfolder")
    return [program, "-m", str(model.folder), "-f", *map(str, model.folds), "-device", "cpu"]


def link_images(cases: Sequence[Case], count: int, folder: Path, ending: str) -> None:
    """``count`` cases, the given ones again and again."""
    folder.mkdir()
    for i in range(count):
        for channel, file in enumerate(cases[i % len(cases)].files):
            (folder / f"case{i:03d}_{channel:04d}{ending}").symlink_to(file.absolute())


def measure(commands: dict[str, Command], images: Path, scratch: Path, runs: int) -> dict[str, list[dict[str, float]]]:
    """Seconds, processor seconds and peak memory in MB of every command in every run."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for run in range(runs):
        for name, command in commands.items():
            output = scratch / f"{name}_{run}"
            use = run_sampled([*command, "-i", str(images), "-o", str(output)], scratch / "log")
            processor = use.cpu_time_percent_s / 100 * (psutil.cpu_count() or 1)
            found[name].append({"seconds": use.seconds, "processor_seconds": processor, "peak_mb": use.peak_rss_mb})
    return found


def table(found: dict[str, list[dict[str, float]]], cases: int) -> str:
    """Medians, and medians of the ratios to each model that stock nnU-Net predicts."""
    names = list(found)
    lines = [
        "| | s | s per case | processor s | peak MB | "
        + " | ".join(f"{n} / this (s; processor s)" for n in names[:2])
        + " |",
        "|---|---|---|---|---|" + "---|" * len(names[:2]),
    ]
    for name, runs in found.items():
        median = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        ratios = [
            "; ".join(
                f"{statistics.median(a[key] / b[key] for a, b in zip(found[other], runs, strict=True)):.1f}"
                for key in ("seconds", "processor_seconds")
            )
            for other in names[:2]
        ]
        cells = [f"{median['seconds']:.2f}", f"{median['seconds'] / cases:.2f}"]
        cells += [f"{median['processor_seconds']:.2f}", f"{median['peak_mb']:.0f}", *ratios]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
