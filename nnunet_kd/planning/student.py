"""``--student`` as text and as a specification, and the architecture that it makes of a base network's."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nnunet_kd.networks.base import refuse_unknown
from nnunet_kd.networks.family import Family, families
from nnunet_kd.planning.scaling import BLOCKS, SCALABLE, fit_to_budget, remove_stages, scale_blocks, scale_width
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.nnunet_files import check_counts

FORMS = (
    "same, or a network and changes of it joined by commas: width=0.25, depth=-1, blocks=0.5, decoder=1, params=500k; "
    "networks: {names}; none: the base plans'"
)
CHANGES = {  # key of --student -> what its value looks like
    "width": r"\d*\.?\d+",
    "depth": r"-\d+",
    "blocks": r"\d*\.?\d+",
    "decoder": r"[1-9]\d*",
    "params": r"\d*\.?\d+[kKmM]?",
}


@dataclass(frozen=True)
class StudentSpec:
    """How a student differs from the network of the base plans.

    Attributes:
        family: another network; None: that of the base plans.
        width: factor on the channels of every stage.
        removed_stages: lowest-resolution stages that are left out.
        blocks: factor on the convolutions or blocks of every encoder stage.
        decoder_convolutions: of every level of nnU-Net's decoder; None: as in the base plans.
        max_parameters: budget that replaces ``width``; None for no budget.
    """

    family: str | None = None
    width: float = 1.0
    removed_stages: int = 0
    blocks: float = 1.0
    decoder_convolutions: int | None = None
    max_parameters: int | None = None


def parse_student(text: str) -> StudentSpec:
    """Reads ``same``, or a network's name and ``width=F``, ``depth=-N``, ``blocks=F``, ``decoder=N``,
    ``params=N[k|M]``, some of them, joined by commas.

    Raises:
        UserError: for anything else, and for ``width`` beside ``params``.
    """
    if text.strip() == "same":
        return StudentSpec()
    first, _, rest = text.partition(",")
    names = families()
    family = first.strip() if first.strip() in names else None
    values: dict[str, str] = {}
    for part in text.split(",") if family is None else filter(None, rest.split(",")):
        key, _, value = (p.strip() for p in part.partition("="))
        if key in values or not re.fullmatch(CHANGES.get(key, "(?!)"), value):
            raise UserError(
                f"--student {text}: cannot read {part.strip()!r}; expected {FORMS.format(names=', '.join(names))}."
            )
        values[key] = value
    if {"width", "params"} <= set(values):
        raise UserError(f"--student {text}: params chooses the width itself; give one of the two.")
    for key in ("width", "blocks"):
        if key in values and float(values[key]) <= 0:
            raise UserError(f"--student {text}: {key} must be greater than 0.")
    return StudentSpec(
        family=family,
        width=float(values.get("width", 1)),
        removed_stages=-int(values.get("depth", 0)),
        blocks=float(values.get("blocks", 1)),
        decoder_convolutions=int(values["decoder"]) if "decoder" in values else None,
        max_parameters=parse_number(values["params"]) if "params" in values else None,
    )


def join_params(student: str | None, params: str | None) -> str | None:
    """``--student`` with the budget of ``--params``.

    Raises:
        UserError: for a budget that is no number.
    """
    if params is None:
        return student
    parse_number(params)
    return f"params={params}" if student in (None, "same") else f"{student},params={params}"


def parse_number(text: str) -> int:
    """Reads ``350000``, ``500k`` or ``1.5M``.

    Raises:
        UserError: for anything else.
    """
    if not re.fullmatch(CHANGES["params"], text):
        raise UserError(f"--params {text}: expected a number such as 350000, 500k or 1.5M.")
    return round(float(text.rstrip("kKmM")) * {"k": 1e3, "m": 1e6}.get(text[-1].lower(), 1))


def format_student(spec: StudentSpec) -> str:
    """What :func:`parse_student` reads as ``spec``."""
    parts = [
        spec.family,
        f"width={spec.width:g}" if spec.width != 1 else None,
        f"depth={-spec.removed_stages}" if spec.removed_stages else None,
        f"blocks={spec.blocks:g}" if spec.blocks != 1 else None,
        f"decoder={spec.decoder_convolutions}" if spec.decoder_convolutions else None,
        f"params={spec.max_parameters}" if spec.max_parameters is not None else None,
    ]
    return ",".join(p for p in parts if p) or "same"


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads ``--student-arg KEY=VALUE``; VALUE is JSON, or else text.

    Raises:
        UserError: for one without ``=``.
    """
    result = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--student-arg {argument}: expected KEY=VALUE, for example dropout=0.2.")
        try:
            result[key] = json.loads(value)
        except (ValueError, RecursionError):
            result[key] = value
    return result


