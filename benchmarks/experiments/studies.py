"""What is trained with what, for each study."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import isfunction
from pathlib import Path

from benchmarks.experiments import data
from benchmarks.experiments.jobs import Job

SEEDS = (1, 2)
EXPORT_PRECISION = {"bf16": "bf16", "fp32": "default"}  # by that of the training, on a CPU


@dataclass(frozen=True)
class Task:
    """A data set with the schedule that its studies share.

    Attributes:
        dataset: its number.
        configuration: nnU-Net's name.
        batch_size: of every training.
        epochs: of 100 iterations, of a student.
        teacher_epochs: the same of a teacher.
        patch_size: None for nnU-Net's.
        precision: of training and export.
        step_size: of sliding windows, in the export and on the test cases.
    """

    dataset: int
    configuration: str
    batch_size: int
    epochs: int
    teacher_epochs: int
    patch_size: tuple[int, ...] | None = None
    precision: str = "bf16"
    step_size: float = 0.5

    @property
    def common(self) -> list[str]:
        """Settings of every training."""
        return [
            *("schedule.iterations_per_epoch=100", "schedule.val_iterations_per_epoch=2", "schedule.save_every=1000"),
            *(f"schedule.precision={self.precision}", f"ensemble.precision={EXPORT_PRECISION[self.precision]}"),
            *("optimizer.name=adam", "optimizer.initial_lr=0.001", "optimizer.lr_schedule=poly"),
            *("student.start=random", f"ensemble.step_size={self.step_size}"),
        ]

    def plan(self, name: str, *arguments: str, epochs: int | None = None, seed: int = 1) -> list[str]:
        """Command that writes the plans NAME; what ``arguments`` set wins."""
        schedule = [f"schedule.num_epochs={epochs or self.epochs}", f"schedule.seed={seed}"]
        command = ["nnUNetv2_kd", "plan", "-d", str(self.dataset), "-c", self.configuration, "-o", name]
        command.append("--overwrite")  # a job that was stopped is tried again
        if self.patch_size:
            command += ["--patch_size", *map(str, self.patch_size)]
        batch_size = ["--batch_size", str(self.batch_size)]
        return [*command, *batch_size, "--set", *self.common, *schedule, *arguments]

    def train(self, name: str, trainer: str, fold: str) -> list[str]:
        """Command that trains a network on the CPU."""
        return [
            *("nnUNetv2_train", str(self.dataset), self.configuration, fold),
            *("-tr", trainer, "-p", name, "-device", "cpu"),
        ]

    def softlabels(self, name: str, *arguments: str) -> list[str]:
        """Command that exports the soft labels of a student's teachers."""
        return [
            *("nnUNetv2_kd", "softlabels", "-d", str(self.dataset), "-c", self.configuration, "-p", name),
            *("-device", "cpu", *arguments),
        ]


