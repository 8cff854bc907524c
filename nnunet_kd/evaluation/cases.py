"""One case, and many of them in parallel.

Workers import this module: nothing here may import torch when it is loaded.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fastremap

from nnunet_kd.evaluation.metrics import MetricSettings, segmentation_metrics
from nnunet_kd.evaluation.segmentations import LabelDefinition, geometry_difference, read_segmentation
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class CaseResult:
    """One case.

    Attributes:
        metrics: by label key and metric.
        unknown: labels that ``dataset.json`` does not name, by file; they count as background.
        physical: whether distances are in mm, and not in pixels.
    """

    metrics: Mapping[str, Mapping[str, float]]
    unknown: Mapping[str, Sequence[int]]
    physical: bool


def evaluate_case(
    prediction_file: Path,
    reference_file: Path,
    reader: type,
    definition: LabelDefinition,
    settings: MetricSettings,
) -> CaseResult:
    """All metrics of one case.

    Raises:
        UserError: when a file cannot be read, or the two differ in geometry.
    """
    prediction, reference = (read_segmentation(file, reader) for file in (prediction_file, reference_file))
    if difference := geometry_difference(prediction, reference):
        raise UserError(f"{prediction_file} differs from its reference in {difference}")
    known = definition.known_values()
    unknown = {}
    for file, segmentation in ((prediction_file, prediction), (reference_file, reference)):
        if found := sorted(set(fastremap.unique(segmentation.values).tolist()) - known):
            unknown[str(file)] = found
    metrics = segmentation_metrics(
        prediction.values,
        reference.values,
        reference.spacing_mm,
        reference.voxel_ml,
        definition.labels,
        settings,
        definition.ignore_label,
        reference.physical,
    )
    return CaseResult(metrics, unknown, reference.physical)


def in_parallel(
    evaluate: Callable[[Path, Path], CaseResult], pairs: Sequence[tuple[Path, Path]], processes: int
) -> Iterator[tuple[str, CaseResult | str]]:
    """File name, and result or what is wrong, of every case, in the order in which they are finished."""

    def outcome(name: str, call: Callable[[], CaseResult]) -> tuple[str, CaseResult | str]:
        try:
            return name, call()
        except UserError as err:
            return name, str(err)

    if min(processes, len(pairs)) <= 1:
        for pair in pairs:
            yield outcome(pair[0].name, partial(evaluate, *pair))
        return
    context = multiprocessing.get_context("spawn")  # forking is not safe beside the threads of torch
    with ProcessPoolExecutor(min(processes, len(pairs)), mp_context=context) as pool:
        futures: dict[Future, str] = {pool.submit(evaluate, *pair): pair[0].name for pair in pairs}
        try:
            for future in as_completed(futures):
                yield outcome(futures[future], future.result)
        except BrokenProcessPool:
            raise UserError("a worker process was killed, perhaps for want of memory; use a smaller -np.") from None
