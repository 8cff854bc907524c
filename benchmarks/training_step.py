"""Time and memory of a training step: without teachers, with stored soft labels, with 0, 1, 3, 5 teachers in memory.

nnUNet_n_proc_DA=0 python benchmarks/training_step.py DATASET CONFIGURATION PLANS FOLD -n 40

All variants train the student of PLANS (role student). Times: loading with augmentation, and the step, alternated step
by step in one process. Memory: each variant alone in a process of its own; peak of resident memory on the CPU, of
allocated device memory on CUDA. Teachers in memory are those of PLANS, again from the first where there are fewer.
"""

import argparse
import contextlib
import copy
import io
import multiprocessing
import resource
import time
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_kd.config import KDConfig
from nnunet_kd.teachers.model import find_teachers
from nnunet_kd.utilities.environment import dataset_paths

NO_FEATURES = {"importance": {"weight": 0}, "region_affinity": {"weight": 0}}


def variants(plans: dict[str, Any], configuration: str, results, online: list[int]) -> dict[str, tuple[str, dict]]:
    """Name -> (trainer, changed ``"kd"`` block)."""
    kd = KDConfig.from_plans(plans)
    models = find_teachers(kd, plans["plans_name"], configuration, results)
    networks = [{"folder": str(m.folder), "folds": [f], "checkpoint": m.checkpoint} for m in models for f in m.folds]
    off = {"features": {**plans["kd"].get("features", {}), **NO_FEATURES}}
    result: dict[str, tuple[str, dict]] = {
        "no teacher": ("nnUNetTrainerKDTeacher", {}),
        "stored ensemble": ("nnUNetTrainerKDEnsemble", {}),
    }
    for n in online:
        teachers = {"teachers": [networks[i % len(networks)] for i in range(n)]}
        stored = {"multi_teacher": {"source": "stored", "weights": "inverse"}}
        if n <= len(networks):
            result[f"{n} stored, weighted"] = ("nnUNetTrainerKDMultiTeacher", {**teachers, **stored, **off})
        weighted = {"multi_teacher": {"weights": "inverse"}}
        result[f"{n} in memory, predictions"] = ("nnUNetTrainerKDMultiTeacher", {**teachers, **weighted, **off})
        if kd.features.active():
            result[f"{n} in memory, predictions and features"] = (
                "nnUNetTrainerKDMultiTeacher",
                {**teachers, **weighted},
            )
    return result


def start(args: argparse.Namespace, plans: dict[str, Any], trainer: str, changes: dict[str, Any]):
    """A trainer that is ready for its first step and writes no checkpoints."""
    plans = copy.deepcopy(plans) | {"continue_training": False}
    plans["kd"] |= changes
    dataset_json = load_json(str(dataset_paths(args.dataset).preprocessed / "dataset.json"))
    fold = args.fold if args.fold == "all" else int(args.fold)
    with contextlib.redirect_stdout(io.StringIO()):
        t = recursive_find_trainer_class_by_name(trainer)(
            plans, args.configuration, fold, dataset_json, torch.device(args.device)
        )
        t.disable_checkpointing = True
        t.on_train_start()
        t.on_train_epoch_start()
    return t


def step(trainer) -> tuple[float, float]:
    """Seconds of loading and of the step."""
    begin = time.perf_counter()
    batch = next(trainer.dataloader_train)
    loaded = time.perf_counter()
    trainer.train_step(batch)  # ends with copies to the CPU, which wait for the device
    return loaded - begin, time.perf_counter() - loaded


def peak_mb(args: argparse.Namespace, plans: dict[str, Any], variant: tuple[str, dict], queue) -> None:
    """Puts the peak memory in MB of a process that trains one variant for three steps."""
    torch.set_num_threads(args.threads)
    trainer = start(args, plans, *variant)
    for _ in range(3):
        step(trainer)
    if args.device == "cuda":
        queue.put(torch.cuda.max_memory_allocated() / 1e6)
    else:
        queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def main() -> None:
    """Prints one Markdown row for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "configuration", "plans", "fold"):
        parser.add_argument(name)
    parser.add_argument("-n", type=int, default=40, help="steps of each variant")
    parser.add_argument("--online", type=int, nargs="*", default=[1, 3, 5], help="numbers of teachers in memory")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--only", nargs="*", metavar="VARIANT", help="variants beside 'no teacher'; default: all")
    parser.add_argument("--no_memory", action="store_true", help="times only")
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    paths = dataset_paths(args.dataset)
    plans = load_json(str(paths.preprocessed / f"{args.plans}.json"))
    todo = variants(plans, args.configuration, paths.results, args.online)
    if args.only is not None:
        todo = {name: v for name, v in todo.items() if name in ("no teacher", *args.only)}

    memory: dict[str, float] = {}  # first: on Linux a new process begins with the peak of the one that made it
    context = multiprocessing.get_context("spawn")
    for name, v in todo.items() if not args.no_memory else ():
        queue = context.Queue()
        process = context.Process(target=peak_mb, args=(args, plans, v, queue))
        process.start()
        memory[name] = queue.get(timeout=600)
        process.join()

    trainers = {name: start(args, plans, *v) for name, v in todo.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for i in range(args.n + 3):
        for name, trainer in trainers.items():
            measured = step(trainer)
            if i >= 3:
                seconds[name].append(measured)
    trainers.clear()

    reference = np.array(seconds["no teacher"]).sum(1)
    print("| variant | loading, s | step, s | together / no teacher | peak memory, MB |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        v = np.array(values)
        load, alone = np.median(v, 0)
        ratio = v.sum(1).mean() / reference.mean()
        peak = f"{memory[name]:.0f}" if name in memory else ""
        print(f"| {name} | {load:.3f} | {alone:.3f} | {ratio:.2f} | {peak} |")
    print(f"\n{args.n} steps each, alternated; medians, ratio of means; {args.device}, {args.threads} threads")


if __name__ == "__main__":
    main()
