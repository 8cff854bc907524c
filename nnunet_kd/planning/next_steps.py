"""What comes after the plans: the commands that lead to a prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.config import KDConfig
from nnunet_kd.teachers.loading import find_trainer
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


def next_commands(
    plans: PlansManager,
    order: Sequence[str],
    config: KDConfig,
    dataset: str,
    missing: Sequence[str],
    weight_files: Mapping[str, Path],
) -> str:
    """The commands that lead from the plans to a prediction, in order."""
    p = plans.plans_name
    lines = ["Next (FOLD: 0, 1, 2, 3, 4 or all):"]
    for c in order:
        trainer = "nnUNetTrainerKDTeacher" if config.role == "teacher" else config.student.trainer
        if config.role == "student":
            source = teaching_source(config)
            if c in missing and source.has_teachers:
                lines.append(f"  nnUNetv2_train {dataset} {c} FOLD -tr {config.default_teacher} -p {config.base_plans}")
            if source.wants_unlabeled(config):
                lines.append(f"  nnUNetv2_kd preprocess-unlabeled -d {dataset} -c {c} -p {p}")
            if source.stores_soft_labels:
                lines.append(f"  nnUNetv2_kd softlabels -d {dataset} -c {c} -p {p}")
        start = f" -pretrained_weights {weight_files[c]}" if c in weight_files else ""
        lines.append(f"  nnUNetv2_train {dataset} {c} FOLD -tr {trainer} -p {p}{start}")
        if config.role == "student":
            previous = plans.get_configuration(c).previous_stage_name
            cascade = f" -prev_stage_predictions OUTPUT_OF_{previous}" if previous else ""
            options = f"-c {c} -f FOLD -tr {trainer} -p {p} -i INPUT -o OUTPUT{cascade}"
            lines.append(f"  nnUNetv2_predict -d {dataset} {options}")
    return "\n".join(lines)
