"""What a user asks ``nnUNetv2_kd plan`` for, checked before torch is imported."""

import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_kd.planning.recipes import load_recipe
from nnunet_kd.utilities.environment import dataset_paths
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import check_component


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        dataset: number or name.
        configurations: to keep; empty: all of the base plans.
        base_plans: plans from which the new ones are made.
        trainer: of the default teachers; None: nnU-Net's.
        teachers: model folders with optional folds; empty: every finished fold of the default teacher.
        recipe: name of a preset of the ``"kd"`` block.
        student: the network and changes of it.
        student_arguments: ``KEY=VALUE`` of the network's class.
        params: budget of parameters.
        latency_budget_ms: budget of milliseconds for one patch.
        rank: how candidates within the budget are ranked, ``params`` or ``dice``.
        device: where patches are timed.
        inherit_from: ``MODELFOLDER:FOLD`` that the student starts as.
        weights: local file of weights to start from.
        role: ``teacher`` or ``student``; None: the recipe's, or student.
        settings: ``KEY=VALUE`` of the ``"kd"`` block.
        seeds: plans for teachers that differ in nothing else; empty: one plans file.
        batch_size: None: the base plans'.
        patch_size: None: the base plans'.
        keep_resampling: a student's probabilities are resampled as the base plans say.
        name: of the new plans; None: made from the student's.
        overwrite: KD plans of the same name are replaced.
    """

    dataset: str
    configurations: tuple[str, ...] = ()
    base_plans: str = "nnUNetPlans"
    trainer: str | None = None
    teachers: tuple[str, ...] = ()
    recipe: str | None = None
    student: str | None = None
    student_arguments: tuple[str, ...] = ()
    params: str | None = None
    latency_budget_ms: float | None = None
    rank: str = "params"
    device: str = "cpu"
    inherit_from: str | None = None
    weights: Path | None = None
    role: str | None = None
    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    batch_size: int | None = None
    patch_size: tuple[int, ...] | None = None
    keep_resampling: bool = False
    name: str | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Refuses options that contradict each other, and names of what is not there; reads next to nothing.

        Raises:
            UserError: names the option.
        """
        if self.rank == "dice" and self.params is None and self.latency_budget_ms is None:
            raise UserError("--rank dice: compares students that keep a budget; give --params or --latency-budget.")
        if self.latency_budget_ms is not None and not 0 < self.latency_budget_ms < float("inf"):
            raise UserError(f"--latency-budget {self.latency_budget_ms:g}: expected milliseconds, greater than 0.")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: expected at least 1.")
        if self.seeds and self.weights:
            raise UserError("--weights: every teacher of --seeds starts at its own random weights; leave one out.")
        if self.trainer and (self.teachers or self.role == "teacher"):
            raise UserError(
                "-tr: names the trainer of the default teachers; leave it out beside --teachers and --role teacher."
            )
        if self.recipe:
            load_recipe(self.recipe)
        if self.weights and not self.weights.is_file():
            raise UserError(f"--weights {self.weights}: no such file; weights are not downloaded.")
        find_base_plans(dataset_paths(self.dataset).preprocessed, self.base_plans)


def find_base_plans(preprocessed: Path, plans_name: str) -> Path:
    """The file of base plans.

    Raises:
        UserError: when it is missing, with the command that makes it.
    """
    check_component(f"{plans_name}.json", "-p")
    file = preprocessed / f"{plans_name}.json"
    if not file.is_file():
        size = re.fullmatch(r"nnUNetResEncUNet(M|L|XL)Plans", plans_name)
        planner = f" -pl nnUNetPlannerResEnc{size[1]}" if size else ""
        command = f"nnUNetv2_plan_and_preprocess -d {preprocessed.name[7:10].lstrip('0')}{planner}"
        raise UserError(f"{file}: no such plans; make them with: {command}, or name others with -p.")
    return file
