"""Command lines of nnU-Net and of this package, with what the trainings of a data set share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPORT_PRECISION = {"bf16": "bf16", "fp32": "default"}  # by that of the training, on a CPU


@dataclass(frozen=True)
class Training:
    """A data set with the schedule that the trainings of a study share.

    Attributes:
        dataset: its number.
        name: nnU-Net's name of the data set, ``DatasetXXX_NAME``.
        folder: of all studies.
        configuration: nnU-Net's name.
        batch_size: of every training.
        epochs: of 100 iterations, of a student.
        teacher_epochs: the same of a teacher.
        patch_size: empty for nnU-Net's.
        precision: of training and export.
        step_size: of sliding windows, in the export and on the test cases.
    """

    dataset: int
    name: str
    folder: Path
    configuration: str
    batch_size: int
    epochs: int
    teacher_epochs: int
    patch_size: Sequence[int] = ()
    precision: str = "bf16"
    step_size: float = 0.5

    @property
    def raw(self) -> Path:
        """nnU-Net's raw folder of the data set."""
        return self.folder / "raw" / self.name

    @property
    def results(self) -> Path:
        """nnU-Net's results folder of the data set."""
        return self.folder / "results" / self.name

    @property
    def predictions(self) -> Path:
        """A folder for each network's predictions of the test cases."""
        return self.folder / "predictions" / str(self.dataset)

    @property
    def settings(self) -> dict[str, Any]:
        """The ``"kd"`` block of every training."""
        return {
            "schedule.iterations_per_epoch": 100,
            "schedule.val_iterations_per_epoch": 2,
            "schedule.save_every": 1000,
            "schedule.precision": self.precision,
            "ensemble.precision": EXPORT_PRECISION[self.precision],
            "optimizer.name": "adam",
            "optimizer.initial_lr": 0.001,
            "optimizer.lr_schedule": "poly",
            "student.start": "random",
            "augmentation.mirroring": True,
            "augmentation.rotation": 180,
            "distillation.soft_ce.ramp": "none",
            "distillation.soft_dice.ramp": "none",
            "ensemble.step_size": self.step_size,
        }

    def plan(
        self, plans: str, network: Sequence[str], settings: Mapping[str, Any], options: Sequence[str] = ()
    ) -> list[str]:
        """Writes plans, and replaces those of a job that was stopped.

        Args:
            plans: their name.
            network: what follows ``--student``.
            settings: keys of the ``"kd"`` block; they win over what all trainings share.
            options: more arguments.
        """
        command = ["nnUNetv2_kd", "plan", "-d", str(self.dataset), "-c", self.configuration, "-o", plans, "--overwrite"]
        command += ["--patch_size", *map(str, self.patch_size)] if self.patch_size else []
        command += ["--batch_size", str(self.batch_size), "--student", *network, *options]
        return [*command, "--set", *(f"{k}={_format(v)}" for k, v in (self.settings | dict(settings)).items())]

    def train(self, plans: str, trainer: str, fold: str) -> list[str]:
        """Trains a network on the CPU."""
        where = ["nnUNetv2_train", str(self.dataset), self.configuration, fold]
        return [*where, "-tr", trainer, "-p", plans, "-device", "cpu"]

    def softlabels(self, plans: str) -> list[str]:
        """Exports the soft labels of a student's teachers."""
        where = ["-d", str(self.dataset), "-c", self.configuration]
        return ["nnUNetv2_kd", "softlabels", *where, "-p", plans, "-device", "cpu"]

    def test(
        self, plans: str, trainer: str, fold: str, output: str = "", mirrored: bool = False, probabilities: bool = False
    ) -> list[list[str]]:
        """Predicts the test cases and evaluates.

        Args:
            plans: of the network.
            trainer: of the network.
            fold: of the network.
            output: name of the predictions; empty: that of the plans.
            mirrored: whether the network mirrors, where its checkpoint allows it.
            probabilities: whether they are kept, for an ensemble.
        """
        folder = str(self.predictions / (output or plans))
        predict = ["nnUNetv2_predict", "-i", str(self.raw / "imagesTs"), "-o", folder, "-d", str(self.dataset)]
        predict += ["-c", self.configuration, "-f", fold, "-tr", trainer, "-p", plans, "-device", "cpu"]
        predict += ["-npp", "0", "-nps", "0", *(["--save_probabilities"] if probabilities else [])]
        predict += [] if mirrored else ["--disable_tta"]
        return [[*predict, "-step_size", str(self.step_size)], self.evaluate(folder)]

    def test_ensemble(self, name: str, members: Sequence[str]) -> list[list[str]]:
        """Averages the members' predictions of the test cases, and evaluates."""
        output = str(self.predictions / name)
        inputs = [str(self.predictions / member) for member in members]
        return [["nnUNetv2_ensemble", "-i", *inputs, "-o", output, "-np", "1"], self.evaluate(output)]

    def evaluate(self, output: str) -> list[str]:
        """Evaluates predictions of the test cases."""
        return ["nnUNetv2_kd", "evaluate", "-i", output, "-r", str(self.raw / "labelsTs"), "-np", "1"]


def _format(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