HIPPOCAMPUS = Task(4, "3d_fullres", batch_size=2, epochs=4, teacher_epochs=15)
HIPPOCAMPUS_FEW = Task(5, "3d_fullres", batch_size=2, epochs=6, teacher_epochs=8)
SUNNYBROOK = Task(27, "2d", batch_size=4, epochs=6, teacher_epochs=15, patch_size=(128, 128))
SUNNYBROOK_FEW = Task(28, "2d", batch_size=4, epochs=15, teacher_epochs=10, patch_size=(128, 128))
ACDC = Task(29, "2d", 6, epochs=12, teacher_epochs=15, patch_size=(96, 96), precision="fp32", step_size=0.67)
ACDC_FEW = Task(30, "2d", 6, epochs=8, teacher_epochs=10, patch_size=(96, 96), precision="fp32", step_size=0.67)
LONG = ("schedule.num_epochs=10", "schedule.iterations_per_epoch=300")
DATASETS = {4: "Hippocampus", 5: "HippocampusFew", 27: "Sunnybrook", 28: "SunnybrookFew", 29: "ACDC", 30: "ACDCFew"}
TEACHER = "nnUNetTrainerKDTeacher"
STORED = "nnUNetTrainerKDEnsemble"
FEATURE = "nnUNetTrainerKDFeature"
MULTI = "nnUNetTrainerKDMultiTeacher"
CROSS = "nnUNetTrainerKDCrossTeaching"
RECOMMENDED = "width=0.5,blocks=0.5,decoder=1"
STUDENT = "width=0.25,blocks=0.5,decoder=1"
TENTH = "width=0.21,blocks=0.5,decoder=1"  # of the parameters of a teacher of half the width
TEACHER_SEEDS = (1, 2, 3)
DEEP_TENTH = "width=0.15"  # as deep as a teacher of half the width, a tenth of its parameters
INHERIT = "student.start=inherit"
TWIN_TOO = "student.twin_start=same"
INHERITANCE: dict[str, tuple[str, list[str]]] = {
    "random": (TEACHER, []),
    "untrained": (TEACHER, [INHERIT, TWIN_TOO, "schedule.iterations_per_epoch=1", "optimizer.initial_lr=1e-12"]),
    "inherited": (TEACHER, [INHERIT, TWIN_TOO]),
    "distilled": (STORED, [INHERIT]),
    "soft": (STORED, [INHERIT, "hard_loss.weight=0"]),
    "low-rate": (STORED, [INHERIT, "optimizer.initial_lr=0.0003"]),
    "ema": (STORED, [INHERIT, "student.ema=0.99"]),
    "unlabeled": (STORED, [INHERIT, "unlabeled.fraction=0.5"]),
    "memory": (MULTI, [INHERIT, "features.importance.weight=0", "features.region_affinity.weight=0"]),
}
FEW_LABELS: dict[str, tuple[str, list[str]]] = {
    "Alone": (TEACHER, []),
    "Labeled": (STORED, []),
    "Fade": (STORED, [f"distillation.{t}.ramp=fade" for t in ("soft_ce", "soft_dice")]),
    "Unlabeled": (STORED, ["unlabeled.fraction=0.5"]),
}
TERMS = {"PM": "distillation.kl", "IM": "features.importance", "RA": "features.region_affinity"}
ABLATION = ("PM", "IM", "RA", "PM-IM", "PM-RA", "IM-RA", "all")
ONE_SCHEDULE = ("inherited", "distilled", "soft", "low-rate", "ema", "memory")
CROSS_TEACHING = {  # Choi's Table 3: which of the two teachers, settings
    "0T": ("", ["cross_teaching.unlabeled.weight=0"]),
    "2T-labeled": ("12", ["cross_teaching.unlabeled.weight=0"]),
    "1T": ("1", []),
    "2T": ("12", []),
    "2T-KD": ("12", ["cross_teaching.pseudo_supervision_weight=0"]),
    "2T-PSV": ("12", ["cross_teaching.distillation.weight=0"]),
    "2T-same": ("11", []),
}
INTERPOLATION = ("--student-arg", "upsampling=interpolation")
NETWORKS = ("width=0.5", "width=0.25", RECOMMENDED, STUDENT)
NETWORKS_2D = (*NETWORKS, "mobile-use-net", "mobile-use-net,width=0.5")  # in 3D a step takes seconds on a CPU
BATCH_NORM_NETWORKS = ("enet", "espnet", "mobilenetv2", "resnet18", "noothout-resnet,width=0.5")
INSTANCE_NORM = ("--student-arg", "norm_op=torch.nn.InstanceNorm3d", 'norm_op_kwargs={"affine":true}')


