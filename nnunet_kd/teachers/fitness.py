"""What a teacher was trained on, compared with the student's data: labels, channels, preprocessing."""

from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.orientation import check_readers


def reader_of(plans: PlansManager) -> str:
    """Class name of the reader of images that the plans name."""
    return str(plans.plans["image_reader_writer"])


def preprocessing_differences(student: StudentSpace, teacher: TeacherModel) -> list[str]:
    """What makes the teacher's preprocessed images others than the student's; empty: it reads the student's images."""
    of_student = preprocessing_of(student.plans_manager, student.configuration_manager, student.dataset_json)
    of_teacher = preprocessing_of(teacher.plans_manager, teacher.configuration_manager, teacher.dataset_json)
    return [key for key, value in of_student.items() if of_teacher[key] != value]


def preprocessing_of(plans: PlansManager, configuration: ConfigurationManager, dataset_json: Mapping[str, Any]) -> dict:
    """Everything that decides what preprocessed images look like."""
    keys = (
        "preprocessor_name",
        "spacing",
        "normalization_schemes",
        "use_mask_for_norm",
        "resampling_fn_data",
        "resampling_fn_data_kwargs",
    )
    return {
        **{k: configuration.configuration[k] for k in keys},
        "transpose_forward": plans.transpose_forward,
        "image_reader_writer": reader_of(plans),
        "intensities": plans.foreground_intensity_properties_per_channel
        if "CTNormalization" in configuration.normalization_schemes
        else None,
        "channels": len(channel_names(dataset_json)),
    }


def check_teacher(student: StudentSpace, teacher: TeacherModel) -> None:
    """Refuses a teacher whose outputs mean something else, or lie in unknown axes.

    Raises:
        UserError: names what differs.
    """
    check_labels(student, teacher.dataset_json, f"teacher {teacher.folder}")
    if not same_channels(student.dataset_json, teacher.dataset_json):
        channels, others = (channel_names(d) for d in (student.dataset_json, teacher.dataset_json))
        raise UserError(
            f"teacher {teacher.folder}: takes the image channels {', '.join(others)}, the student's data set has "
            f"{', '.join(channels)}; teachers need the same channels in the same order, by the same names in "
            "dataset.json."
        )
    check_readers(reader_of(student.plans_manager), reader_of(teacher.plans_manager), f"teacher {teacher.folder}")


def check_labels(student: StudentSpace, dataset_json: Mapping[str, Any], where: str) -> None:
    """Refuses predictions of other labels than the student's, or of the same ones in another order.

    Args:
        student: the student's data.
        dataset_json: of what predicted.
        where: what predicted, for the message.

    Raises:
        UserError: names both.
    """
    expected, found = (_labels(d) for d in (student.dataset_json, dataset_json))
    if found != expected:
        raise UserError(
            f"{where}: predicts the labels {found[0]}, the student's data set has {expected[0]}; teachers need the "
            "same labels in the same order."
        )


def _labels(dataset_json: Mapping[str, Any]) -> tuple[Any, Any]:
    """What a network's outputs mean: labels are ordered by their values, regions as they are listed.

    The ignore label is no output: teachers may have been trained without one, or with one that the student lacks.
    """
    labels = {name: value for name, value in dataset_json["labels"].items() if name != "ignore"}
    order = dataset_json.get("regions_class_order")
    return (labels if order is None else list(labels.items())), order


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the image channels of a ``dataset.json``, in order; ``modality`` is the word of nnU-Net v1."""
    names = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    numbers = sorted(names, key=int) if all(n.isdecimal() for n in names) else names  # others count as they are listed
    return [str(names[number]) for number in numbers]


def same_channels(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two ``dataset.json`` name the same image channels in the same order, whatever the case of letters."""
    names = ([name.casefold() for name in channel_names(d)] for d in (one, other))
    return next(names) == next(names)


def check_same_input(student: StudentSpace, teacher: TeacherModel) -> None:
    """Refuses a teacher that would see the student's patches as something else than what it was trained on.

    Labels are compared where the teachers are found; the size of the patch may differ, see :func:`patch_note`.

    Raises:
        UserError: names what differs.
    """
    differences = preprocessing_differences(student, teacher)
    if input_channels(student) != input_channels(teacher):
        differences.append("input channels of the network")
    if differences:
        raise UserError(
            f"teacher {teacher.folder}: was trained on images with other preprocessing than the student's "
            f"({', '.join(differences)}), so it cannot run on the student's patches; store its soft labels instead "
            "(nnUNetTrainerKDEnsemble, or kd.multi_teacher.source stored) or plan the student from the teacher's plans."
        )


def patch_note(student: StudentSpace, teacher: TeacherModel) -> str | None:
    """A sentence for the log when a teacher was trained on patches of another size; None when not."""
    patch, trained_on = (list(m.configuration_manager.patch_size) for m in (student, teacher))
    if patch == trained_on:
        return None
    return (
        f"WARNING: teacher {teacher.folder.name} was trained on patches of {trained_on} voxels and sees {patch} "
        "here: with less context than it knows it may teach worse than its own validation says."
    )


def input_channels(space: StudentSpace | TeacherModel) -> int:
    """Number of channels that a network of these data takes; in cascades, with those of the previous stage."""
    return determine_num_input_channels(space.plans_manager, space.configuration_manager, space.dataset_json)
