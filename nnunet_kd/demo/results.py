"""What the demo measured: Dice by nnU-Net's own metrics, parameters, passes and times."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_kd.demo.steps import MODELS, Model
from nnunet_kd.demo.synthetic import DATASET_NAME, ORGANS

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

TIMED_CASES = 3


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes:
        model: the model.
        dice: Dice of every test case and organ: ``dice[case][organ]``.
        parameters: of all its networks together.
        passes: forward passes per sliding window: folds times mirrored versions.
        network_seconds: sliding-window prediction of one preprocessed case; median over cases.
        predict_seconds: wall time of ``nnUNetv2_predict`` per case, with its start-up.
    """

    model: Model
    dice: dict[str, dict[str, float]]
    parameters: int
    passes: int
    network_seconds: float
    predict_seconds: float

    def organ_dice(self, organ: str) -> float:
        """Mean Dice of an organ over the test cases."""
        return float(np.nanmean([d[organ] for d in self.dice.values()]))

    @property
    def mean_dice(self) -> float:
        """Mean over organs, as nnU-Net's ``foreground_mean``."""
        return float(np.mean([self.organ_dice(organ) for organ in ORGANS]))

    def case_dice(self, case: str) -> float:
        """Mean Dice over the organs of one case."""
        return float(np.nanmean(list(self.dice[case].values())))


def compare_models(folder: Path, device: str, predict_seconds: Sequence[float]) -> list[Result]:
    """Evaluates the predictions, loads the models and times them in turn in this process.

    Args:
        folder: the demo's folder.
        device: cpu, cuda or mps.
        predict_seconds: wall time of each model's ``nnUNetv2_predict``.
    """
    predictors = [_load(model, folder, device) for model in MODELS]
    network_seconds = _time_networks(predictors, sorted((_raw(folder) / "imagesTs").iterdir())[:TIMED_CASES])
    results = []
    for model, predictor, own, wall in zip(MODELS, predictors, network_seconds, predict_seconds, strict=True):
        dice = _evaluate(_raw(folder) / "labelsTs", folder / "predictions" / model.key)
        networks = len(predictor.list_of_parameters)
        mirrored = 2 ** len(predictor.allowed_mirroring_axes or ())
        parameters = networks * sum(p.numel() for p in predictor.network.parameters())
        results.append(Result(model, dice, parameters, networks * mirrored, own, wall / len(dice)))
    return results


def _raw(folder: Path) -> Path:
    return folder / "nnUNet_raw" / DATASET_NAME


def _evaluate(references: Path, predictions: Path) -> dict[str, dict[str, float]]:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    dice = {}
    for reference in sorted(references.glob("*.nii.gz")):
        prediction = predictions / reference.name
        metrics = compute_metrics(str(reference), str(prediction), SimpleITKIO(), list(ORGANS.values()))["metrics"]
        dice[reference.name.removesuffix(".nii.gz")] = {o: float(metrics[label]["Dice"]) for o, label in ORGANS.items()}
    return dice


def _load(model: Model, folder: Path, device: str) -> "nnUNetPredictor":
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with contextlib.redirect_stdout(None):
        predictor = nnUNetPredictor(
            perform_everything_on_device=device == "cuda",
            device=torch.device(device),
            allow_tqdm=False,
        )
        path = folder / "nnUNet_results" / DATASET_NAME / model.folder_name
        predictor.initialize_from_trained_model_folder(str(path), model.folds)
    return predictor


def _time_networks(predictors: Sequence["nnUNetPredictor"], images: Sequence[Path]) -> list[float]:
    """Median seconds per case; the models take turns, so that a busy machine slows all of them alike."""
    import torch

    first = predictors[0]
    preprocessor = first.configuration_manager.preprocessor_class(verbose=False)
    seconds: list[list[float]] = [[] for _ in predictors]
    for number, image in enumerate([images[0], *images]):
        data, *_ = preprocessor.run_case(
            [str(image)], None, first.plans_manager, first.configuration_manager, first.dataset_json
        )
        for own, predictor in zip(seconds, predictors, strict=True):
            start = time.perf_counter()
            predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
            if number > 0:  # the first run is a warm-up
                own.append(time.perf_counter() - start)
    return [float(np.median(own)) for own in seconds]


def format_table(results: Sequence[Result], device: str) -> str:
    """The table, and what its columns mean."""
    rows = [("", *ORGANS, "mean", "parameters", "passes", "network s", "predict s")]
    for r in results:
        dice = (*(r.organ_dice(organ) for organ in ORGANS), r.mean_dice)
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
            f"Dice on {len(results[0].dice)} test cases, and cost per case ({device})",
            *lines,
            "passes: networks x mirrored versions per window; the student and its twin run without mirroring.",
            "network s: sliding windows of one preprocessed case, median, models in turn in one process.",
            "predict s: wall time of nnUNetv2_predict per case, start-up included, which dominates on so few cases.",
        ]
    )


def write_summary(
    folder: Path, device: str, seed: int, results: Sequence[Result], seconds: dict[str, float], total: float
) -> None:
    """Writes all numbers to ``summary.json``."""
    rows = {
        r.model.key: asdict(r) | {"mean_dice": r.mean_dice, "organ_dice": {o: r.organ_dice(o) for o in ORGANS}}
        for r in results
    }
    summary = {"device": device, "seed": seed, "results": rows, "seconds_per_step": seconds, "seconds_in_all": total}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