class Experiments:
    """Makes the jobs of studies.

    Args:
        source: folder with ``hippocampus`` and ``sunnybrook``.
        folder: where everything is written.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self.folder = folder

    @classmethod
    def names(cls) -> list[str]:
        """Studies, ``datasets`` first, which the others need."""
        return [n for n, member in vars(cls).items() if isfunction(member) and not n.startswith("_")]

    @property
    def environment(self) -> dict[str, str]:
        """nnU-Net's folders; one worker process; batches made by the training's own process, and so repeatable."""
        folders = {f"nnUNet_{n}": str(self.folder / n) for n in ("raw", "preprocessed", "results")}
        return folders | {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "PATH": os.environ["PATH"]}

    def datasets(self) -> list[Job]:
        """The data sets: all labels and few, planned and preprocessed."""
        source, cases = self.source, data.hippocampus_cases(self.source)
        patients = data.sunnybrook_patients(self.source)
        stacks = {k: data.stacks(source / "sunnybrook", v) for k, v in patients.items()}
        hearts = {k: data.stacks(source / "acdc", v) for k, v in data.acdc_patients(source).items()}
        parts, cavity = {"anterior": 1, "posterior": 2}, {"cavity": 1}
        heart = {"RV": 1, "myocardium": 2, "LV": 3}
        jobs = []
        for task, labels, train, unlabeled, test in (
            (ACDC, heart, hearts["train"] + hearts["val"], [], hearts["test"]),
            (ACDC_FEW, heart, hearts["few"] + hearts["val"], hearts["unlabeled"], hearts["test"]),
            (HIPPOCAMPUS, parts, cases["train"] + cases["val"], [], cases["test"]),
            (HIPPOCAMPUS_FEW, parts, cases["few"], cases["unlabeled"], cases["test"]),
            (SUNNYBROOK, cavity, stacks["train"] + stacks["val"], [], stacks["test"]),
            (SUNNYBROOK_FEW, cavity, stacks["few"], stacks["unlabeled"], stacks["test"]),
        ):
            name = {2: "hippocampus", 1: "sunnybrook", 3: "acdc"}[len(labels)]
            target = self.folder / "raw" / self._name(task)
            write = partial(data.write_dataset, source / name, target, labels, train, test, unlabeled)
            where = ["-d", str(task.dataset), "-c", task.configuration, "-np", "1"]
            commands = [["nnUNetv2_plan_and_preprocess", *where]]
            if unlabeled:
                commands.append(["nnUNetv2_kd", "preprocess-unlabeled", *where])
            jobs.append(Job(f"data-{task.dataset}", commands, (), write))
        groups = [(stacks[g], stacks["val"]) for g in data.SUNNYBROOK_GROUPS]
        for task, folds in (
            (HIPPOCAMPUS, [(cases["train"], cases["val"])]),
            (SUNNYBROOK, [(stacks["train"], stacks["val"]), *groups]),
            (ACDC, [(hearts["train"], hearts["val"])]),
            (ACDC_FEW, [(hearts["few"], hearts["val"])]),
        ):
            splits = self.folder / "preprocessed" / self._name(task) / "splits_final.json"
            write = partial(data.write_splits, splits, folds)
            jobs.append(Job(f"data-{task.dataset}-folds", (), (f"data-{task.dataset}",), write))
        return jobs

    def ablation_hippocampus(self) -> list[Job]:
        """Qin's Tables IV and V in 3D."""
        return self._ablation(HIPPOCAMPUS)

    def ablation_sunnybrook(self) -> list[Job]:
        """Qin's Tables IV and V in 2D."""
        return self._ablation(SUNNYBROOK)

    def groups(self) -> list[Job]:
        """Teachers of one pathology group each, students of all groups: folds 1 to 3 and 0."""
        task = SUNNYBROOK
        jobs = [job for fold in "123" for job in self._teacher(task, "Half", fold)]
        needs = [f"{task.dataset}-Half-{fold}" for fold in "123"]
        names = ["--teachers", *(f"{TEACHER}__Half__{task.configuration}:{fold}" for fold in "123")]
        for seed in SEEDS:
            for weights in ("paper", "inverse", "uniform"):
                terms = [f"student.trainer={MULTI}", f"multi_teacher.weights={weights}"]
                terms += [*(f"{TERMS[t]}.weight=0.9" for t in ("IM", "RA")), *names]
                jobs.append(self._student(task, f"Groups-{weights}-{seed}", MULTI, "0", seed, terms, needs))
            jobs.append(self._student(task, f"Groups-stored-{seed}", STORED, "0", seed, names, needs))
        return jobs

    def semi_hippocampus(self) -> list[Job]:
        """20 labeled and 140 unlabeled cases, stored soft labels; on the labeled cases also such that fade."""
        jobs = self._teachers(HIPPOCAMPUS_FEW, "all") + self._few_label_students(HIPPOCAMPUS_FEW)
        return jobs + self._all_labels(replace(HIPPOCAMPUS_FEW, dataset=HIPPOCAMPUS.dataset))

    def semi_hippocampus_long(self) -> list[Job]:
        """``semi_hippocampus`` with five times the schedule of the students; after it."""
        jobs = self._few_label_students(HIPPOCAMPUS_FEW, "Long-", LONG)
        return jobs + self._all_labels(replace(HIPPOCAMPUS_FEW, dataset=HIPPOCAMPUS.dataset), "Long-", LONG)

    def semi_sunnybrook(self) -> list[Job]:
        """6 labeled and 12 unlabeled patients, stored soft labels."""
        jobs = self._teachers(SUNNYBROOK_FEW, "all")
        jobs += self._few_label_students(SUNNYBROOK_FEW, arms=("Alone", "Labeled", "Unlabeled"))
        return jobs + self._all_labels(replace(SUNNYBROOK_FEW, dataset=SUNNYBROOK.dataset))

    def semi_sunnybrook_informed(self) -> list[Job]:
        """The same with a better teacher: one that has seen the labels of nine of the twelve unlabeled patients."""
        task = SUNNYBROOK_FEW
        jobs = self._teacher(SUNNYBROOK, "Half", "0")
        folder = self.folder / "results" / self._name(SUNNYBROOK) / f"{TEACHER}__Half__{task.configuration}:0"
        members = ["--teachers", str(folder)]
        export = self._export(task, "Informed", members, [jobs[-1].name])
        arms, needs = ["Unlabeled"], [export.name]
        return [*jobs, export, *self._few_label_students(task, "Informed-", (), arms, members, needs)]

    def cross_hippocampus(self) -> list[Job]:
        """Choi's Table 3 on the same cases."""
        teachers = [RECOMMENDED], ["use-net,width=0.25", *INTERPOLATION]
        arms = [arm for arm in CROSS_TEACHING if arm != "2T-labeled"]
        return self._cross(replace(HIPPOCAMPUS_FEW, epochs=4), teachers, arms=arms)

    def cross_sunnybrook(self) -> list[Job]:
        """Choi's Table 3 on the same cases."""
        return self._cross(replace(SUNNYBROOK_FEW, epochs=10), (["resnet18"], [RECOMMENDED]))

    def cross_sunnybrook_use_net(self) -> list[Job]:
        """The same with the paper's teachers, a quarter as wide; one seed."""
        teachers = ["use-net,width=0.25"], ["use-net,width=0.25", *INTERPOLATION]
        return self._cross(replace(SUNNYBROOK_FEW, epochs=10), teachers, "-use-net", ("1T", "2T"), SEEDS[:1])

    def coarse(self) -> list[Job]:
        """Coarse to fine against a sliding window over a field of view of 27 times the volume."""
        task, coarse = HIPPOCAMPUS_FEW, replace(HIPPOCAMPUS_FEW, configuration="3d_lowres", patch_size=None, epochs=3)
        raw = self.folder / "raw" / self._name(task)
        plans = self.folder / "preprocessed" / self._name(task) / "nnUNetPlans.json"

        def prepare() -> None:
            data.add_lowres(plans, (2, 2, 2), (24, 32, 24))
            data.write_wide(raw, 3, 16)

        number, images, labels = str(task.dataset), str(raw / "imagesWide"), str(raw / "labelsWide")
        results, outputs = self.folder / "results" / self._name(task), self.folder / "predictions" / "wide"
        fine = ["-d", number, "-c", task.configuration, "-f", "all", "-tr", STORED, "-p", "Unlabeled-1"]
        stages = ["--coarse", str(results / f"{TEACHER}__Coarse__3d_lowres:all")]
        stages += ["--fine", str(results / f"{STORED}__Unlabeled-1__{task.configuration}:all"), "--keep-largest"]
        common = ["-i", images, "-device", "cpu", "--disable_tta", "-o"]
        commands = [
            ["nnUNetv2_preprocess", "-d", number, "-c", "3d_lowres", "-plans_name", "nnUNetPlans", "-np", "1"],
            coarse.plan("Coarse", "--role", "teacher", "--student", STUDENT),
            coarse.train("Coarse", TEACHER, "all"),
            ["nnUNetv2_kd", "predict", *common, str(outputs / "coarse-to-fine"), *stages, "--margin-mm", "4"],
            ["nnUNetv2_predict", *common, str(outputs / "whole"), *fine, "-npp", "0", "-nps", "0"],
        ]
        for name in ("coarse-to-fine", "whole"):
            commands.append(["nnUNetv2_kd", "evaluate", "-i", str(outputs / name), "-r", labels, "-np", "1"])
        return [Job("5-coarse", commands, [f"{number}-Unlabeled-1"], prepare)]

    def ensemble_hippocampus(self) -> list[Job]:
        """Three teachers that are trained for long; students of at most a tenth of one, distilled or not."""
        task = replace(HIPPOCAMPUS, epochs=60, teacher_epochs=40)
        arms = {"Alone": None, "Stored": [], "Soft": ["hard_loss.weight=0"]}
        return self._teachers(task, "0", "Ensemble-") + self._ensemble_students(task, TENTH, arms, SEEDS)

    def ensemble_hippocampus_larger(self) -> list[Job]:
        """The recommended student of the same teachers with half of the schedule, distilled or not; one seed."""
        arms = {"Larger": [], "Larger-alone": None}
        return self._ensemble_students(replace(HIPPOCAMPUS, epochs=30), RECOMMENDED, arms, SEEDS[:1])

    def acdc_teachers(self) -> list[Job]:
        """Three teachers of half of nnU-Net's width, plain and mirrored, and their ensembles; soft labels."""
        return self._teachers(ACDC, "0")

    def acdc_few_teachers(self) -> list[Job]:
        """The same of seven labeled patients."""
        return self._teachers(ACDC_FEW, "0")

    def acdc_tenth(self) -> list[Job]:
        """A student of a tenth of a teacher's parameters that inherits, distilled or not; one seed."""
        jobs = self._inheriting(ACDC, "Tenth", DEEP_TENTH, ["untrained"], SEEDS[:1], 1)
        return jobs + self._inheriting(ACDC, "Tenth", DEEP_TENTH, ONE_SCHEDULE, SEEDS[:1])

    def acdc_tenth_long(self) -> list[Job]:
        """The pair that decides, with three times the schedule."""
        return self._inheriting(ACDC, "Tenth-long", DEEP_TENTH, ["random", "distilled"], SEEDS, 36)

    def acdc_tenth_longest(self) -> list[Job]:
        """The same pair with nine times the schedule; one seed."""
        return self._inheriting(ACDC, "Tenth-longest", DEEP_TENTH, ["distilled", "random"], SEEDS[:1], 108)

    def acdc_quarter(self) -> list[Job]:
        """A student of a quarter of a teacher's parameters, with three times the schedule."""
        return self._inheriting(ACDC, "Quarter-long", "width=0.25", ["random", "distilled"], SEEDS, 36)

    def acdc_same(self) -> list[Job]:
        """A student with the architecture of its teachers, which starts as the best of them."""
        return self._inheriting(ACDC, "Same", "width=0.5", ["inherited", "distilled"], SEEDS)

    def acdc_few_long(self) -> list[Job]:
        """Seven labeled patients, unlabeled ones in half of every batch; three times the schedule, one seed."""
        arms = ["random", "distilled", "unlabeled"]
        jobs = self._inheriting(ACDC_FEW, "Tenth", DEEP_TENTH, ["untrained"], SEEDS[:1], 1)
        return jobs + self._inheriting(ACDC_FEW, "Tenth-long", DEEP_TENTH, arms, SEEDS[:1], 24)

    def networks_hippocampus(self) -> list[Job]:
        """Students of other architectures, soft labels of one teacher."""
        return self._networks(replace(HIPPOCAMPUS, epochs=6), NETWORKS)

    def networks_sunnybrook(self) -> list[Job]:
        """Students of other architectures, soft labels of one teacher."""
        return self._networks(SUNNYBROOK, NETWORKS_2D)

    def _ablation(self, task: Task) -> list[Job]:
        jobs = self._teacher(task, "Half", "0")
        needs = [jobs[-1].name]
        name = ["--teachers", f"{TEACHER}__Half__{task.configuration}:0"]
        for seed in SEEDS:
            arms = {a: [f"{TERMS[t]}.weight=0" for t in TERMS if t not in a and a != "all"] for a in ABLATION}
            if task is HIPPOCAMPUS:  # with a single pair of classes both forms are the same
                arms["RA-vector"] = [*arms["RA"], "features.region_affinity.form=vector"]
            arms["light"] = [f"{TERMS[t]}.weight=0.1" for t in ("IM", "RA")]
            for arm, settings in arms.items():
                more = ["features.region_affinity.form=mean", "features.importance.scale=size_free", *settings]
                more += [*name, "--recipe", "qin2021"]
                jobs.append(self._student(task, f"Qin-{arm}-{seed}", FEATURE, "0", seed, more, needs))
            if seed == SEEDS[0]:
                printed = ["features.region_affinity.form=mean", "features.importance.scale=paper"]
                printed += [*name, "--recipe", "qin2021"]
                jobs.append(self._student(task, f"Qin-printed-{seed}", FEATURE, "0", seed, printed, needs))
            jobs.append(self._student(task, f"Stored-{seed}", STORED, "0", seed, name, needs))
            jobs.append(self._student(task, f"Alone-{seed}", TEACHER, "0", seed, name, needs))
        return jobs

    def _teachers(self, task: Task, fold: str, prefix: str = "") -> list[Job]:
        """Three teachers that differ in the seed, their ensemble on the test cases, and their soft labels."""
        names = [f"{prefix}Half{seed}" for seed in TEACHER_SEEDS]
        jobs = [
            job
            for seed, name in zip(TEACHER_SEEDS, names, strict=True)
            for job in self._teacher(task, name, fold, seed)
        ]
        trained = [f"{task.dataset}-{name}-{fold}" for name in names]
        jobs.append(self._export(task, f"{prefix}Half", self._members(task, fold, prefix), trained))
        folder = self.folder / "predictions" / str(task.dataset)
        output = str(folder / f"{prefix}Half-ensemble")
        labels = str(self.folder / "raw" / self._name(task) / "labelsTs")
        combine = ["nnUNetv2_ensemble", "-i", *(str(folder / f"{n}-{fold}") for n in names), "-o", output, "-np", "1"]
        evaluate = ["nnUNetv2_kd", "evaluate", "-i", output, "-r", labels, "-np", "1"]
        needs = [f"{name}-test" for name in trained]
        return [*jobs, Job(f"{task.dataset}-{prefix}Half-ensemble-test", [combine, evaluate], needs)]

    def _members(self, task: Task, fold: str, prefix: str = "") -> list[str]:
        names = [f"{prefix}Half{seed}" for seed in TEACHER_SEEDS]
        return ["--teachers", *(f"{TEACHER}__{name}__{task.configuration}:{fold}" for name in names)]

    def _ensemble_students(
        self, task: Task, network: str, arms: Mapping[str, list[str] | None], seeds: Sequence[int]
    ) -> list[Job]:
        """Students of the teachers of ``ensemble_hippocampus``; an arm without settings learns from none."""
        prefix, jobs = "Ensemble-", []
        for arm, settings in arms.items():
            trainer, arguments, needs = TEACHER, ["--student", network], [f"data-{task.dataset}-folds"]
            if settings is not None:
                trainer, needs = STORED, [f"{task.dataset}-{prefix}Half-softlabels"]
                arguments = [*settings, *arguments, *self._members(task, "0", prefix)]
            for seed in seeds:
                jobs.append(self._student(task, f"{prefix}{arm}-{seed}", trainer, "0", seed, arguments, needs))
        return jobs

    def _inheriting(
        self,
        task: Task,
        prefix: str,
        network: str,
        arms: Sequence[str],
        seeds: Sequence[int] = SEEDS,
        epochs: int | None = None,
        settings: Sequence[str] = (),
    ) -> list[Job]:
        """Students of three teachers that start at random or inherit, and learn from labels or teachers."""
        members = self._members(task, "0")
        trained = [f"{task.dataset}-Half{seed}-0" for seed in TEACHER_SEEDS]
        jobs = []
        for seed in seeds:
            for arm in arms:
                trainer, more = INHERITANCE[arm]
                needs = [f"{task.dataset}-Half-softlabels"] if trainer == STORED else trained
                arguments = [*([f"schedule.num_epochs={epochs}"] if epochs else []), *more, *settings]
                arguments += ["--student", network, *members]
                jobs.append(self._student(task, f"{prefix}-{arm}-{seed}", trainer, "0", seed, arguments, needs))
        return jobs

    def _export(self, task: Task, name: str, members: Sequence[str], needs: Sequence[str]) -> Job:
        plan = task.plan(f"{name}-Export", "--student", STUDENT, *members)
        return Job(f"{task.dataset}-{name}-softlabels", [plan, task.softlabels(f"{name}-Export")], needs)

    def _few_label_students(
        self,
        task: Task,
        prefix: str = "",
        schedule: Sequence[str] = (),
        arms: Sequence[str] = tuple(FEW_LABELS),
        members: Sequence[str] = (),
        needs: Sequence[str] = (),
    ) -> list[Job]:
        """Students of ``members``, or of the teachers of few labels."""
        members = members or self._members(task, "all")
        needs = needs or [f"{task.dataset}-Half-softlabels"]
        return [
            self._student(task, f"{prefix}{arm}-{seed}", trainer, "all", seed, [*schedule, *settings, *members], needs)
            for seed in SEEDS
            for arm, (trainer, settings) in FEW_LABELS.items()
            if arm in arms
        ]

    def _all_labels(self, task: Task, prefix: str = "", schedule: Sequence[str] = ()) -> list[Job]:
        """The student alone where no label is missing: what unlabeled images could give at most."""
        needs = [f"data-{task.dataset}"]
        return [
            self._student(task, f"{prefix}All-labels-{seed}", TEACHER, "all", seed, schedule, needs) for seed in SEEDS
        ]

    def _cross(
        self,
        task: Task,
        teachers: Sequence[Sequence[str]],
        suffix: str = "",
        arms: Sequence[str] = tuple(CROSS_TEACHING),
        seeds: Sequence[int] = SEEDS,
    ) -> list[Job]:
        """Two teachers that differ in the decoder (``--student`` and what follows it), and their students."""
        planned = f"{task.dataset}-cross-plans{suffix}"
        plans = [
            task.plan(f"Cross{i}{suffix}", "--role", "teacher", "--student", *teacher)
            for i, teacher in enumerate(teachers, 1)
        ]
        jobs = [Job(planned, plans, [f"data-{task.dataset}"])]
        for seed in seeds:
            for arm in arms:
                which, settings = CROSS_TEACHING[arm]
                names = json.dumps([f"Cross{i}{suffix}" for i in which])
                more = [f"cross_teaching.teachers={names}", *settings]
                more += ["--recipe", "choi2022", "--batch_size", str(task.batch_size // 2)]
                jobs.append(self._student(task, f"Cross-{arm}{suffix}-{seed}", CROSS, "all", seed, more, [planned]))
        return jobs

    def _networks(self, task: Task, networks: Sequence[str]) -> list[Job]:
        jobs = self._teacher(task, "Half", "0")
        needs = [jobs[-1].name]
        name = ["--teachers", f"{TEACHER}__Half__{task.configuration}:0"]
        for seed in SEEDS:
            for network in (*networks, *BATCH_NORM_NETWORKS):
                label = "".join(c if c.isalnum() else "-" for c in network)
                settings = [*name, "--student", network]
                if task.batch_size < 4 and network in BATCH_NORM_NETWORKS:
                    label += "-instance"
                    settings += INSTANCE_NORM
                jobs.append(self._student(task, f"Net-{label}-{seed}", STORED, "0", seed, settings, needs))
        return jobs

    def _teacher(self, task: Task, name: str, fold: str, seed: int = 1) -> list[Job]:
        """Plans, mirrored prediction of the test cases, and training of a network of half the width."""
        network = ["--role", "teacher", "--student", "width=0.5"]
        planned = f"{task.dataset}-plan-{name}"
        plan = task.plan(name, *network, epochs=task.teacher_epochs, seed=seed)
        needs = [f"data-{task.dataset}" + ("-folds" if fold != "all" else "")]
        trained = f"{task.dataset}-{name}-{fold}"
        return [
            Job(planned, [plan], needs),
            Job(f"{trained}-test", self._test(task, name, TEACHER, fold, mirrored=True), [trained]),
            Job(trained, [task.train(name, TEACHER, fold)], [planned]),
        ]

    def _student(
        self, task: Task, name: str, trainer: str, fold: str, seed: int, arguments: Sequence[str], needs: Sequence[str]
    ) -> Job:
        network = [] if "--student" in arguments else ["--student", STUDENT]
        plan = task.plan(name, *arguments, *network, seed=seed)
        commands = [plan, task.train(name, trainer, fold), *self._test(task, name, trainer, fold, mirrored=False)]
        return Job(f"{task.dataset}-{name}", commands, needs)

    def _test(self, task: Task, name: str, trainer: str, fold: str, mirrored: bool) -> list[list[str]]:
        raw = self.folder / "raw" / self._name(task)
        output = str(self.folder / "predictions" / str(task.dataset) / (f"{name}-{fold}" if mirrored else name))
        predict = ["nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", output, "-d", str(task.dataset)]
        predict += ["-c", task.configuration, "-f", fold, "-tr", trainer, "-p", name, "-device", "cpu"]
        predict += ["-npp", "0", "-nps", "0", "--save_probabilities" if mirrored else "--disable_tta"]
        predict += ["-step_size", str(task.step_size)]
        return [predict, ["nnUNetv2_kd", "evaluate", "-i", output, "-r", str(raw / "labelsTs"), "-np", "1"]]

    def _name(self, task: Task) -> str:
        return f"Dataset{task.dataset:03d}_{DATASETS[task.dataset]}"
