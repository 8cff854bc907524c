"""What a user should know of new plans before going on."""

from collections.abc import Sequence

from nnunet_kd.planning.draft import Draft
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.planning.next_steps import missing_peers, teaching_source


def notes(draft: Draft, models: Sequence[PlannedModel]) -> list[str]:
    """Sentences about data, networks and teachers that are missing or do not fit.

    Args:
        draft: what the plans were made from.
        models: what the plans describe, in the order of training.
    """
    config, preprocessed, dataset = draft.config, draft.paths.preprocessed, draft.request.dataset
    result = []
    for model in models:
        c, manager = model.configuration, model.manager
        if not (preprocessed / manager.data_identifier).is_dir():
            command = f"nnUNetv2_preprocess -d {dataset} -plans_name {config.base_plans} -c {c}"
            result.append(f"{preprocessed / manager.data_identifier} is missing; preprocess with: {command}")
        if manager.network_arch_class_name.startswith("nnunet_kd."):
            result.append(f"checkpoints of {c} need the package nnunet_kd at prediction, not its trainers.")
        if previous := manager.previous_stage_name:
            result.append(f"{c} refines the prediction of {previous}, whose cost comes on top.")
        most = teaching_source(config).most_teachers if config.role == "student" else None
        networks = sum(len(m.folds) for m in draft.teachers(c)) if most else 0
        if most and networks > most and config.ensemble.membership != "same_fold":
            result.append(
                f"{config.student.trainer} has one teacher network, {c} has {networks}; name one with --teachers "
                "FOLDER:FOLD, set ensemble.membership=same_fold, or use nnUNetTrainerKDMultiTeacher."
            )
    for teacher in missing_peers(config, preprocessed):
        result.append(
            f"{teacher}.json is missing, whose network cross_teaching.teachers names; make it with: "
            f"nnUNetv2_kd plan -d {dataset} -c {' '.join(draft.order)} --role teacher -o {teacher} --student ..."
        )
    if config.teachers and len(models) > 1:
        result.append(f"these teachers teach every configuration of {models[0].plans.plans_name}; -c keeps only one.")
    return result
