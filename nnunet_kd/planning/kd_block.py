"""The ``"kd"`` block of new plans, from a recipe, the base plans and a user's options."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_kd.config import TEACHER_TRAINER, KDConfig, Teacher
from nnunet_kd.losses.feature_term import FEATURE_TERMS
from nnunet_kd.losses.soft_labels import SOFT_LABEL_TERMS
from nnunet_kd.planning.recipes import Recipe
from nnunet_kd.planning.student import StudentSpec, parse_student
from nnunet_kd.teachers.model import split_folds
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import apply_settings, from_dict, to_dict


def parse_teacher(text: str, dataset_results: Path) -> Teacher:
    """Reads ``TRAINER__PLANS__CONFIGURATION[:FOLDS]`` or ``PATH[:FOLDS]``; FOLDS is ``0,1,2`` or ``all``.

    Raises:
        UserError: for folds that are neither.
    """
    folder, folds = split_folds(text, "--teachers")
    if set(folder) & set("/\\"):
        path = Path(folder).expanduser().resolve()
        folder = path.name if path.parent == dataset_results.resolve() else str(path)
    return Teacher(folder=folder, folds=folds)


def inherited_block(base: Mapping[str, Any]) -> dict[str, Any]:
    """What plans take over from KD plans that they are made from: length, optimizer, and who trains those plans.

    Not the seed, which is one training's, and no losses, which are one method's.

    Args:
        base: plans; without a ``"kd"`` block nothing is taken over.

    Raises:
        UserError: for a ``"kd"`` block that cannot be.
    """
    config = KDConfig.from_plans(base)
    schedule, optimizer = _changed(config.schedule), _changed(config.optimizer)
    schedule.pop("seed", None)
    block: dict[str, Any] = {"schedule": schedule, "optimizer": optimizer}
    return block | ({"default_teacher": TEACHER_TRAINER} if config.role == "teacher" else {})


def _changed(part: Any) -> dict[str, Any]:
    """Values other than the defaults."""
    default = to_dict(type(part)())
    return {key: v for key, v in to_dict(part).items() if v != default[key]}


def make_kd_block(
    inherited: Mapping[str, Any],
    recipe: Recipe | None,
    role: str | None,
    base_plans: str,
    student: str | None,
    teachers: Sequence[Teacher],
    settings: Sequence[str],
    default_teacher: str | None = None,
) -> KDConfig:
    """The validated ``"kd"`` block: what is inherited, recipe, named options, ``key=value`` settings; later ones win.

    A recipe names the terms that it wants: the weights of the others are 0. Its schedule and optimizer are whole ones.

    Args:
        inherited: from the base plans, by :func:`inherited_block`.
        recipe: None: there is none.
        role: of the plans; None: the recipe's, or student.
        base_plans: name of the base plans.
        student: the network and changes of it.
        teachers: empty: every finished fold of the default teacher.
        settings: ``key=value``.
        default_teacher: its trainer; None: that of the base plans.

    Raises:
        UserError: for values that are unknown, impossible or contradict each other.
    """
    block = {**inherited, **(_only_named_terms(recipe.kd) if recipe else {})}
    if role:
        block["role"] = role
    if student:
        block.setdefault("student", {})["architecture"] = re.sub(r"\s", "", student)
    if default_teacher:
        block["default_teacher"] = default_teacher
    if teachers:
        block["teachers"] = [to_dict(t) for t in teachers]
    block = apply_settings(block, list(settings))
    block |= {"recipe": recipe.name if recipe else None, "base_plans": base_plans}
    config = from_dict(KDConfig, block, "kd")
    same = parse_student(config.student.architecture) == StudentSpec()
    if config.role == "student" and config.student.start == "best_member" and not same:
        raise UserError(
            f"kd.student.start: best_member needs the teachers' architecture, found {config.student.architecture!r}; "
            "use --student same or --set student.start=random."
        )
    if config.role == "teacher" and config.teachers:
        raise UserError("--teachers: plans for a teacher need none; leave them out or use --role student.")
    return config


def _only_named_terms(kd: dict[str, Any]) -> dict[str, Any]:
    """A recipe's block with weight 0 for every term that it does not name."""
    block = deepcopy(kd)
    for key, registry in (("distillation", SOFT_LABEL_TERMS), ("features", FEATURE_TERMS)):
        terms = block.setdefault(key, {})
        for name in registry.terms:
            terms.setdefault(name, {"weight": 0.0})
    return block
