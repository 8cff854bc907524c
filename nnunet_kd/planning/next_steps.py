"""What comes after the plans: the commands that lead to a prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.config import KDConfig


def reads_soft_labels(config: KDConfig) -> bool:
    """Whether the student's trainer learns from stored soft labels rather than from teachers in memory."""
    stored = config.multi_teacher.source == "stored"
    trainer = config.student.trainer
    return trainer == "nnUNetTrainerKDEnsemble" or (trainer == "nnUNetTrainerKDMultiTeacher" and stored)


def uses_unlabeled(config: KDConfig) -> bool:
    """Whether the student's trainer learns from unlabeled cases."""
    if config.student.trainer == "nnUNetTrainerKDCrossTeaching":
        return config.cross_teaching.unlabeled.weight > 0
    return config.student.trainer == "nnUNetTrainerKDEnsemble" and config.unlabeled.fraction > 0


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
            if c in missing and trainer != "nnUNetTrainerKDCrossTeaching":
                lines.append(f"  nnUNetv2_train {dataset} {c} FOLD -tr {config.default_teacher} -p {config.base_plans}")
            if uses_unlabeled(config):
                lines.append(f"  nnUNetv2_kd preprocess-unlabeled -d {dataset} -c {c} -p {p}")
            if reads_soft_labels(config):
                lines.append(f"  nnUNetv2_kd softlabels -d {dataset} -c {c} -p {p}")
        start = f" -pretrained_weights {weight_files[c]}" if c in weight_files else ""
        lines.append(f"  nnUNetv2_train {dataset} {c} FOLD -tr {trainer} -p {p}{start}")
        if config.role == "student":
            previous = plans.get_configuration(c).previous_stage_name
            cascade = f" -prev_stage_predictions OUTPUT_OF_{previous}" if previous else ""
            options = f"-c {c} -f FOLD -tr {trainer} -p {p} -i INPUT -o OUTPUT{cascade}"
            lines.append(f"  nnUNetv2_predict -d {dataset} {options}")
    return "\n".join(lines)
