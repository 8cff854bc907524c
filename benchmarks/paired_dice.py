"""Dice of several prediction folders on the same cases, and paired differences with a Wilcoxon signed-rank p-value.

    python benchmarks/paired_dice.py student=A/summary.json twin=B/summary.json --pairs student:twin

Each summary.json is what nnUNetv2_evaluate_folder writes. The difference is first minus second,
per case, in Dice points (1 point = 0.01).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import wilcoxon


def case_table(file: Path) -> dict[str, list[float]]:
    """Case -> Dice per foreground class."""
    cases = json.loads(file.read_text())["metric_per_case"]
    return {
        Path(c["prediction_file"]).name: [m["Dice"] for label, m in sorted(c["metrics"].items()) if label != "0"]
        for c in cases
    }


def main() -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", metavar="NAME=SUMMARY_JSON")
    parser.add_argument("--pairs", nargs="*", default=[], metavar="NAME:NAME")
    args = parser.parse_args()
    tables = {name: case_table(Path(file)) for name, _, file in (m.partition("=") for m in args.methods)}
    common = sorted(set.intersection(*(set(t) for t in tables.values())))
    dice = {name: np.array([t[c] for c in common]) for name, t in tables.items()}
    classes = next(iter(dice.values())).shape[1]
    print(f"{len(common)} cases\n")
    print(
        "| method | " + " | ".join(f"class {i + 1}" for i in range(classes)) + " | mean | sd over cases | lowest case |"
    )
    print("|---|" + "---|" * (classes + 3))
    for name, d in dice.items():
        mean = d.mean(1)
        cells = [*(f"{v:.4f}" for v in d.mean(0)), f"{mean.mean():.4f}", f"{mean.std(ddof=1):.4f}", f"{mean.min():.4f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.pairs:
        print("\n| pair | mean difference (points) | median | cases better | Wilcoxon p |")
        print("|---|---|---|---|---|")
    for pair in args.pairs:
        a, _, b = pair.partition(":")
        difference = 100 * (dice[a].mean(1) - dice[b].mean(1))
        p = wilcoxon(difference).pvalue
        better = f"{int((difference > 0).sum())} of {len(common)}"
        print(f"| {a} - {b} | {difference.mean():+.2f} | {np.median(difference):+.2f} | {better} | {p:.2g} |")


if __name__ == "__main__":
    main()
