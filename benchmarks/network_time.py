"""Network seconds per case of an ensemble (mirrored) and of students, alternated case by case in one process.

    python benchmarks/network_time.py DATASET CONFIGURATION --teachers FOLDER:FOLD ... --students FOLDER:FOLD ...

Times ``predict_sliding_window_return_logits`` of nnU-Net's own predictor on preprocessed images: neither reading nor
resampling.
"""

import argparse
import itertools
import time

import numpy as np
import torch

from nnunet_kd.config import Ensemble, Teacher
from nnunet_kd.environment import dataset_paths, torch_device
from nnunet_kd.softlabels.ensemble import load_student
from nnunet_kd.teachers import find_teachers, load_predictor


def main() -> None:
    """Prints median seconds per case and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("--teachers", nargs="+", required=True)
    parser.add_argument("--students", nargs="+", required=True)
    parser.add_argument("-n", type=int, default=10, help="cases")
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()
    paths, device = dataset_paths(args.dataset), torch_device(args.device)

    def load(text: str):
        folder, _, fold = text.rpartition(":")
        fold_id = fold if fold == "all" else int(fold)
        model = find_teachers([Teacher(folder, (fold_id,))], paths.results, "")[0]
        return load_predictor(model, fold_id, Ensemble(), device)

    groups = {"ensemble": [load(t) for t in args.teachers]} | {s: [load(s)] for s in args.students}
    _, space = load_student(paths.preprocessed / "nnUNetPlans.json", args.configuration, None)
    cases = space.dataset.identifiers[: args.n + 1]
    seconds: dict[str, list[float]] = {name: [] for name in groups}
    for i, (case, name) in enumerate(itertools.product(cases, groups)):
        data = torch.from_numpy(np.asarray(space.dataset.load_case(case)[0][:], dtype=np.float32))
        start = time.perf_counter()
        for predictor in groups[name]:
            predictor.predict_sliding_window_return_logits(data)
        if i >= len(groups):  # the first case warms up
            seconds[name].append(time.perf_counter() - start)
    reference = np.array(seconds["ensemble"])
    for name, values in seconds.items():
        ratio = reference / np.array(values)
        print(
            f"{name}: median {np.median(values):.3f} s per case (range {min(values):.3f}-{max(values):.3f}), "
            f"ensemble / this {np.median(ratio):.1f} (range {ratio.min():.1f}-{ratio.max():.1f}), {len(values)} cases"
        )


if __name__ == "__main__":
    main()
