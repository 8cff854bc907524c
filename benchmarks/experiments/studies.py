"""Studies as files: ``studies/*.yaml`` say what is trained with what, ``arms/*.yaml`` what several of them compare."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments import data
from benchmarks.experiments.commands import Training
from benchmarks.experiments.jobs import Job

HERE = Path(__file__).parent
TEACHER, STUDENT = "nnUNetTrainerKDTeacher", "nnUNetTrainerKDEnsemble"
SMALL = "width=0.25,blocks=0.5,decoder=1"


def _load(file: str) -> dict[str, Any]:
    return yaml.safe_load((HERE / file).read_text(encoding="utf-8"))


def study_names() -> list[str]:
    """All studies."""
    return sorted(f.stem for f in (HERE / "studies").glob("*.yaml"))


def environment(folder: Path) -> dict[str, str]:
    """nnU-Net's folders; one worker process; batches made by the training's own process, and so repeatable."""
    folders = {f"nnUNet_{n}": str(folder / n) for n in ("raw", "preprocessed", "results")}
    return folders | {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "PATH": os.environ["PATH"]}


@dataclass(frozen=True)
class Teachers:
    """Networks that are trained with several seeds or folds.

    Attributes:
        seeds: names of plans, and the seed of each.
        folds: of each of them.
        student: the network, as ``plan --student`` names it.
        of: data set on which they are trained; empty for that of the study.
        export: name of the plans with which their soft labels are exported; empty: every student exports them itself.
        test: whether they predict the test cases, mirrored.
        test_plain: whether they do so without mirroring, too.
        test_ensemble: whether their ensemble does, in each of these ways.
        trained: the trainer with which another study trains them, as its students; empty: they are trained here.
        set: keys of their ``"kd"`` block.
        needs: jobs that must be done before, beside the data set.
    """

    seeds: Mapping[str, int]
    folds: Sequence[str] = ("0",)
    student: str = "width=0.5"
    of: str = ""
    export: str = ""
    test: bool = True
    test_plain: bool = False
    test_ensemble: bool = False
    trained: str = ""
    set: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()

    @property
    def trainer(self) -> str:
        """Class of their trainer."""
        return self.trained or TEACHER

    def job(self, dataset: int, plans: str, fold: str) -> str:
        """Name of the job that trains one of them."""
        return f"{dataset}-{plans}" if self.trained else f"{dataset}-{plans}-{fold}"

    def tests(self) -> list[tuple[str, bool]]:
        """How they predict the test cases: the ending of names, and whether they mirror."""
        return [("", True)] * self.test + [("-plain", False)] * self.test_plain


@dataclass(frozen=True)
class Arm:
    """Students that are compared with others.

    Attributes:
        name: of the plans, with ``{arm}``, ``{seed}`` and ``{suffix}``.
        seeds: one student each.
        set: keys of the ``"kd"`` block.
        trainer: name of its class.
        student: the network, as ``plan --student`` names it.
        recipe: name of a recipe; empty for none.
        options: more arguments of ``plan``.
        fold: that is trained and tested.
        teachers: whether the plans name the study's teachers.
        needs: ``softlabels``, ``teachers``, ``plans`` or ``data``: what must be done before; empty for soft labels
            where the teachers' are exported, else for the teachers.
        data: another data set than the study's.
        suffix: what ``{suffix}`` stands for.
    """

    name: str
    seeds: Sequence[int]
    set: Mapping[str, Any]
    trainer: str = STUDENT
    student: str = SMALL
    recipe: str = ""
    options: Sequence[str] = ()
    fold: str = "0"
    teachers: bool = True
    needs: str = ""
    data: Any = None
    suffix: str = ""


class Studies:
    """Makes the jobs of all studies.

    Args:
        source: folder with the images and labels of the public data sets.
        folder: where everything is written.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self._data = _load("datasets.yaml")

    def jobs(self) -> dict[str, Job]:
        """Every job of every study and data set, by name; what two studies share stands once."""
        result = {job.name: job for name in self._data for job in self._dataset(name)}
        for study in study_names():
            result |= {job.name: job for job in self.study(study)}
        return result

    def study(self, name: str) -> list[Job]:
        """The jobs of a study, without those of its data sets and of other studies."""
        content = _load(f"studies/{name}.yaml")
        training = self._training(content["data"])
        described = content.get("teachers")
        borrowed = described is not None and "from" in described
        if borrowed:
            described = _load(f"studies/{described['from']}.yaml")["teachers"]
        teachers = Teachers(**described) if described else None
        jobs = [] if teachers is None or borrowed else list(self._teachers(training, teachers))
        plans = content.get("plans", {})
        planned = f"{training.dataset}-plans-{'-'.join(plans)}"
        if plans:
            commands = [
                training.plan(p, network, _schedule(1, training.epochs), _TEACH) for p, network in plans.items()
            ]
            jobs.append(Job(planned, commands, [f"data-{training.dataset}"]))
        for arm, settings in self._arms(content.get("students", ())):
            jobs += self._students(training, teachers, planned, arm, settings)
        for job, steps in content.get("commands", {}).items():
            jobs.append(self._written(training, job, steps))
        return jobs

    def _arms(self, blocks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Arm]]:
        for block in blocks:
            shared = {k: v for k, v in block.items() if k not in ("arms", "only")}
            arms = _load(f"arms/{block['arms']}.yaml") if isinstance(block["arms"], str) else block["arms"]
            for name in block.get("only", arms):
                settings = {**shared.get("set", {}), **arms[name].get("set", {})}
                yield name, Arm(**{**shared, **arms[name], "set": settings})

    def _students(
        self, training: Training, teachers: Teachers | None, planned: str, name: str, arm: Arm
    ) -> Iterator[Job]:
        needs, members = [planned], []
        if arm.data is not None:
            training = self._training(arm.data)
        elif teachers is not None:
            members = self._members(training, teachers) if arm.teachers else []
            needs = self._needed(training, teachers, arm)
        if arm.needs == "data":
            needs = [_data_job(training, arm.fold)]
        for seed in arm.seeds:
            words = {"arm": name, "seed": seed, "suffix": arm.suffix}
            plans = arm.name.format(**words)
            settings = _schedule(seed, training.epochs) | {k: _fill(v, words) for k, v in arm.set.items()}
            options = [*(["--recipe", arm.recipe] if arm.recipe else []), *arm.options, *members]
            plan = training.plan(plans, [arm.student], settings, options)
            train = training.train(plans, arm.trainer, arm.fold)
            test = training.test(plans, arm.trainer, arm.fold)
            yield Job(f"{training.dataset}-{plans}", [plan, train, *test], needs)

    def _needed(self, training: Training, teachers: Teachers, arm: Arm) -> list[str]:
        if teachers.export and arm.needs in ("", "softlabels"):
            return [f"{training.dataset}-{teachers.export}-softlabels"]
        number = self._data[teachers.of]["number"] if teachers.of else training.dataset
        return [teachers.job(number, name, fold) for name in teachers.seeds for fold in teachers.folds]

    def _members(self, training: Training, teachers: Teachers) -> list[str]:
        folder = f"{self._training(teachers.of).results}/" if teachers.of else ""
        names = [(name, fold) for name in teachers.seeds for fold in teachers.folds]
        return ["--teachers", *(f"{folder}{teachers.trainer}__{n}__{training.configuration}:{f}" for n, f in names)]

    def _teachers(self, training: Training, teachers: Teachers) -> Iterator[Job]:
        own = self._training(teachers.of) if teachers.of else training
        networks = [(plans, fold) for plans in teachers.seeds for fold in teachers.folds]
        for plans, seed in teachers.seeds.items() if not teachers.trained else ():
            needs = [_data_job(own, teachers.folds[0]), *teachers.needs]
            settings = _schedule(seed, own.teacher_epochs) | dict(teachers.set)
            yield Job(f"{own.dataset}-plan-{plans}", [own.plan(plans, [teachers.student], settings, _TEACH)], needs)
        for plans, fold in networks:
            job = teachers.job(own.dataset, plans, fold)
            if not teachers.trained:
                yield Job(job, [own.train(plans, teachers.trainer, fold)], [f"{own.dataset}-plan-{plans}"])
            for ending, mirrored in teachers.tests():
                output = f"{plans}-{fold}{ending}"
                commands = own.test(plans, teachers.trainer, fold, output, mirrored, probabilities=True)
                yield Job(f"{job}-test{ending}", commands, [job])
        trained = [teachers.job(own.dataset, plans, fold) for plans, fold in networks]
        if teachers.export:
            plans = f"{teachers.export}-Export"
            settings, members = _schedule(1, training.epochs), self._members(training, teachers)
            commands = [training.plan(plans, [SMALL], settings, members), training.softlabels(plans)]
            yield Job(f"{training.dataset}-{teachers.export}-softlabels", commands, trained)
        for ending, _ in teachers.tests() if teachers.test_ensemble else ():
            name, members = f"{teachers.export}-ensemble", [f"{plans}-{fold}{ending}" for plans, fold in networks]
            tested = [f"{job}-test{ending}" for job in trained]
            yield Job(f"{own.dataset}-{name}-test{ending}", own.test_ensemble(name + ending, members), tested)

    def _written(self, training: Training, name: str, steps: Mapping[str, Any]) -> Job:
        words = {n: str(getattr(training, n)) for n in ("raw", "results")} | {
            "predictions": str(self.folder / "predictions")
        }
        preprocessed = self.folder / "preprocessed" / training.name
        prepare = getattr(data, steps["prepare"]) if "prepare" in steps else None
        commands = [[_fill(word, words) for word in shlex.split(command)] for command in steps["run"]]
        return Job(name, commands, steps["needs"], prepare and partial(prepare, training.raw, preprocessed))

    def _training(self, described: str | Mapping[str, Any]) -> Training:
        changed = {"of": described} if isinstance(described, str) else dict(described)
        content = self._data[changed.pop("of")]
        name = f"Dataset{content['number']:03d}_{content['name']}"
        return Training(content["number"], name, self.folder, **{**content["training"], **changed})

    def _dataset(self, name: str) -> Iterator[Job]:
        content, training = self._data[name], self._training(name)
        groups = data.groups(content["source"], self.source)

        def cases(part: str) -> list[str]:
            return [case for group in content.get(part, ()) for case in groups[group]]

        parts = [cases(part) for part in ("train", "test", "unlabeled")]
        write = partial(data.write_dataset, self.source / content["source"], training.raw, content["labels"], *parts)
        where = ["-d", str(training.dataset), "-c", training.configuration, "-np", "1"]
        commands = [["nnUNetv2_plan_and_preprocess", *where]]
        if "unlabeled" in content:
            commands.append(["nnUNetv2_kd", "preprocess-unlabeled", *where])
        yield Job(f"data-{training.dataset}", commands, (), write)
        if "folds" in content:
            folds = [(groups[train], groups[val]) for train, val in content["folds"]]
            file = self.folder / "preprocessed" / training.name / "splits_final.json"
            write = partial(data.write_splits, file, folds)
            yield Job(f"data-{training.dataset}-folds", (), [f"data-{training.dataset}"], write)


_TEACH = ("--role", "teacher")


def _schedule(seed: int, epochs: int) -> dict[str, Any]:
    return {"schedule.num_epochs": epochs, "schedule.seed": seed}


def _data_job(training: Training, fold: str) -> str:
    return f"data-{training.dataset}" + ("" if fold == "all" else "-folds")


def _fill(value: Any, words: Mapping[str, Any]) -> Any:
    """Replaces ``{word}`` in texts and lists of texts."""
    if isinstance(value, list):
        return [_fill(v, words) for v in value]
    return value.format(**words) if isinstance(value, str) else value
