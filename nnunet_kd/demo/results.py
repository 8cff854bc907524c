"""The demo's table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_kd.demo.steps import MODELS, Model
from nnunet_kd.demo.synthetic import ORGANS
from nnunet_kd.utilities.files import load_json_file


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes:
        model: the model.
        organ_dice: mean Dice of each organ over the test cases.
        mean_dice: mean over organs, then cases.
        parameters: of all its networks together.
        passes: forward passes per sliding window: folds times mirrored versions.
        network_seconds: sliding-window prediction of one preprocessed case; median over cases.
    """

    model: Model
    organ_dice: dict[str, float]
    mean_dice: float
    parameters: int
    passes: int
    network_seconds: float


def read_results(folder: Path) -> list[Result]:
    """The table's rows, from what ``nnUNetv2_kd benchmark`` and ``report`` have written below the folder."""
    report = load_json_file(folder / "report" / "report.json")
    measured = load_json_file(folder / "benchmark" / "benchmark.json")["models"]
    dice = {(s["method"], s["label"]): s["mean"] for s in report["scores"] if s["metric"] == "Dice"}
    return [_result(model, dice, measured[model.key]) for model in MODELS]


def _result(model: Model, dice: Mapping[tuple[str, str], float], measured: Mapping[str, Any]) -> Result:
    ordered = sorted(measured["network_seconds"])
    return Result(
        model=model,
        organ_dice={organ: dice[model.key, organ] for organ in ORGANS},
        mean_dice=dice[model.key, "mean"],
        parameters=measured["cost"]["parameters"],
        passes=measured["cost"]["networks"] * measured["cost"]["mirrors"],
        network_seconds=ordered[len(ordered) // 2],
    )


def format_table(results: Sequence[Result], device: str) -> str:
    """The table, and what its columns mean."""
    rows = [("", *ORGANS, "mean", "parameters", "passes", "network s")]
    for r in results:
        dice = (*r.organ_dice.values(), r.mean_dice)
        numbers = f"{r.parameters:,}", str(r.passes), f"{r.network_seconds:.3f}"
        rows.append((r.model.name, *(f"{d:.3f}" for d in dice), *numbers))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(
        [
            f"Dice on the test cases, and cost per case ({device})",
            *lines,
            "passes: networks x mirrored versions per window; the student and its twin run without mirroring.",
            "network s: sliding windows of one preprocessed case, median, models in turn in one process.",
        ]
    )


def write_summary(
    folder: Path, device: str, seed: int, results: Sequence[Result], seconds: dict[str, float], total: float
) -> None:
    """Writes the table's numbers and the time of every step to ``summary.json``."""
    rows = {r.model.key: asdict(r) for r in results}
    summary = {"device": device, "seed": seed, "results": rows, "seconds_per_step": seconds, "seconds_in_all": total}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
