"""What a report is asked to be, checked before anything is measured."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_kd.benchmark.model_spec import ModelSpec
from nnunet_kd.evaluation.metrics import MetricSettings
from nnunet_kd.evaluation.statistics import Significance
from nnunet_kd.report.measurements import HIGHER_IS_BETTER
from nnunet_kd.report.methods import Method, Roles
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import check_writable

PAGE, DATA = "report.html", "report.json"


@dataclass(frozen=True)
class Request:
    """What is to be reported.

    Attributes:
        methods: folders of predictions.
        roles: which of them is ensemble, student, twin.
        references: folder of the reference segmentations.
        dataset_json: labels and file ending.
        output: folder of the report.
        images: folder of the images, or None.
        models: trained models of methods.
        benchmark: file that ``nnUNetv2_kd benchmark`` wrote, or None.
        groups: CSV file that gives cases their group, or None.
        soft_labels: folder of a soft-label store, or None.
        shown: metrics that are tested and drawn.
        significance: how p-values are judged.
        settings: of the metrics.
        processes: for the metrics.
        title: of the page.
        overwrite: whether a previous report may be replaced.
        command: the command line.
    """

    methods: tuple[Method, ...]
    roles: Roles
    references: Path
    dataset_json: Path
    output: Path
    images: Path | None = None
    models: tuple[ModelSpec, ...] = ()
    benchmark: Path | None = None
    groups: Path | None = None
    soft_labels: Path | None = None
    shown: tuple[str, ...] = ("Dice", "HD95", "NSD")
    significance: Significance = field(default_factory=lambda: Significance("holm", 0.05))
    settings: MetricSettings = field(default_factory=MetricSettings)
    processes: int = 1
    title: str = "Distillation report"
    overwrite: bool = False
    command: tuple[str, ...] = ()


def read_groups(file: Path) -> dict[str, str]:
    """Group of each case from a CSV file with the columns ``case`` and ``group``.

    Raises:
        UserError: when the file cannot be read, or has other columns.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as f:
            rows = list(csv.DictReader(f))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UserError(f"--groups {file}: cannot be read ({err}).") from err
    if not rows or not {"case", "group"} <= set(rows[0]):
        raise UserError(f"--groups {file}: expected a CSV file whose first line is: case,group")
    return {row["case"]: row["group"] for row in rows if row["group"]}


def groups_of(cases: Sequence[str], groups: Mapping[str, str]) -> tuple[str, ...]:
    """Group of every case.

    Raises:
        UserError: when a case has none.
    """
    if missing := [c for c in cases if c not in groups]:
        raise UserError(f"--groups: gives no group to {', '.join(missing[:5])}; every case needs one.")
    return tuple(groups[c] for c in cases)


def check_inputs(request: Request) -> None:
    """Refuses folders that are not there and metrics that cannot be tested.

    Raises:
        UserError: names the flag.
    """
    folders = {"--reference": request.references, "--images": request.images}
    for flag, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such folder.")
    for metric in request.shown:
        if metric not in HIGHER_IS_BETTER:
            raise UserError(f"--metrics {metric}: expected some of {', '.join(HIGHER_IS_BETTER)}.")


def check_output(folder: Path, overwrite: bool) -> None:
    """Refuses a folder that is in use, unless it is a previous report's and may be replaced.

    Raises:
        UserError: says what is there and how to go on.
    """
    check_writable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / PAGE).is_file() or not (folder / DATA).is_file():
        raise UserError(f"-o {folder}: exists and is not a report's folder; choose another.")
    if not overwrite:
        raise UserError(f"-o {folder}: holds a report; choose another folder, or add --overwrite to replace it.")


def find_models(specs: Sequence[ModelSpec], names: Sequence[str]) -> dict[str, tuple[TeacherModel, ...]]:
    """Finished model folders of each method that names some.

    Raises:
        UserError: when a name is no method's, or there is no such model.
    """
    for spec in specs:
        if spec.name not in names:
            raise UserError(f"--model {spec.name}: no such method; the methods are {', '.join(names)}.")
    return {spec.name: spec.find() for spec in specs}
