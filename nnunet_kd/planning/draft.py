"""The plans that follow from what a user asks for, before any is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.config import KDConfig
from nnunet_kd.inheritance.start import named_member
from nnunet_kd.planning.kd_block import inherited_block, make_kd_block, parse_teacher
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.planning.plans import compose_plans, load_base_plans, training_order
from nnunet_kd.planning.recipes import Recipe, load_recipe
from nnunet_kd.planning.request import Request
from nnunet_kd.planning.student import StudentSpec, format_student, join_params, parse_arguments
from nnunet_kd.teachers.model import NotTrainedError, TeacherModel, find_teachers
from nnunet_kd.utilities.environment import DatasetPaths, dataset_paths
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.nnunet_files import check_plans, read_dataset_json
from nnunet_kd.utilities.schema import to_dict


@dataclass(frozen=True)
class Draft:
    """Plans as a user asks for them, for any student.

    Attributes:
        request: what the user asks for.
        paths: folders of the data set.
        base: base plans.
        dataset_json: of the data set.
        recipe: preset of the ``"kd"`` block.
        config: the ``"kd"`` block.
    """

    request: Request
    paths: DatasetPaths
    base: dict[str, Any]
    dataset_json: dict[str, Any]
    recipe: Recipe | None
    config: KDConfig

    @cached_property
    def chosen(self) -> list[str]:
        """Configurations to keep."""
        return list(dict.fromkeys(self.request.configurations or self.base["configurations"]))

    @cached_property
    def order(self) -> list[str]:
        """The same, each after the previous stages that its cascade needs."""
        return training_order(self.base, self.chosen)

    def with_student(self, spec: StudentSpec) -> "Draft":
        """The same for another student."""
        student = replace(self.config.student, architecture=format_student(spec))
        return replace(self, config=replace(self.config, student=student))

    def with_seed(self, seed: int) -> "Draft":
        """The same with another seed."""
        schedule = replace(self.config.schedule, seed=seed)
        return replace(self, config=replace(self.config, schedule=schedule))

    @property
    def inherited(self) -> list[str]:
        """``KEY=VALUE`` of schedule and optimizer that are those of the base plans."""
        block = to_dict(self.config)
        parts = {part: inherited_block(self.base)[part] for part in ("schedule", "optimizer")}
        return [
            f"{part}.{key}={json.dumps(value)}"
            for part, values in parts.items()
            for key, value in values.items()
            if block[part][key] == value
        ]

    def compose(self, name: str) -> dict[str, Any]:
        """The plans, checked as if they had been read.

        Raises:
            UserError: for configurations that are missing and networks that cannot be changed as asked.
        """
        request = self.request
        plans = compose_plans(
            self.base,
            name,
            self.chosen,
            self.config,
            self.dataset_json,
            request.batch_size,
            request.patch_size,
            parse_arguments(request.student_arguments),
            request.keep_resampling,
        )
        check_plans(plans, name)
        return plans

    def models(self, plans: dict[str, Any], configurations: Sequence[str]) -> list[PlannedModel]:
        """What the plans describe, one for each configuration."""
        return [PlannedModel(PlansManager(plans), c, self.dataset_json) for c in configurations]

    def check_teachers(self) -> None:
        """Refuses teachers that are missing, before candidates are measured for minutes.

        Raises:
            UserError: for one that is named, and with ``--rank dice`` for the default teacher too.
        """
        if self.config.role == "student":
            for c in self.order:
                if not self.teachers(c) and self.request.rank == "dice":
                    find_teachers(self.config, self.base["plans_name"], c, self.paths.results)

    def teachers(self, configuration: str) -> tuple[TeacherModel, ...]:
        """The teachers; empty when the default teacher is not trained yet.

        Raises:
            UserError: when a teacher that is named is missing.
        """
        try:
            return find_teachers(self.config, self.base["plans_name"], configuration, self.paths.results)
        except NotTrainedError:
            if self.config.teachers:
                raise
            return ()


def make_draft(request: Request) -> Draft:
    """Reads what plans are made from, and makes their ``"kd"`` block.

    Raises:
        UserError: for options that contradict each other, and for files that are missing or broken.
    """
    request.check()
    paths = dataset_paths(request.dataset)
    base = load_base_plans(paths.preprocessed, request.base_plans)
    training_order(base, request.configurations)
    dataset_json = read_dataset_json(paths.preprocessed / "dataset.json")
    recipe = load_recipe(request.recipe) if request.recipe else None
    teachers = [parse_teacher(t, paths.results) for t in request.teachers]
    student = join_params(request.student, request.params)
    settings = list(request.settings)
    if request.inherit_from:
        named_member(request.inherit_from, paths.results)  # is it there?
        settings.append(f"student.inherit_from={json.dumps(request.inherit_from)}")
    config = make_kd_block(
        inherited_block(base),
        recipe,
        request.role,
        request.base_plans,
        student,
        teachers,
        settings,
        request.trainer,
    )
    if request.seeds and config.role != "teacher":
        raise UserError("--seeds: makes plans for several teachers; add --role teacher.")
    return Draft(request, paths, base, dataset_json, recipe, config)
