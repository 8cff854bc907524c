"""Goes through the cases of a method: calibration of its probabilities, and the pictures worth showing."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from nnunet_kd.report.calibration import Calibration, entropy, near_foreground, reliability
from nnunet_kd.report.layout import CaseView
from nnunet_kd.report.measurements import HIGHER_IS_BETTER
from nnunet_kd.report.methods import Method
from nnunet_kd.report.numbers import Numbers
from nnunet_kd.report.overlays import choose_cases
from nnunet_kd.report.volumes import Volumes
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class ShownCase:
    """A case that gets a picture.

    Attributes:
        method: the method's name.
        kind: ``worst``, ``median``, ``best`` or ``only``.
        case: its name.
        score: its value of the first metric, mean over classes.
        left_out: structures that the method misses or invents there and that have no value.
    """

    method: str
    kind: str
    case: str
    score: float
    left_out: int


def choose_shown(numbers: Numbers, method: str) -> list[ShownCase]:
    """Worst, median and best case of a method by the first metric; the more structures fail, the worse."""
    metric = numbers.shown[0]
    values, left_out = numbers.values(metric)[method].tolist(), numbers.left_out(metric)[method].tolist()
    chosen = choose_cases(values if HIGHER_IS_BETTER[metric] else [-v for v in values], left_out)
    return [ShownCase(method, kind, numbers.cases[i], values[i], left_out[i]) for kind, i in chosen]


def view_case(volumes: Volumes, method: Method, case: str) -> CaseView:
    """Loads one case of a method for display.

    Raises:
        UserError: when its files do not have the same shape.
    """
    reference, geometry = volumes.segmentation(volumes.references, case)
    prediction, _ = volumes.segmentation(method.folder, case)
    probabilities = volumes.probabilities(method.folder, case)
    unsure = None if probabilities is None else entropy(probabilities, volumes.label_manager.has_regions)
    image = volumes.image(case)
    named = {"prediction": prediction, "image": image, "probabilities": unsure}
    for what, array in named.items():
        if array is not None and array.shape != reference.shape:
            raise UserError(
                f"case {case}: the {what} of {method.name} has shape {array.shape}, the reference {reference.shape}; "
                "give files of the same geometry."
            )
    return CaseView(
        geometry.turn(reference),
        geometry.turn(prediction),
        None if image is None else geometry.turn(image),
        None if unsure is None else geometry.turn(unsure),
        geometry.displayed_spacing_mm,
        geometry.planes,
        volumes.definition.ignore_label,
    )


def calibrate(volumes: Volumes, method: Method, cases: Sequence[str]) -> Calibration | None:
    """Calibration of a method on those cases that have probabilities, or None where none has.

    Raises:
        UserError: when probabilities and reference do not have the same shape.
    """
    there = [c for c in cases if (method.folder / f"{c}.npz").is_file()]
    curves = {}
    for case in tqdm(there, desc=f"calibration of {method.name}", unit="case", disable=not there):
        reference, geometry = volumes.segmentation(volumes.references, case)
        probabilities = volumes.probabilities(method.folder, case)
        assert probabilities is not None, case
        if probabilities.shape[1:] != reference.shape:
            raise UserError(
                f"{method.folder / case}.npz: has shape {probabilities.shape[1:]}, the reference {reference.shape}; "
                "remove it or predict again."
            )
        use = near_foreground(reference, geometry.spacing_mm, volumes.definition.ignore_label)
        if use.any():
            curves[case] = reliability(
                probabilities, reference, volumes.channels, volumes.label_manager.has_regions, use
            )
    if not curves:
        return None
    first, *others = curves.values()
    return Calibration(method.name, sum(others, start=first), {c: curve.error for c, curve in curves.items()})
