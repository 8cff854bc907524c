"""What the demo measured: network times before the report, and the table that is printed from the report's numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_kd.demo.steps import MODELS, Model, model_spec
from nnunet_kd.demo.synthetic import DATASET_NAME, ORGANS
from nnunet_kd.files import load_json_file, write_json

TIMED_CASES = 3


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
        predict_seconds: wall time of ``nnUNetv2_predict`` per case, with its start-up.
    """

    model: Model
    organ_dice: dict[str, float]
    mean_dice: float
    parameters: int
    passes: int
    network_seconds: float
    predict_seconds: float


def measure_costs(folder: Path, device: str, predict_seconds: Mapping[str, float]) -> None:
    """Counts parameters and passes, times the networks in turn in this process; writes ``benchmark.json``.

    The file has the form of ``nnUNetv2_kd benchmark``'s, with one run; only that command measures memory too.

    Args:
        folder: the demo's folder.
        device: cpu, cuda or mps.
        predict_seconds: wall time of each model's ``nnUNetv2_predict``, by its name.
    """
    import torch
    from tqdm import tqdm

    from nnunet_kd.evaluation.benchmark.competitors import Conditions, find_cases, find_competitors
    from nnunet_kd.evaluation.benchmark.network import time_networks
    from nnunet_kd.evaluation.efficiency import count_models, parse_model

    images = folder / "nnUNet_raw" / DATASET_NAME / "imagesTs"
    competitors = find_competitors([parse_model(model_spec(model, folder)) for model in MODELS])
    cases = find_cases(images, competitors[0].models[0], TIMED_CASES)
    number = len(find_cases(images, competitors[0].models[0], None))
    with tqdm(total=len(cases), desc="time the networks", unit="case") as bar:
        network_seconds = time_networks(competitors, Conditions(cases, 1, torch.device(device)), bar)
    models = {
        c.name: {
            "cost": asdict(count_models(c.name, c.models)),
            **network_seconds[c.name],
            "predict_seconds_per_case": [predict_seconds[c.name] / number],
        }
        for c in competitors
    }
    write_json(folder / "benchmark.json", {"device": device, "cases": len(cases), "runs": 1, "models": models})


def read_results(folder: Path) -> list[Result]:
    """The table's rows, from ``benchmark.json`` and the report."""
    report = load_json_file(folder / "report" / "report.json")
    measured = load_json_file(folder / "benchmark.json")["models"]
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
        predict_seconds=measured["predict_seconds_per_case"][0],
    )


def format_table(results: Sequence[Result], device: str) -> str:
    """The table, and what its columns mean."""
    rows = [("", *ORGANS, "mean", "parameters", "passes", "network s", "predict s")]
    for r in results:
        dice = (*r.organ_dice.values(), r.mean_dice)
        numbers = f"{r.parameters:,}", str(r.passes), f"{r.network_seconds:.3f}", f"{r.predict_seconds:.2f}"
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
            "predict s: wall time of nnUNetv2_predict per case, start-up included, which dominates on so few cases.",
        ]
    )


def write_summary(
    folder: Path, device: str, seed: int, results: Sequence[Result], seconds: dict[str, float], total: float
) -> None:
    """Writes the table's numbers and the time of every step to ``summary.json``."""
    rows = {r.model.key: asdict(r) for r in results}
    summary = {"device": device, "seed": seed, "results": rows, "seconds_per_step": seconds, "seconds_in_all": total}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
