"""What a user asks ``nnUNetv2_kd distill`` for, checked before torch is imported."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_kd.planning.recipes import load_recipe
from nnunet_kd.planning.request import find_base_plans
from nnunet_kd.utilities.environment import dataset_paths
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import list_folder


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        dataset: number or name.
        configuration: of the student.
        base_plans: plans from which the student's are made.
        fold: of the student, a number or ``all``.
        name: of the student's plans; None: as ``nnUNetv2_kd plan`` names them.
        student: ``--student`` of ``nnUNetv2_kd plan``.
        params: its ``--params``.
        latency_budget_ms: its ``--latency-budget``.
        recipe: name of a recipe.
        teachers: as ``nnUNetv2_kd plan --teachers`` takes them; empty: every finished fold of the default teacher.
        settings: ``key=value`` of the ``"kd"`` block.
        plan_options: more arguments of ``nnUNetv2_kd plan``.
        test: folders of images and reference segmentations.
        twin: train the same network without teachers too.
        device: as nnU-Net's ``-device``, or ``auto``.
        processes: as nnU-Net's ``-np``.
    """

    dataset: str
    configuration: str
    base_plans: str = "nnUNetPlans"
    fold: str = "all"
    name: str | None = None
    student: str | None = None
    params: str | None = None
    latency_budget_ms: float | None = None
    recipe: str | None = None
    teachers: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    plan_options: tuple[str, ...] = ()
    test: tuple[Path, Path] | None = None
    twin: bool = False
    device: str = "auto"
    processes: int = 1

    def __str__(self) -> str:
        words = ["nnUNetv2_kd", "distill", "-d", self.dataset, "-c", self.configuration, "-f", self.fold]
        words += [*self._named(), *self.plan_options]
        words += ["--set", *self.settings] if self.settings else []
        words += ["--test", *map(str, self.test)] if self.test else []
        words += ["--twin"] if self.twin else []
        return shlex.join([*words, "-device", self.device, "-np", str(self.processes)])

    def _named(self) -> list[str]:
        """What ``distill`` and ``plan`` share."""
        words = ["-p", self.base_plans]
        words += ["-o", self.name] if self.name else []
        words += ["--student", self.student] if self.student else []
        words += ["--params", self.params] if self.params else []
        words += ["--latency-budget", f"{self.latency_budget_ms:g}"] if self.latency_budget_ms is not None else []
        words += ["--recipe", self.recipe] if self.recipe else []
        return [*words, *(["--teachers", *self.teachers] if self.teachers else [])]

    def plan_command(self, name: str) -> list[str]:
        """``nnUNetv2_kd plan`` for the plans of this name."""
        command = ["nnUNetv2_kd", "plan", "-d", self.dataset, "-c", self.configuration]
        command += [*replace(self, name=name)._named(), *self.plan_options]
        return [*command, "--set", *self.settings] if self.settings else command

    def check(self) -> None:
        """Refuses what cannot be, and names of what is not there; reads next to nothing.

        Raises:
            UserError: names the option.
        """
        if not (self.fold == "all" or self.fold.isdecimal()):
            raise UserError(f"-f {self.fold}: expected a fold's number, or all.")
        if self.processes < 1:
            raise UserError(f"-np {self.processes}: expected at least 1.")
        for folder in self.test or ():
            if not folder.is_dir():
                raise UserError(f"--test {folder}: no such folder.")
        if self.test and not names_of_cases(self.test[1]):
            raise UserError(f"--test {self.test[1]}: no reference segmentations there.")
        if self.recipe:
            load_recipe(self.recipe)
        find_base_plans(dataset_paths(self.dataset).preprocessed, self.base_plans)


def names_of_cases(labels: Path) -> list[str]:
    """Names of the reference segmentations, and so of the predictions."""
    return [f.name for f in list_folder(labels) if f.suffix != ".json"]
