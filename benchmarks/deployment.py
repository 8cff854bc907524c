"""Whole processes against each other: ``nnUNetv2_predict`` of an ensemble and of a student, and bundles.

    python benchmarks/deployment.py -i IMAGES --cases 5 40 --runs 3 --like student -o deployment.json \\
        --model ensemble=MODELFOLDER:0,1,2 --model student=MODELFOLDER:all --fast "student, fast=MODELFOLDER:all" \\
        --bundle fp32=FOLDER --bundle int8=FOLDER

Every command predicts the same images; images are repeated under other names until there are enough. The commands take
turns, A B C A B C, and ratios are taken turn by turn, so that other work on the machine disturbs all of them alike.
Seconds: from the start of the process to its end. Processor seconds: of the process and all its children, whatever else
the machine does; of others: what the rest of the machine did meanwhile, next to nothing where it is idle. Memory: the
largest sum over the process and its children (proportional set size). Voxels that differ and Dice: from the labels of
the model that ``--like`` names, in the first turn.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from nnunet_kd.benchmark.measure import run_sampled
from nnunet_kd.export.agreement import compare
from nnunet_kd.export.runtime.folder import Case, find_cases
from nnunet_kd.planning.resampling import with_fast_resampling
from nnunet_kd.teachers.model import TeacherModel, find_model, split_folds
from nnunet_kd.utilities.errors import exit_on_user_error
from nnunet_kd.utilities.programs import find_program

Command = list[str]
Turns = list[dict[str, float]]  # of one command: what each of its turns took


def main() -> None:
    """Prints one table in Markdown for each number of cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", type=Path, required=True, help="images, CASE_0000.nii.gz")
    parser.add_argument("--ending", default=".nii.gz")
    parser.add_argument("--model", action="append", default=[], help="NAME=MODELFOLDER:FOLDS, by nnUNetv2_predict")
    parser.add_argument(
        "--fast", action="append", default=[], help="the same, with the fast resampling of probabilities in its plans"
    )
    parser.add_argument("--bundle", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--like", help="name of the model whose labels the others are compared with")
    parser.add_argument("--python", default=sys.executable, help="that runs the bundles")
    parser.add_argument("--cases", type=int, nargs="+", default=[5])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", type=Path, required=True, help="every single figure, JSON")
    args = parser.parse_args()
    with exit_on_user_error(), TemporaryDirectory() as scratch:
        models = {name: model_of(text) for name, text in pairs(args.model)}
        models |= {name: with_fast_plans(model_of(text), Path(scratch, name)) for name, text in pairs(args.fast)}
        if args.like is not None and args.like not in models:
            parser.error(f"--like {args.like}: no --model has this name")
        commands = {name: stock_command(model) for name, model in models.items()}
        commands |= {name: [args.python, folder] for name, folder in pairs(args.bundle)}
        result = {}
        for count in args.cases:
            folder = Path(scratch, str(count))
            link_images(find_cases(args.i, args.ending), count, folder / "images", args.ending)
            result[count] = measure(commands, folder, args.runs)
            if args.like is not None:
                add_agreement(result[count], models[args.like], args.like, folder, args.ending)
            print(f"\n{count} cases\n\n{table(result[count], list(models), count)}", flush=True)
            args.o.write_text(json.dumps(result, indent=1))


def pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """``NAME=REST`` as (NAME, REST)."""
    return [(name, rest) for name, _, rest in (t.partition("=") for t in texts)]


def model_of(text: str) -> TeacherModel:
    """``MODELFOLDER:FOLDS``."""
    path, folds = split_folds(text, "--model")
    return find_model(Path(path), folds)


def with_fast_plans(model: TeacherModel, parent: Path) -> TeacherModel:
    """A copy of a model folder whose plans name the fast resampling of probabilities."""
    folder = parent / model.folder.name
    shutil.copytree(model.folder, folder, ignore=shutil.ignore_patterns("validation*"))
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"] = {n: with_fast_resampling(c) for n, c in plans["configurations"].items()}
    (folder / "plans.json").write_text(json.dumps(plans))
    return dataclasses.replace(model, folder=folder)


def stock_command(model: TeacherModel) -> Command:
    """``nnUNetv2_predict`` of a model folder on the CPU."""
    program = find_program("nnUNetv2_predict_from_modelfolder")
    return [program, "-m", str(model.folder), "-f", *map(str, model.folds), "-device", "cpu"]


def link_images(cases: Sequence[Case], count: int, folder: Path, ending: str) -> None:
    """``count`` cases, the given ones again and again."""
    folder.mkdir(parents=True)
    for i in range(count):
        for channel, file in enumerate(cases[i % len(cases)].files):
            (folder / f"case{i:03d}_{channel:04d}{ending}").symlink_to(file.absolute())


def measure(commands: Mapping[str, Command], folder: Path, turns: int) -> dict[str, Turns]:
    """Seconds, processor seconds and peak memory in MB of every command in every turn.

    ``folder / "images"`` is predicted; the predictions go to ``folder / NAME / TURN``.
    """
    found: dict[str, Turns] = {name: [] for name in commands}
    for turn in range(turns):
        for name, command in commands.items():
            output = folder / name / str(turn)
            output.mkdir(parents=True)
            before = busy_seconds()
            use = run_sampled([*command, "-i", str(folder / "images"), "-o", str(output)], folder / "log")
            busy = busy_seconds() - before
            processor = use.cpu_time_percent_s / 100 * (psutil.cpu_count() or 1)
            found[name].append(
                {
                    "seconds": use.seconds,
                    "processor_seconds": processor,
                    "others_processor_seconds": max(0.0, busy - processor),
                    "peak_mb": use.peak_rss_mb,
                }
            )
    return found


def busy_seconds() -> float:
    """What all processors of the machine have worked since its start, this process included."""
    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))


def add_agreement(found: dict[str, Turns], model: TeacherModel, like: str, folder: Path, ending: str) -> None:
    """Share of voxels that differ from the labels of the model ``like``, and the mean Dice with them."""
    cases = [case.name for case in find_cases(folder / "images", ending)]
    for name in found:
        agreement = compare(model, folder / like / "0", folder / name / "0", cases)
        found[name][0] |= {"differing": agreement.differing, "dice": agreement.mean_dice or 0.0}


def table(found: Mapping[str, Turns], stock: Sequence[str], cases: int) -> str:
    """Medians, and medians of the ratios to each model that stock nnU-Net predicts."""
    compared = "differing" in next(iter(found.values()))[0]
    heads = ["", "s", "s a case", "processor s", "of others", "peak MB"]
    heads += ["voxels that differ", "Dice"] if compared else []
    heads += [f"{name} / this (s; processor s)" for name in stock]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, turns in found.items():
        median = {key: statistics.median(t[key] for t in turns) for key in turns[-1]}
        cells = [f"{median['seconds']:.2f}", f"{median['seconds'] / cases:.2f}", f"{median['processor_seconds']:.2f}"]
        cells += [f"{median['others_processor_seconds']:.2f}", f"{median['peak_mb']:.0f}"]
        cells += [f"{turns[0]['differing']:.1e}", f"{turns[0]['dice']:.5f}"] if compared else []
        cells += [f"{ratio(found[n], turns, 'seconds')}; {ratio(found[n], turns, 'processor_seconds')}" for n in stock]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(one: Turns, other: Turns, key: str) -> str:
    """The median of the ratios, turn by turn."""
    return f"{statistics.median(a[key] / b[key] for a, b in zip(one, other, strict=True)):.1f}"


if __name__ == "__main__":
    main()
