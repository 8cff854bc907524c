"""What each method costs, from counted models and from a benchmark, and how many times less the student needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_kd.evaluation.statistics import bootstrap_interval
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file

COUNTED = ("networks", "parameters", "passes_per_case", "flops_per_case")
MEASURED = {  # key in benchmark.json -> field of Cost
    "network_seconds": "network_seconds",
    "network_seconds_of_runs": "network_seconds_of_runs",
    "predict_seconds_per_case": "predict_seconds",
    "peak_rss_mb": "memory_mb",
    "peak_device_mb": "device_mb",
    "cpu_time_percent_s": "cpu_time_percent_s",
    "device_memory_time_mb_s": "device_memory_time_mb_s",
}
MOST = 1e30  # more than anything that is counted


@dataclass(frozen=True)
class Cost:
    """Cost of one method; None or empty where it is not known.

    Attributes:
        method: its name.
        networks: folds that predict together.
        parameters: of all of them.
        passes_per_case: forward passes of a case: windows x mirrored versions x networks.
        flops_per_case: counted floating point operations of these passes, 2 per multiply-add.
        network_seconds: sliding-window prediction of each benchmarked case, median over runs.
        network_seconds_of_runs: the same of each run, median over cases; empty for benchmarks that did not keep it.
        predict_seconds: whole ``nnUNetv2_predict`` per case, one for each run.
        memory_mb: peak resident memory, one for each run.
        device_mb: peak memory on the device, one for each run.
        cpu_time_percent_s: area under the curve of CPU utilisation per case, one for each run.
        device_memory_time_mb_s: area under the curve of device memory per case, one for each run.
    """

    method: str
    networks: int | None = None
    parameters: int | None = None
    passes_per_case: float | None = None
    flops_per_case: float | None = None
    network_seconds: tuple[float, ...] = ()
    network_seconds_of_runs: tuple[float, ...] = ()
    predict_seconds: tuple[float, ...] = ()
    memory_mb: tuple[float, ...] = ()
    device_mb: tuple[float, ...] = ()
    cpu_time_percent_s: tuple[float, ...] = ()
    device_memory_time_mb_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """How many times more the first of two methods needs than the second.

    Attributes:
        factor: geometric mean over cases.
        low: lower bound of its 95 % bootstrap interval; NaN where there are no repeated measurements.
        high: its upper bound.
        n: measurements of each.
    """

    factor: float
    low: float
    high: float
    n: int


def load_benchmark(file: Path, methods: Sequence[str]) -> dict[str, Any]:
    """Reads what ``nnUNetv2_kd benchmark`` wrote.

    Raises:
        UserError: when it is not a benchmark, none of its models is a method, or a value is no amount.
    """
    content = load_json_file(file)
    models = content.get("models")
    if not isinstance(models, dict) or not all(isinstance(m, dict) for m in models.values()):
        raise UserError(f"{file}: not a benchmark; make one with nnUNetv2_kd benchmark.")
    if not set(models) & set(methods):
        raise UserError(
            f"{file}: benchmarked {', '.join(models)}, but the methods are {', '.join(methods)}; use the same names."
        )
    if not isinstance(content.get("device", ""), str):
        raise UserError(f"{file}: device: found {content['device']!r}, expected text.")
    for key, value in content.items():
        if key != "models" and not _is_flat(value):
            raise UserError(f"{file}: {key}: expected no more than one level of lists or objects.")
    for name, model in models.items():
        _check_model(model, f"{file}: models.{name}")
    return content


def _check_model(model: Mapping[str, Any], where: str) -> None:
    """Refuses values of a benchmarked model that are no amounts."""
    for key in MEASURED:
        values = model.get(key)
        if values is not None and not (isinstance(values, list) and all(map(_is_amount, values))):
            raise UserError(f"{where}.{key}: found {values!r}, expected a list of numbers, 0 or more.")
    counts = model.get("cost") or {}
    if not isinstance(counts, Mapping):
        raise UserError(f"{where}.cost: found {counts!r}, expected an object.")
    for key in COUNTED:
        if counts.get(key) is not None and not _is_amount(counts[key]):
            raise UserError(f"{where}.cost.{key}: found {counts[key]!r}, expected a number, 0 or more.")


def _is_flat(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not any(isinstance(part, dict | list) for part in parts)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST


def collect_costs(
    methods: Sequence[str], counted: Mapping[str, Mapping[str, Any]], benchmark: Mapping[str, Any] | None
) -> dict[str, Cost]:
    """Costs of the methods of which anything is known.

    Args:
        methods: their names.
        counted: counted costs of models, by method.
        benchmark: content of ``benchmark.json`` with the counts of its own models, or None.
    """
    measured = (benchmark or {}).get("models", {})
    costs = {}
    for name in methods:
        model = measured.get(name, {})
        counts = counted.get(name) or model.get("cost") or {}
        if not counts and not model:
            continue
        amounts: dict[str, Any] = {key: counts.get(key) for key in COUNTED}
        amounts |= {field: tuple(map(float, model.get(key) or ())) for key, field in MEASURED.items()}
        costs[name] = Cost(name, **amounts)
    return costs


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """How many times more ``first`` is than ``second``: geometric mean of the paired ratios and its interval.

    Args:
        first: positive measurements, for example seconds of each case.
        second: of the same cases in the same order.

    Returns:
        None where there is nothing to compare.
    """
    if not len(first) or len(first) != len(second) or min(*first, *second) <= 0:
        return None
    logs = np.log(np.asarray(first, dtype=float)) - np.log(np.asarray(second, dtype=float))
    low, high = bootstrap_interval(logs)
    return Ratio(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)), len(logs))


def same_time(first: Cost, second: Cost) -> bool:
    """Whether two network times differ by no more than noise.

    With several runs of each: when their ranges overlap. Else: when the interval of their ratio over cases holds 1.
    """
    runs = first.network_seconds_of_runs, second.network_seconds_of_runs
    if min(map(len, runs)) > 1:
        return min(runs[0]) <= max(runs[1]) and min(runs[1]) <= max(runs[0])
    times = ratio(first.network_seconds, second.network_seconds)
    return times is not None and times.low <= 1 <= times.high


def pareto_front(
    cost: Sequence[float], quality: Sequence[float], tied: Callable[[int, int], bool] = lambda i, j: False
) -> list[int]:
    """Positions that no other one beats: none is as cheap or cheaper and as good or better, and differs in one.

    Args:
        cost: lower is better.
        quality: higher is better; points with NaN in either are left out.
        tied: whether the costs at two positions differ by no more than the noise of the measurement.

    Returns:
        positions by rising cost.
    """
    points = [i for i in range(len(cost)) if np.isfinite(cost[i]) and np.isfinite(quality[i])]

    def beaten(i: int) -> bool:
        return any(
            (cost[j] <= cost[i] or tied(i, j))
            and quality[j] >= quality[i]
            and (quality[j] > quality[i] or (cost[j] < cost[i] and not tied(i, j)))
            for j in points
        )

    return sorted((i for i in points if not beaten(i)), key=lambda i: cost[i])