def student_architecture(
    architecture: Mapping[str, Any],
    spec: StudentSpec,
    count: Callable[[dict[str, Any]], int],
    where: str = "plans",
    arguments: Mapping[str, Any] | None = None,
    regions: bool = False,
) -> dict[str, Any]:
    """Architecture of the student: the network, then single arguments, fewer stages, blocks, channels.

    Args:
        architecture: ``architecture`` of a configuration: class name, arguments, arguments that are imported.
        spec: what to change; with nothing to change, any class is accepted.
        count: parameters of the network that an architecture describes; called for a budget only.
        where: file and configuration, for messages.
        arguments: arguments of the network's class that are set directly; what ``spec`` changes is changed after.
        regions: the data set's labels are regions.

    Raises:
        UserError: for a class that cannot be changed so, too few stages, or a budget that nothing fits into.
    """
    if spec == StudentSpec() and not arguments:
        return deepcopy(dict(architecture))
    family = families()[spec.family] if spec.family else None
    student = _with_arguments(family, architecture, arguments or {}, where, regions)
    check_counts(student["arch_kwargs"], where)
    if dataclasses.replace(spec, family=None) == StudentSpec():
        return student
    _check_changes(family, student["arch_kwargs"], spec, where)
    smaller = remove_stages(student, spec.removed_stages, where)
    smaller = scale_blocks(smaller, spec.blocks, spec.decoder_convolutions)
    check_counts(smaller["arch_kwargs"], where)
    if spec.max_parameters is not None:
        return fit_to_budget(smaller, spec.max_parameters, count, where)
    return scale_width(smaller, spec.width)


def _with_arguments(
    family: Family | None, base: Mapping[str, Any], arguments: Mapping[str, Any], where: str, regions: bool
) -> dict[str, Any]:
    """The family's network, or the base plans' where it can be scaled, with single arguments set."""
    if family is not None:
        student = family.architecture(base, where, regions)
        return student | {"arch_kwargs": family.network.set_arguments(student["arch_kwargs"], arguments, where)}
    name = base["network_class_name"]
    if name not in {f"{c.__module__}.{c.__name__}" for c in SCALABLE}:
        scalable = " and ".join(c.__name__ for c in SCALABLE)
        raise UserError(f"{where}: {name} cannot be scaled, only {scalable} can; use --student same.")
    student = deepcopy(dict(base))
    refuse_unknown(name.rpartition(".")[2], arguments, student["arch_kwargs"])
    student["arch_kwargs"] |= arguments
    return student


def possible_changes(family: Family | None, kwargs: Mapping[str, Any]) -> set[str]:
    """Keys of ``--student`` by which a network with these arguments can be changed; None: nnU-Net's own."""
    possible = {
        "width": "features_per_stage" in kwargs,
        "params": "features_per_stage" in kwargs,
        "depth": family is None or not family.fixed_stages,
        "blocks": bool(set(BLOCKS) & set(kwargs)),
        "decoder": "n_conv_per_stage_decoder" in kwargs,
    }
    return {change for change, is_possible in possible.items() if is_possible}


def _check_changes(family: Family | None, kwargs: Mapping[str, Any], spec: StudentSpec, where: str) -> None:
    asked = {part.partition("=")[0] for part in format_student(dataclasses.replace(spec, family=None)).split(",")}
    for change in CHANGES:
        if change in asked - possible_changes(family, kwargs):
            raise UserError(f"{where}: {spec.family} cannot be changed by {change}; leave that out.")
