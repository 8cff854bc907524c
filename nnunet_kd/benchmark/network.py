"""Seconds that the networks alone take for a preprocessed case: neither start-up, nor files, nor resampling."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from nnunet_kd.benchmark.candidates import Candidate, Conditions
from nnunet_kd.config import Ensemble
from nnunet_kd.data.read_images import preprocess_case
from nnunet_kd.teachers.loading import load_predictor
from nnunet_kd.teachers.model import TeacherModel


def rotated(candidates: Sequence[Candidate], run: int) -> list[Candidate]:
    """All candidates, another one first in each run: a machine that gets busier does so for all of them."""
    first = run % len(candidates)
    return [*candidates[first:], *candidates[:first]]


def time_networks(
    candidates: Sequence[Candidate], conditions: Conditions, bar: tqdm
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each model until the logits are in main memory, as ``benchmark.json`` has them.

    nnU-Net's own predictor slides over the preprocessed image, with windows, weighting and mirroring as
    ``nnUNetv2_predict`` has them; the folds of a folder, and the folders of a model, one after another. Averaging them
    is not part of it.

    Args:
        candidates: all loaded at once; they predict each case one after another, the first case once more as warm-up.
        conditions: cases, runs and device.
        bar: advanced by one for each case.

    Returns:
        of each model ``network_seconds``, of each case the median over the runs, and ``network_seconds_of_runs``, of
        each run the median over the cases: their spread is the noise of the machine.

    Raises:
        UserError: when a checkpoint does not fit its plans.
    """
    predictors = {c.name: [_load(m, c.mirroring, conditions.device) for m in c.models] for c in candidates}
    seconds: dict[str, list[list[float]]] = {c.name: [] for c in candidates}
    with _threads_of_nnunet(conditions.device):
        for number, files in enumerate(conditions.cases.values()):
            inputs = {c.name: [_preprocess(m, files) for m in c.models] for c in candidates}
            for of_cases in seconds.values():
                of_cases.append([])
            warm_ups = 1 if number == 0 else 0
            for run in range(conditions.runs + warm_ups):
                for c in rotated(candidates, run):
                    taken = _time(predictors[c.name], inputs[c.name])
                    if run >= warm_ups:
                        seconds[c.name][-1].append(taken)
            bar.update()
    return {name: _medians(np.array(values)) for name, values in seconds.items()}


def _medians(seconds: np.ndarray) -> dict[str, list[float]]:
    """Medians over runs and over cases of seconds of shape (cases, runs)."""
    return {
        "network_seconds": np.median(seconds, axis=1).tolist(),
        "network_seconds_of_runs": np.median(seconds, axis=0).tolist(),
    }


def _load(model: TeacherModel, mirroring: bool, device: torch.device) -> list[nnUNetPredictor]:
    return [load_predictor(model, fold, Ensemble(mirroring=mirroring), device) for fold in model.folds]


def _preprocess(model: TeacherModel, files: Sequence[Path]) -> torch.Tensor:
    with contextlib.redirect_stdout(None):
        data, _ = preprocess_case(model.plans_manager, model.configuration_manager, model.dataset_json, files)
    return torch.from_numpy(data)


@contextlib.contextmanager
def _threads_of_nnunet(device: torch.device) -> Iterator[None]:
    """As many torch threads as ``nnUNetv2_predict`` 2.8.1 uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cuda" else min(default_num_processes, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _time(predictors: Sequence[Sequence[nnUNetPredictor]], inputs: Sequence[torch.Tensor]) -> float:
    start = time.perf_counter()
    for folds, data in zip(predictors, inputs, strict=True):
        for predictor in folds:
            predictor.predict_sliding_window_return_logits(data).cpu()  # waits for the GPU
    return time.perf_counter() - start
