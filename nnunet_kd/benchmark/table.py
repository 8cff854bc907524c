"""A benchmark as Markdown that also reads well in a terminal: ratios first, then the figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes:
        name: with the unit.
        values: finds a model's values: one for each case or run, a single one of a count, None where there are none.
        has_ratio: whether it is in the table of ratios.
    """

    name: str
    values: Callable[[Mapping[str, Any]], Sequence[float] | None]
    has_ratio: bool = True


def _measured(name: str, key: str) -> Row:
    return Row(name, lambda model: model[key])


def _counted(name: str, key: str, unit: float = 1, has_ratio: bool = True) -> Row:
    return Row(name, lambda model: None if model["cost"][key] is None else [model["cost"][key] / unit], has_ratio)


NETWORK = "network, s per case"
PREDICT = "nnUNetv2_predict, s per case"
DEVICE_ROWS = (
    _measured("peak GPU memory, MB", "peak_device_mb"),
    _measured("GPU memory x time, MB s per case", "device_memory_time_mb_s"),
)
COMMAND_ROWS = (
    _measured(PREDICT, "predict_seconds_per_case"),
    *DEVICE_ROWS,
    _measured("peak resident memory, MB", "peak_rss_mb"),
    _measured("CPU utilisation x time, % s per case", "cpu_time_percent_s"),
)
ROWS = (
    _measured(NETWORK, "network_seconds"),
    *COMMAND_ROWS,
    _counted("parameters", "parameters"),
    _counted("GFLOPs per patch", "flops_per_patch", 1e9),
    _counted("GMACs per patch", "macs_per_patch", 1e9, has_ratio=False),  # it is that of the FLOPs
    _counted("passes per case", "passes_per_case"),
    _counted("GFLOPs per case", "flops_per_case", 1e9),
    _counted("GMACs per case", "macs_per_case", 1e9, has_ratio=False),
)
NOTES = """\
Median (smallest to largest); network: over the cases, each the median of its runs; the others: over the runs.
nnUNetv2_predict: the whole command with its start-up. GPU memory: above what was in use before. Resident memory: of all
processes together. CPU: 100 % is all logical CPUs. MB: 10^6 bytes.
Not counted: a warm-up, {warm_up}.
Counted, not timed: FLOPs of convolutions and matrix products, 2 per multiply-add (MAC); per case: the median image of
the models' data set; passes: windows x mirrors x networks.
Several model folders predict one after another; averaging their predictions is not part of any figure."""


def format_benchmark(benchmark: Mapping[str, Any]) -> str:
    """Title, ratios to the reference, figures and what they mean.

    Args:
        benchmark: the content of ``benchmark.json``.
    """
    reference, models = benchmark["reference"], benchmark["models"]
    others = [name for name in models if name != reference]
    title = (
        f"Cost at prediction: {_number_of(benchmark['cases'], 'case')}, {_number_of(benchmark['runs'], 'run')}, "
        f"device {benchmark['device']}\n({benchmark['machine']}; "
        f"{', '.join(f'{k} {v}' for k, v in benchmark['versions'].items())})"
    )
    parts = [title]
    no_gpu = benchmark["no_device_memory"]
    if others:
        rows = [[f"{reference} / model", *others]]
        shown = [r for r in ROWS if r.has_ratio]
        rows += [[r.name, *(_ratio(r, models[reference], models[name], no_gpu) for name in others)] for r in shown]
        parts.append(_markdown(rows))
    rows = [["", *models]]
    rows += [[r.name, *(_figure(r, model, no_gpu) for model in models.values())] for r in ROWS]
    return "\n\n".join([*parts, _markdown(rows), NOTES.format(warm_up=benchmark["warm_up"])])


def _number_of(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _ratio(row: Row, reference: Mapping[str, Any], model: Mapping[str, Any], no_gpu: str) -> str:
    """How many times less the model needs, pair by pair: the same case, or the same run."""
    a, b = row.values(reference), row.values(model)
    if a is None or b is None:
        return _missing(row, no_gpu)
    if not all(b):
        return "-"
    return _spread([x / y for x, y in zip(a, b, strict=True)], "x")


def _figure(row: Row, model: Mapping[str, Any], no_gpu: str) -> str:
    values = row.values(model)
    return _missing(row, no_gpu) if values is None else _spread(values)


def _missing(row: Row, no_gpu: str) -> str:
    if row in DEVICE_ROWS:
        return f"not measured: {no_gpu}"
    return "not measured" if row in COMMAND_ROWS else "differs between folders"


def _spread(values: Sequence[float], unit: str = "") -> str:
    middle = median(values)
    whole = all(v == int(v) for v in values)
    decimals = 0 if whole or middle >= 1000 else 1 if middle >= 10 else 3
    text = f"{middle:,.{decimals}f}{unit}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{decimals}f} to {max(values):,.{decimals}f})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    lines.insert(1, "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|")
    return "\n".join(lines)
