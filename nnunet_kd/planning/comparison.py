"""The table that ``nnUNetv2_kd plan`` prints: what teachers and student cost at prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from nnunet_kd.config import KDConfig
from nnunet_kd.planning.cost import ModelCost, count_models, measure
from nnunet_kd.planning.draft import Draft
from nnunet_kd.planning.network import PlannedModel

_HEADER = ("network", "parameters", "GFLOPs/patch", "windows", "passes", "passes mirrored", "GFLOPs/image")
LEGEND = """\
GFLOPs: convolutions and matrix products, 2 per multiply-add, plans' patch, batch size 1, deep supervision off.
windows: of the median image at step size 0.5; passes: windows x folds, mirrored also x 2 per image axis of the patch
over which a network may be mirrored.
GFLOPs/image: {use}.
FLOPs are counted, not timed: their ratio is not a measured speed-up."""
_WORDS = {True: "mirrored", False: "not mirrored"}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        cost: with all the mirroring that the network allows.
        mirrored: whether it is used so.
    """

    cost: ModelCost
    mirrored: bool

    @property
    def sums(self) -> tuple[int, int, int, int]:
        """Parameters, passes without and with mirroring, FLOPs of an image as the network is used."""
        cost, mirrors = self.cost, cast(int, self.cost.mirrors)
        flops = cost.flops_per_case // (1 if self.mirrored else mirrors)
        return cost.parameters, cost.passes_per_case // mirrors, cost.passes_per_case, flops

    @property
    def one(self) -> tuple[int, int]:
        """FLOPs of a patch and windows of an image, known for a single model folder."""
        return cast(int, self.cost.flops_per_patch), cast(int, self.cost.windows)


def compare(draft: Draft, plans: dict[str, Any]) -> tuple[str, list[str]]:
    """One table for each configuration, and the configurations whose default teacher is not trained yet.

    Args:
        draft: names the teachers.
        plans: what was made of it.

    Raises:
        UserError: when a teacher's checkpoint, which says whether it may be mirrored, cannot be read.
    """
    config = draft.config
    is_student = config.role == "student"
    parts, missing = [], []
    allowed: set[bool] = set()
    for base, new in zip(draft.models(draft.base, draft.order), draft.models(plans, draft.order), strict=True):
        teachers = draft.teachers(base.configuration) if is_student else ()
        costs = [count_models(t.folder.name, [t]) for t in teachers]
        if not costs:
            missing.append(base.configuration)
            costs = [_measure(base, f"{base.plans.plans_name} {base.configuration}")]
        allowed |= {cost.mirrors != 1 for cost in costs}
        rows = [Row(cost, config.ensemble.mirroring or not is_student) for cost in costs]
        row = Row(_measure(new, f"{new.plans.plans_name} ({config.role})"), config.mirrors_at_prediction(is_student))
        table = format_table(rows, row, "teachers / student" if is_student else "base / teacher")
        parts.append(f"\n{base.configuration}\n{table}")
    return "\n".join([*parts, "", LEGEND.format(use=_use(config, allowed))]), missing


def _use(config: KDConfig, allowed: set[bool]) -> str:
    new = _WORDS[config.mirrors_at_prediction(config.role == "student")]
    if config.role == "teacher":
        return f"base mirrored, teacher {new}"
    if config.ensemble.mirroring and False in allowed:
        some = "mirrored where checkpoints allow it" if True in allowed else "not mirrored: no checkpoint allows it"
        return f"teachers {some}; student {new}"
    return f"teachers {_WORDS[config.ensemble.mirroring]}, student {new}"


def _measure(model: PlannedModel, name: str) -> ModelCost:
    return measure(model, name, mirrored_axes=len(model.patch))


def format_table(references: Sequence[Row], new: Row, ratio: str) -> str:
    """Teachers, their sum where there are several, the student, and their ratio, as aligned text.

    Args:
        references: teachers, or the network of the base plans.
        new: network of the KD plans.
        ratio: name of the last row.
    """
    rows: list[tuple[str, ...]] = [_HEADER, *(_cells(r) for r in (*references, new))]
    total = [sum(v) for v in zip(*(r.sums for r in references), strict=True)]
    ratios = [_times(a / b) for a, b in zip(total, new.sums, strict=True)]
    one_network = ["", ""]
    if len(references) > 1:
        rows.insert(-1, ("all teachers", f"{total[0]:,}", "", "", f"{total[1]:,}", f"{total[2]:,}", _giga(total[3])))
    else:
        one_network = [_times(a / b) for a, b in zip(references[0].one, new.one, strict=True)]
    rows.append((ratio, ratios[0], *one_network, *ratios[1:]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])] for r in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _times(ratio: float) -> str:
    """``12.3x``; below 1 with two digits that count, as in ``0.021x``."""
    return f"{ratio:,.1f}x" if ratio >= 0.95 else f"{ratio:.2g}x"


def _cells(row: Row) -> tuple[str, ...]:
    c, (flops, windows), (parameters, passes, mirrored, total) = row.cost, row.one, row.sums
    name = f"{c.name} x {c.networks} folds" if c.networks > 1 else c.name
    return name, f"{parameters:,}", _giga(flops), f"{windows:,}", f"{passes:,}", f"{mirrored:,}", _giga(total)


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.3f}" if flops < 1e10 else f"{flops / 1e9:,.1f}"
