"""The commands of a distillation, in order, and the files that show which of them are finished."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_kd.config import TEACHER_TRAINER, KDConfig
from nnunet_kd.distill.request import names_of_cases
from nnunet_kd.distill.step import Step
from nnunet_kd.planning.next_steps import teaching_source
from nnunet_kd.teachers.model import TeacherModel

TIMED_CASES = 3


@dataclass(frozen=True)
class Distillation:
    """What is distilled, and where.

    Attributes:
        dataset: number or name, as the user gave it.
        configuration: of the student.
        plans: name of the student's plans.
        fold: of the student.
        plan_command: writes the plans.
        kd: their ``"kd"`` block.
        teachers: model folders that teach; empty: peers or probability maps do, which say nothing of test cases.
        preprocessed: the data set's folder.
        results: the data set's folder.
        output: folder for logs, and for what is made of the test cases.
        device: as nnU-Net's ``-device``.
        processes: as nnU-Net's ``-np``.
        test: images and reference segmentations of test cases; None: there are none.
        twin: whether the same network is trained without teachers, for comparison.
        data_folder: of the preprocessed configuration.
        base_plans: plans that made it.
        makes_bundle: whether the packages for a bundle are there.
    """

    dataset: str
    configuration: str
    plans: str
    fold: str
    plan_command: Sequence[str]
    kd: KDConfig
    teachers: Sequence[TeacherModel]
    preprocessed: Path
    results: Path
    output: Path
    device: str
    processes: int
    test: tuple[Path, Path] | None
    twin: bool
    data_folder: Path
    base_plans: str
    makes_bundle: bool

    @property
    def students(self) -> dict[str, Path]:
        """Model folders of what is trained: the student, and its twin."""
        trainers = {"student": self.kd.student.trainer} | ({"twin": TEACHER_TRAINER} if self.twin else {})
        return {k: self.results / f"{t}__{self.plans}__{self.configuration}" for k, t in trainers.items()}

    def steps(self) -> list[list[Step]]:
        """All commands; those of one group need nothing of each other."""
        where = ["-d", self.dataset, "-c", self.configuration]
        groups = [[Step("the student's plans", self.plan_command, "plan", self._plans_file.is_file)]]
        if not self.data_folder.is_dir():
            command = ["nnUNetv2_preprocess", *where, "-plans_name", self.base_plans, "-np", str(self.processes)]
            groups.append([Step("preprocessed images", command, "preprocess", self.data_folder.is_dir)])
        source = teaching_source(self.kd)
        if source.wants_unlabeled(self.kd):
            command = ["nnUNetv2_kd", "preprocess-unlabeled", *where, "-p", self.plans, "-np", str(self.processes)]
            groups.append([Step("preprocessed images without labels", command, "preprocess_unlabeled")])
        if source.stores_soft_labels:
            command = ["nnUNetv2_kd", "softlabels", *where, "-p", self.plans, "-device", self.device]
            title = "soft labels: what the teachers say about every case"
            groups.append([Step(title, command, "softlabels", bar="soft labels")])
        trained = self.students
        groups.append([self._train(name, folder) for name, folder in trained.items()])
        if self.test is not None:
            groups += [[step] for step in (*self._predict_teachers(), *map(self._predict, trained))]
            groups += [[self._benchmark()], [self._report()]]
        return [*groups, [self._bundle()]] if self.makes_bundle else groups

    @property
    def on_test_cases(self) -> Path:
        """Folder for predictions, times and report of these test cases."""
        assert self.test is not None
        digest = hashlib.sha256("\0".join(map(str, self.test)).encode()).hexdigest()[:8]
        return self.output / f"test_{digest}"

    @property
    def bundle(self) -> Path:
        """The student without PyTorch and nnU-Net."""
        return self.output / "bundle"

    @property
    def _plans_file(self) -> Path:
        return self.preprocessed / f"{self.plans}.json"

    def _train(self, name: str, folder: Path) -> Step:
        trainer = folder.name.split("__")[0]
        made = folder / f"fold_{self.fold}"
        trained, validated = made / "checkpoint_final.pth", made / "validation" / "summary.json"
        is_validated = self.fold != "all" or self.kd.schedule.validate_all == "always"
        finished = (validated if is_validated else trained).is_file
        command = ["nnUNetv2_train", self.dataset, self.configuration, self.fold, "-tr", trainer, "-p", self.plans]
        command += ["-device", self.device]
        if finished():
            pass
        elif trained.is_file():
            command.append("--val")
        elif any((made / f"checkpoint_{c}.pth").is_file() for c in ("latest", "best")):
            command.append("--c")
        titles = {"student": "the student: with distillation", "twin": "its twin: the same plans, without teachers"}
        # Without workers that augment, batches are the same at every run, and a CPU's cores are left to the networks.
        variables = {"nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"} if self.device == "cpu" else {}
        return Step(
            titles[name],
            command,
            f"train_{name}",
            finished,
            epochs=self.kd.schedule.num_epochs,
            is_resumed=command[-1] in ("--val", "--c"),
            validates=is_validated,
            variables=variables,
        )

    def _predict_teachers(self) -> list[Step]:
        assert self.test is not None
        images, outputs = self.test[0], []
        steps = []
        for i, teacher in enumerate(self.teachers, 1):
            single = len(self.teachers) == 1
            output = self.on_test_cases / "predictions" / ("ensemble" if single else f"teachers_{i}")
            outputs.append(str(output))
            command = ["nnUNetv2_predict_from_modelfolder", "-i", str(images), "-o", str(output)]
            command += ["-m", str(teacher.folder), "-f", *map(str, teacher.folds), "-chk", teacher.checkpoint]
            command += ["-device", self.device, *([] if single else ["--save_probabilities"]), *self._workers]
            title = "test cases by the ensemble" if single else f"test cases by teachers {i}"
            steps.append(self._prediction(title, command, output))
        if len(outputs) > 1:
            output = self.on_test_cases / "predictions" / "ensemble"
            command = ["nnUNetv2_ensemble", "-i", *outputs, "-o", str(output), "-np", str(self.processes)]
            steps.append(self._prediction("test cases by the ensemble", command, output))
        return steps

    def _predict(self, name: str) -> Step:
        assert self.test is not None
        output, trainer = self.on_test_cases / "predictions" / name, self.students[name].name.split("__")[0]
        command = ["nnUNetv2_predict", "-i", str(self.test[0]), "-o", str(output), "-d", self.dataset]
        command += ["-c", self.configuration, "-tr", trainer, "-p", self.plans, "-f", self.fold]
        command += ["-device", self.device, *self._workers]
        return self._prediction(f"test cases by the {name}", command, output)

    def _prediction(self, title: str, command: Sequence[str], output: Path) -> Step:
        """Finished when every test case that has a reference has a prediction."""
        assert self.test is not None
        files = tuple(output / name for name in names_of_cases(self.test[1]))
        return Step(
            title, command, f"predict_{output.name}", lambda: all(f.is_file() for f in files), True, files=files
        )

    @property
    def _workers(self) -> list[str]:
        return ["-npp", str(self.processes), "-nps", str(self.processes)]

    def _models(self) -> list[str]:
        ensemble = ",".join(f"{t.folder}:{_folds(t.folds)}" for t in self.teachers)
        words = [f"ensemble={ensemble}"] if ensemble else []
        return [*words, *(f"{name}={folder}:{self.fold}" for name, folder in self.students.items())]

    def _benchmark(self) -> Step:
        assert self.test is not None
        output, timed = self.on_test_cases / "benchmark", min(TIMED_CASES, len(names_of_cases(self.test[1])))
        command = ["nnUNetv2_kd", "benchmark", *(w for m in self._models() for w in ("--model", m))]
        command += ["-i", str(self.test[0]), "-o", str(output), "-n", str(timed), "--network_only"]
        command += ["-device", self.device, *self._workers, "--overwrite"]
        return Step("time and size", command, "benchmark", (output / "benchmark.json").is_file, True)

    def _report(self) -> Step:
        assert self.test is not None
        output = self.on_test_cases / "report"
        command = ["nnUNetv2_kd", "report", "--reference", str(self.test[1]), "--images", str(self.test[0])]
        for name in (*(["ensemble"] if self.teachers else []), *self.students):
            command += ["--method", f"{name}={self.on_test_cases / 'predictions' / name}"]
        command += [w for m in self._models() for w in ("--model", m)]
        command += ["--benchmark", str(self.on_test_cases / "benchmark" / "benchmark.json"), "-np", str(self.processes)]
        command += ["--title", f"{self.plans}, {self.configuration}", "-o", str(output), "--overwrite"]
        return Step("the report", command, "report", (output / "report.json").is_file, True)

    def _bundle(self) -> Step:
        command = ["nnUNetv2_kd", "export", "-m", str(self.students["student"]), "-f", self.fold]
        command += ["-o", str(self.bundle), "--overwrite"]
        command += ["--check", str(self.test[0])] if self.test else []
        return Step("the bundle", command, "export", (self.bundle / "bundle.json").is_file, True)


def _folds(folds: Sequence[int | str]) -> str:
    return ",".join(map(str, folds))
