"""The table that ``nnUNetv2_kd plan`` prints: what teachers and student cost at prediction."""

from collections.abc import Sequence
from typing import Any, cast

from nnunet_kd.planning.cost import ModelCost, measure
from nnunet_kd.planning.draft import Draft
from nnunet_kd.planning.network import PlannedModel

_HEADER = ("network", "parameters", "GFLOPs/patch", "windows", "passes", "passes mirrored", "GFLOPs/image")
LEGEND = """\
GFLOPs: convolutions and matrix products, 2 per multiply-add, plans' patch, batch size 1, deep supervision off.
windows: of the median image at step size 0.5; passes: windows x folds, mirrored also x 2 per image axis of the patch.
GFLOPs/image: {use}.
FLOPs are counted, not timed: their ratio is not a measured speed-up."""


def compare(draft: Draft, plans: dict[str, Any]) -> tuple[str, list[str]]:
    """One table for each configuration, and the configurations whose default teacher is not trained yet.

    Args:
        draft: names the teachers.
        plans: what was made of it.
    """
    config = draft.config
    is_student = config.role == "student"
    mirrored = config.student.mirroring or not is_student
    reference_mirrored = config.ensemble.mirroring or not is_student
    parts, missing = [], []
    for base, new in zip(draft.models(draft.base, draft.order), draft.models(plans, draft.order), strict=True):
        teachers = draft.teachers(base.configuration) if is_student else ()
        references = [(PlannedModel.of(t), t.folder.name, len(t.folds)) for t in teachers]
        if not references:
            missing.append(base.configuration)
            references = [(base, f"{base.plans.plans_name} {base.configuration}", 1)]
        rows = [_measure(model, name, folds, reference_mirrored) for model, name, folds in references]
        row = _measure(new, f"{new.plans.plans_name} ({config.role})", 1, mirrored)
        table = format_table(rows, row, "teachers / student" if is_student else "base / teacher")
        parts.append(f"\n{base.configuration}\n{table}")
    words = {True: "mirrored", False: "not mirrored"}
    use = f"teachers {words[config.ensemble.mirroring]}, student {words[mirrored]}" if is_student else "both mirrored"
    return "\n".join([*parts, "", LEGEND.format(use=use)]), missing


def _measure(model: PlannedModel, name: str, folds: int, mirrored: bool) -> ModelCost:
    return measure(model, name, folds, len(model.patch) if mirrored else 0)


def format_table(references: Sequence[ModelCost], new: ModelCost, ratio: str) -> str:
    """Teachers, their sum where there are several, the student, and their ratio, as aligned text.

    Args:
        references: teachers, or the network of the base plans.
        new: network of the KD plans.
        ratio: name of the last row.
    """
    rows: list[tuple[str, ...]] = [_HEADER, *(_row(c) for c in (*references, new))]
    total = [sum(v) for v in zip(*(_sums(r) for r in references), strict=True)]
    ratios = [_times(a / b) for a, b in zip(total, _sums(new), strict=True)]
    one_network = ["", ""]
    if len(references) > 1:
        rows.insert(-1, ("all teachers", f"{total[0]:,}", "", "", f"{total[1]:,}", f"{total[2]:,}", _giga(total[3])))
    else:
        one_network = [_times(a / b) for a, b in zip(_one(references[0]), _one(new), strict=True)]
    rows.append((ratio, ratios[0], *one_network, *ratios[1:]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])] for r in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _times(ratio: float) -> str:
    """``12.3x``; below 1 with two digits that count, as in ``0.021x``."""
    return f"{ratio:,.1f}x" if ratio >= 0.95 else f"{ratio:.2g}x"


def _one(cost: ModelCost) -> tuple[int, int]:
    """FLOPs of a patch and windows of an image, known for a single model folder."""
    return cast(int, cost.flops_per_patch), cast(int, cost.windows)


def _sums(cost: ModelCost) -> tuple[int, int, int, int]:
    """Parameters, passes without and with mirroring, FLOPs of an image."""
    passes = _one(cost)[1] * cost.networks
    return cost.parameters, passes, passes * 2 ** len(cost.patch_size or ()), cost.flops_per_case


def _row(c: ModelCost) -> tuple[str, ...]:
    name = f"{c.name} x {c.networks} folds" if c.networks > 1 else c.name
    (flops, windows), (parameters, passes, mirrored, total) = _one(c), _sums(c)
    return name, f"{parameters:,}", _giga(flops), f"{windows:,}", f"{passes:,}", f"{mirrored:,}", _giga(total)


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.3f}" if flops < 1e10 else f"{flops / 1e9:,.1f}"
