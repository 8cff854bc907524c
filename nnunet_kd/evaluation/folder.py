"""All metrics of a folder of predictions, in the form of nnU-Net's ``summary.json``."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_kd import __version__
from nnunet_kd.evaluation.cases import CaseResult, evaluate_case, in_parallel
from nnunet_kd.evaluation.metrics import EMPTY_RULE_OF, EMPTY_RULES, ONE_EMPTY, MetricSettings
from nnunet_kd.evaluation.segmentations import LabelDefinition, find_reader
from nnunet_kd.evaluation.table import by_metric, distance_unit, nan_mean
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import list_folder, saves_csv, saves_json, write_together
from nnunet_kd.utilities.summaries import METRICS, OWN_KEY, Summary

LISTED = 10


def evaluate_folder(
    predictions: Path,
    references: Path,
    dataset_json: Path,
    settings: MetricSettings,
    processes: int,
    chill: bool = False,
) -> dict[str, Any]:
    """Compares every prediction with the reference of the same name.

    Args:
        predictions: folder of segmentations.
        references: folder of reference segmentations.
        dataset_json: names labels, regions, ignore label and file ending.
        settings: tolerances and rule for empty masks.
        processes: how many cases at a time, each in a process of its own; 1: in this process.
        chill: references without a prediction are left out, as with nnU-Net's ``--chill``.

    Returns:
        The content of nnU-Net's ``summary.json`` with more metrics (``foreground_mean``, ``mean`` by label key,
        ``metric_per_case``), and under ``"nnunet_kd"`` label names, tolerances, rules and versions.

    Raises:
        UserError: names every file that is missing, superfluous, unreadable or in another place than its reference.
    """
    definition = LabelDefinition.load(dataset_json)
    label_names = [label.name for label in definition.labels]
    if unnamed := sorted(set(settings.nsd_tolerance_mm) - set(label_names)):
        raise UserError(f"NSD tolerance of {_listed(unnamed)}: {dataset_json} has only {', '.join(label_names)}.")
    names = _common_names(predictions, references, definition.file_ending, chill)
    reader = find_reader(definition, [references / name for name in names])
    pairs = [(predictions / name, references / name) for name in names]
    evaluate = partial(evaluate_case, reader=reader, definition=definition, settings=settings)
    results: dict[str, CaseResult] = {}
    problems: dict[str, str] = {}
    for name, result in tqdm(in_parallel(evaluate, pairs, processes), total=len(pairs), desc="evaluate", unit="case"):
        if isinstance(result, str):
            problems[name] = result
        else:
            results[name] = result
    if problems:
        raise UserError(
            f"{len(problems)} of {len(pairs)} cases cannot be evaluated: "
            f"{_listed(problems[n] for n in sorted(problems))}; mend or remove these files."
        )
    pixels = [name for name in names if not results[name].physical]
    if 0 < len(pixels) < len(names):
        raise UserError(
            f"{references}: {_listed(pixels)} have no physical spacing, the other files have; distances in pixels and "
            "in mm have no common mean."
        )
    rows: list[dict[str, Any]] = [
        {
            "metrics": results[name].metrics,
            "prediction_file": str((predictions / name).absolute()),
            "reference_file": str((references / name).absolute()),
        }
        for name in names
    ]
    mean = {label.key: _means([row["metrics"][label.key] for row in rows]) for label in definition.labels}
    unknown = {file: found for name in names for file, found in results[name].unknown.items()}
    return {
        # as nnU-Net: labels without any value make it NaN
        "foreground_mean": {m: float(np.mean([v[m] for v in mean.values()])) for m in next(iter(mean.values()))},
        "mean": mean,
        OWN_KEY: _describe(definition, settings, dataset_json, not pixels) | {"labels_not_in_dataset_json": unknown},
        "metric_per_case": rows,
    }


def write_evaluation(summary: Mapping[str, Any], folder: Path) -> None:
    """Writes ``summary.json`` and ``metrics.csv`` (one row per case and label) into a folder, which may be new.

    Raises:
        UserError: when they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"{folder}: this folder cannot be made ({err.strerror}).") from err
    read = Summary.of(summary)
    table = by_metric(read.table).reset_index()
    table["nsd_tolerance_mm"] = [read.settings["nsd_tolerance_mm"][label] for label in table["label"]]
    # not "nan", which programs that read CSV take for a missing value
    table["empty_masks"] = EMPTY_RULE_OF[read.settings["empty_masks"]]
    table["distance_unit"] = distance_unit(read.settings)
    files = {
        "metrics.csv": saves_csv((list(table), *table.itertuples(index=False))),
        "summary.json": saves_json(summary),
    }
    write_together({folder / name: save for name, save in files.items()})


def _common_names(predictions: Path, references: Path, ending: str, chill: bool) -> list[str]:
    found = []
    for flag, folder in (("-i", predictions), ("-r", references)):
        if not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such folder.")
        files = [p for p in list_folder(folder) if p.name.endswith(ending)]
        if bad := [p for p in files if not p.is_file()]:
            raise UserError(f"{flag} {bad[0]}: is a folder or a link to nothing.")
        found.append({p.name for p in files})
        if not files:
            raise UserError(f"{flag} {folder}: holds no {ending} file (the file_ending of dataset.json).")
    there, wanted = found
    problems = []
    if extra := sorted(there - wanted):
        problems.append(f"{references} has no reference for {_listed(extra)}")
    if missing := [] if chill else sorted(wanted - there):
        problems.append(f"{predictions} has no prediction for {_listed(missing)} (--chill leaves such cases out)")
    if problems:
        raise UserError(f"{'; '.join(problems)}.")
    return sorted(there)


def _listed(sentences: Iterable[str]) -> str:
    items = list(sentences)
    rest = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return f"{', '.join(items[:LISTED])}{rest}"


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric over the cases where it is defined, as nnU-Net."""
    return {metric: float(nan_mean(np.array([row[metric] for row in rows]), axis=0)) for metric in rows[0]}


def _describe(
    definition: LabelDefinition, settings: MetricSettings, dataset_json: Path, physical: bool
) -> dict[str, Any]:
    return {
        "labels": {label.key: label.name for label in definition.labels},
        "ignore_label": definition.ignore_label,
        "distance_unit": "mm" if physical else "pixels",
        "nsd_tolerance_mm": {label.name: settings.tolerance_of(label.name, physical) for label in definition.labels},
        "empty_masks": settings.empty,
        "rules": [EMPTY_RULES[settings.empty], ONE_EMPTY],
        "metrics": list(METRICS),
        "dataset_json": str(dataset_json.absolute()),
        "versions": {"nnunet_kd": __version__} | {p: version(p) for p in ("nnunetv2", "numpy", "scipy")},
    }
