"""Makes a report: checks what was asked, measures, draws, and puts the whole folder in place at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from nnunet_kd.evaluation.folder import evaluate_folder
from nnunet_kd.evaluation.segmentations import LabelDefinition
from nnunet_kd.evaluation.statistics import PairedComparison, compare_paired
from nnunet_kd.planning.cost import count_models
from nnunet_kd.report.calibration import Calibration
from nnunet_kd.report.cases import calibrate, choose_shown
from nnunet_kd.report.content import Report
from nnunet_kd.report.costs import Cost, collect_costs, load_benchmark, pareto_front, ratio, same_time
from nnunet_kd.report.files import write_report
from nnunet_kd.report.headline import make_headline
from nnunet_kd.report.measurements import long_table
from nnunet_kd.report.numbers import Numbers, compute_numbers
from nnunet_kd.report.plots import cost_points, draw_plots
from nnunet_kd.report.provenance import Provenance, describe_files, describe_model, describe_run
from nnunet_kd.report.remarks import make_remarks
from nnunet_kd.report.request import Request, check_inputs, check_output, find_models, groups_of, read_groups
from nnunet_kd.report.soft_labels import SoftLabelEntropy, soft_label_entropy
from nnunet_kd.report.volumes import Volumes
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import replace_folder, restore_replaced, temporary_folder
from nnunet_kd.utilities.summaries import Summary


def build_report(request: Request) -> Report:
    """Measures everything and writes the report's folder, whole or not at all.

    Raises:
        UserError: for whatever of the request cannot be had.
    """
    restore_replaced(request.output)
    check_output(request.output, request.overwrite)
    names = [m.name for m in request.methods]
    check_inputs(request)
    known_groups = None if request.groups is None else read_groups(request.groups)
    models = find_models(request.models, names)
    benchmark = None if request.benchmark is None else load_benchmark(request.benchmark, names)
    measured = (benchmark or {}).get("models", {})  # with the mirroring of the measurement
    counted = {name: asdict(count_models(name, found)) for name, found in models.items() if name not in measured}
    costs = collect_costs(names, counted, benchmark)

    unsure = None if request.soft_labels is None else soft_label_entropy(request.soft_labels)
    found = _evaluate(request)
    table = long_table(found)
    groups = None if known_groups is None else groups_of(table["case"].cat.categories, known_groups)
    settings = next(iter(found.values())).settings
    numbers = compute_numbers(table, request.roles, request.shown, request.significance, groups, settings)
    volumes = Volumes(LabelDefinition.load(request.dataset_json), request.references, request.images)
    calibrations = tuple(c for m in request.methods if (c := calibrate(volumes, m, numbers.cases)) is not None)
    shown = (choose_shown(numbers, name) for name in numbers.methods)
    references = len(list(request.references.glob(f"*{volumes.definition.file_ending}")))
    predicted = {name: len(summary.cases) for name, summary in found.items()}
    warnings, notes = make_remarks(numbers, models, predicted, references, request.significance)
    device = None if benchmark is None else benchmark.get("device")
    report = Report(
        title=request.title,
        headline=make_headline(numbers, costs, request.significance, device),
        warnings=warnings,
        notes=notes,
        numbers=numbers,
        significance=request.significance,
        benchmark={k: v for k, v in (benchmark or {}).items() if k != "models"},
        costs=costs,
        time_ratios=_time_ratios(costs, request.roles.reference),
        fronts=_fronts(costs, numbers),
        calibration=calibrations,
        calibration_tests=_compare_calibration(calibrations, request.roles.reference, numbers),
        shown=tuple(case for cases in shown for case in cases),
        soft_label_entropy={} if unsure is None else unsure.mean,
        provenance=_provenance(request, numbers, models, volumes.definition.file_ending),
    )
    try:
        _write(report, request, volumes, unsure)
    except OSError as err:
        raise UserError(f"-o {request.output}: cannot be written ({err.strerror or err}); choose another.") from err
    return report


def _write(report: Report, request: Request, volumes: Volumes, unsure: SoftLabelEntropy | None) -> None:
    """Makes the folder beside its place and moves it there when it is whole."""
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(request.output.parent, "report-") as temporary:
        folder = temporary / "report"
        (folder / "plots").mkdir(parents=True)
        plots = draw_plots(report, {m.name: m for m in request.methods}, volumes, unsure, folder / "plots")
        write_report(report, plots, folder)
        replace_folder(folder, request.output)


def _evaluate(request: Request) -> dict[str, Summary]:
    found = {}
    for method in request.methods:
        print(f"{method.name}: {method.folder}", flush=True)
        try:
            summary = evaluate_folder(
                method.folder, request.references, request.dataset_json, request.settings, request.processes, chill=True
            )
        except UserError as err:
            raise UserError(f"--method {method.name}: {err}") from err
        found[method.name] = Summary.of(summary)
    return found


def _time_ratios(costs: Mapping[str, Cost], reference: str) -> dict[str, Any]:
    if reference not in costs:
        return {}
    found = {n: ratio(costs[reference].network_seconds, c.network_seconds) for n, c in costs.items() if n != reference}
    return {name: value for name, value in found.items() if value is not None}


def _fronts(costs: Mapping[str, Cost], numbers: Numbers) -> dict[str, tuple[str, ...]]:
    standing = numbers.standing(numbers.shown[0])
    fronts = {}
    for kind, points in cost_points(costs).items():
        names = list(points)

        def tied(i: int, j: int, kind: str = kind, names: list[str] = names) -> bool:
            return kind == "network_seconds" and same_time(costs[names[i]], costs[names[j]])

        front = pareto_front(list(points.values()), [standing[name] for name in names], tied)
        fronts[kind] = tuple(names[i] for i in front)
    return fronts


def _compare_calibration(
    results: Sequence[Calibration], reference: str, numbers: Numbers
) -> dict[str, PairedComparison]:
    errors = pd.DataFrame({c.method: c.case_errors for c in results}, index=list(numbers.cases))
    others = [name for name in errors if name != reference] if reference in errors else []
    return {n: compare_paired(errors[n], errors[reference], numbers.groups, higher_is_better=False) for n in others}


def _provenance(
    request: Request, numbers: Numbers, models: Mapping[str, Sequence[TeacherModel]], ending: str
) -> Provenance:
    names = [f"{case}{ending}" for case in numbers.cases]
    return describe_run(
        request.command,
        describe_files(request.references, names),
        {m.name: describe_files(m.folder, names) for m in request.methods},
        [describe_model(name, model) for name, found in models.items() for model in found],
    )
