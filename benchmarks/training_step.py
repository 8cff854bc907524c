"""Seconds of a training step (loading, augmentation, optimizer step) with and without stored soft labels, alternated.

nnUNet_n_proc_DA=0 python benchmarks/training_step.py DATASET CONFIGURATION STUDENT_PLANS TWIN_PLANS FOLD -n 60
"""

import argparse
import time

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args


def main() -> None:
    """Prints medians and the ratio; the ratio is taken step by step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "configuration", "student_plans", "twin_plans", "fold"):
        parser.add_argument(name)
    parser.add_argument("-n", type=int, default=60, help="steps of each")
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()
    fold = args.fold if args.fold == "all" else int(args.fold)
    trainers = {}
    for trainer, plans in (
        ("nnUNetTrainerKDEnsemble", args.student_plans),
        ("nnUNetTrainerKDTeacher", args.twin_plans),
    ):
        t = get_trainer_from_args(
            args.dataset, args.configuration, fold, trainer, plans, device=torch.device(args.device)
        )
        t.disable_checkpointing = True
        t.on_train_start()
        t.on_train_epoch_start()
        trainers[trainer] = t
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for i in range(args.n + 5):
        for name, t in trainers.items():
            start = time.perf_counter()
            batch = next(t.dataloader_train)
            loaded = time.perf_counter()
            t.train_step(batch)
            if i >= 5:
                seconds[name].append((loaded - start, time.perf_counter() - loaded))
    sums = {name: np.array(v) for name, v in seconds.items()}
    for name, v in sums.items():
        load, step = v.mean(0)
        print(f"{name}: loading {load:.4f} s, step {step:.4f} s, together {load + step:.4f} s (means)")
    a, b = sums.values()
    print(f"with / without soft labels: {a.sum() / b.sum():.3f} of the means, {args.n} steps each, alternated")


if __name__ == "__main__":
    main()
