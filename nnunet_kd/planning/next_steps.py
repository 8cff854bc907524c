"""What comes after the plans: the commands that lead to a prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_kd.config import TEACHER_TRAINER, KDConfig
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.teachers.loading import find_trainer
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError


def teaching_source(config: KDConfig) -> Any:
    """Where the student's trainer takes its teaching from: a class of ``nnunet_kd.teaching``, which says what it needs.

    Raises:
        UserError: when there is no such trainer, or it trains no students.
    """
    name = config.student.trainer
    trainer = find_trainer(name)
    if not hasattr(trainer, "source_for"):
        raise UserError(f"kd.student.trainer: {name} trains no students of teachers; name another trainer.")
    return trainer.source_for(config)


def has_networks_that_teach(config: KDConfig) -> bool:
    """Whether trained networks teach the student: not where it learns beside its peers, nor from imported maps."""
    return config.role == "student" and config.ensemble.from_folder is None and teaching_source(config).has_teachers


def missing_peers(config: KDConfig, preprocessed: Path) -> list[str]:
    """Plans of networks that are trained beside the student, and are not there."""
    if config.role == "teacher" or teaching_source(config).has_teachers:
        return []
    names = dict.fromkeys(config.cross_teaching.teachers)
    return [name for name in names if name != "same" and not (preprocessed / f"{name}.json").is_file()]


def next_commands(
    models: Sequence[PlannedModel],
    config: KDConfig,
    dataset: str,
    preprocessed: Path,
    missing: Sequence[str],
    weight_files: Mapping[str, Path],
) -> str:
    """The commands that lead from the plans to a prediction, in order.

    Args:
        models: what the plans describe, in the order of training.
        config: their ``"kd"`` block.
        dataset: as the user gave it.
        preprocessed: ``nnUNet_preprocessed/DatasetXXX_NAME``.
        missing: configurations whose default teacher is not trained yet.
        weight_files: to start from, by configuration.
    """
    lines = ["Next (FOLD: 0, 1, 2, 3, 4 or all):"]
    for model in models:
        c, p = model.configuration, model.plans.plans_name
        where = f"-d {dataset} -c {c} -p {p}"
        trainer = TEACHER_TRAINER if config.role == "teacher" else config.student.trainer
        if config.role == "student":
            source = teaching_source(config)
            if c in missing and has_networks_that_teach(config):
                lines.append(f"  nnUNetv2_train {dataset} {c} FOLD -tr {config.default_teacher} -p {config.base_plans}")
            if source.wants_unlabeled(config):
                space = StudentSpace(model.plans, c, model.dataset_json, preprocessed, None)
                there = len(space.unlabeled_cases)
                more = f"  # only for more images: {there} cases are there" if there else ""
                lines.append(f"  nnUNetv2_kd preprocess-unlabeled {where}{more}")
            if source.stores_soft_labels:
                lines.append(f"  nnUNetv2_kd softlabels {where}")
        start = f" -pretrained_weights {weight_files[c]}" if c in weight_files else ""
        lines.append(f"  nnUNetv2_train {dataset} {c} FOLD -tr {trainer} -p {p}{start}")
        if config.role == "student":
            previous = model.manager.previous_stage_name
            cascade = f" -prev_stage_predictions OUTPUT_OF_{previous}" if previous else ""
            options = f"-c {c} -f FOLD -tr {trainer} -p {p} -i INPUT -o OUTPUT{cascade}"
            lines.append(f"  nnUNetv2_predict -d {dataset} {options}")
    return "\n".join(lines)


def commands_of_seeds(names: Sequence[str], order: Sequence[str], dataset: str) -> str:
    """The trainings of teachers that differ in the seed, and plans for a student of all of them.

    Args:
        names: of their plans.
        order: configurations in the order of training.
        dataset: as the user gave it.
    """
    lines = ["Next (FOLD: 0, 1, 2, 3, 4 or all):"]
    for c in order:
        lines += [f"  nnUNetv2_train {dataset} {c} FOLD -tr {TEACHER_TRAINER} -p {p}" for p in names]
        teachers = " ".join(f"{TEACHER_TRAINER}__{p}__{c}" for p in names)
        lines.append(
            f"  nnUNetv2_kd plan -d {dataset} -c {c} -p {names[0]} --teachers {teachers} --student SPEC -o STUDENT"
        )
    return "\n".join(lines)


def after_preprocessing_unlabeled(config: KDConfig, plans_name: str, dataset: str, configuration: str) -> str:
    """The command after ``preprocess-unlabeled``: soft labels or training, or plans that ask for unlabeled cases.

    Args:
        config: the ``"kd"`` block of the plans that were named.
        plans_name: of these plans.
        dataset: as the user gave it.
        configuration: that was preprocessed.
    """
    where = f"-d {dataset} -c {configuration} -p"
    if config.role == "student" and (source := teaching_source(config)).wants_unlabeled(config):
        if source.stores_soft_labels:
            return f"nnUNetv2_kd softlabels {where} {plans_name}"
        return f"nnUNetv2_train {dataset} {configuration} FOLD -tr {config.student.trainer} -p {plans_name}"
    base = config.base_plans if config.role == "student" and config.base_plans else plans_name
    return f"nnUNetv2_kd plan {where} {base} -o NAME --set unlabeled.fraction=0.5"
