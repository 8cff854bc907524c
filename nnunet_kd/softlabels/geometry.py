"""Teacher space -> student space.

Three paths, the shortest that is right is taken:

* ``direct``: teacher and student read the same preprocessed data; nothing is resampled.
* ``resampled``: same axes and crop, another spacing; the teacher's logits are resampled once, to the student's grid.
* ``original``: anything else (a 2D teacher for a 3D student, other axes, another preprocessor, maps from elsewhere);
  through the original image geometry, exactly as nnU-Net exports probabilities, turned to the axes of the student's
  image reader, and from there into the student's grid.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.planning.resampling import with_fast_resampling
from nnunet_kd.teachers.fitness import preprocessing_differences, reader_of
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import CaseSpace, StudentSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.orientation import same_axes, turn

GeometryPath = Literal["direct", "resampled", "original"]


def choose_path(student: StudentSpace, teacher: TeacherModel) -> GeometryPath:
    """The shortest right way from a teacher's output to the student's grid."""
    if not preprocessing_differences(student, teacher):
        return "direct"
    s, t = student.configuration_manager, teacher.configuration_manager
    same_order = student.plans_manager.transpose_forward == teacher.plans_manager.transpose_forward
    same_order = same_order and same_axes(reader_of(student.plans_manager), reader_of(teacher.plans_manager))
    volumetric = len(s.spacing) == len(t.spacing) == 3
    if same_order and volumetric and s.preprocessor_name == t.preprocessor_name:
        return "resampled"
    return "original"


def spacing_3d(configuration: ConfigurationManager, original_spacing: Sequence[float]) -> list[float]:
    """Spacing (z, y, x) in mm of preprocessed data; 2D configurations keep the distance between slices."""
    spacing = list(configuration.spacing)
    return spacing if len(spacing) == 3 else [original_spacing[0], *spacing]


def original_spacing(plans: PlansManager, properties: Mapping[str, Any]) -> list[float]:
    """Spacing in mm of the original image, in the preprocessed order of axes."""
    return [properties["spacing"][i] for i in plans.transpose_forward]


def to_student_space(
    student: StudentSpace,
    teacher: TeacherModel,
    path: GeometryPath,
    logits: torch.Tensor,
    teacher_properties: dict,
    case: CaseSpace,
) -> np.ndarray:
    """A teacher's logits (C, z, y, x) as float32 probabilities in the student's grid.

    Args:
        student: the student's geometry.
        teacher: the teacher that made ``logits``.
        path: what :func:`choose_path` gave for the two.
        logits: in the teacher's preprocessed grid.
        teacher_properties: nnU-Net's properties of the case as the teacher's preprocessing left them.
        case: the case in the student's space.

    Raises:
        UserError: when the raw image is another one than the preprocessed one.
    """
    if path == "direct":
        return np.asarray(student.label_manager.apply_inference_nonlin(logits))
    if path == "resampled":
        check_same_crop(case, teacher_properties)
        spacing = original_spacing(teacher.plans_manager, teacher_properties)
        resampled = _fast(teacher.configuration_manager).resampling_fn_probabilities(
            logits.float(),
            case.shape,
            spacing_3d(teacher.configuration_manager, spacing),
            spacing_3d(student.configuration_manager, spacing),
        )
        return np.asarray(student.label_manager.apply_inference_nonlin(resampled))
    _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.float(),
        teacher.plans_manager,
        _fast(teacher.configuration_manager),
        student.label_manager,
        teacher_properties,
        return_probabilities=True,
        num_threads_torch=torch.get_num_threads(),
    )
    return from_original_geometry(student, probabilities, teacher_properties, case)


def _fast(configuration: ConfigurationManager) -> ConfigurationManager:
    return ConfigurationManager(with_fast_resampling(configuration.configuration))


def check_same_crop(case: CaseSpace, properties: Mapping[str, Any]) -> None:
    """Refuses a raw image that is not the one that was preprocessed for the student.

    Args:
        case: the case in the student's space.
        properties: of the raw image as the teacher's preprocessing left them, with the same order of axes.

    Raises:
        UserError: when shape or region of nonzero voxels differ.
    """
    for key in ("shape_before_cropping", "bbox_used_for_cropping"):
        if not np.array_equal(case.properties[key], properties[key]):
            raise UserError(
                f"case {case.name}: its raw image is not the one that was preprocessed for the student ({key}: "
                f"{properties[key]}, then {case.properties[key]}); preprocess the data set again."
            )


def from_original_geometry(
    student: StudentSpace, probabilities: np.ndarray, properties: Mapping[str, Any], case: CaseSpace
) -> np.ndarray:
    """Probabilities on the original image as float32 (C, z, y, x) in the student's grid.

    Args:
        student: the student's geometry.
        probabilities: (C, ...) in the axes of one of nnU-Net's image readers.
        properties: of the image, as that reader gave them.
        case: the case in the student's space.

    Raises:
        UserError: when the map's shape is not the image's.
    """
    plans = student.plans_manager
    probabilities = turn(probabilities, properties, case.properties)
    transposed = probabilities.transpose([0, *(i + 1 for i in plans.transpose_forward)])
    if transposed.shape[1:] != tuple(case.properties["shape_before_cropping"]):
        raise UserError(
            f"case {case.name}: the probability map has shape {probabilities.shape[1:]}, its image (axes in nnU-Net's "
            "order) "
            f"{tuple(case.properties['shape_before_cropping'][i] for i in plans.transpose_backward)}."
        )
    cropped = transposed[(slice(None), *bounding_box_to_slice(case.properties["bbox_used_for_cropping"]))]
    spacing = original_spacing(plans, case.properties)
    resampled = _fast(student.configuration_manager).resampling_fn_probabilities(
        np.ascontiguousarray(cropped, dtype=np.float32),
        case.shape,
        spacing,
        spacing_3d(student.configuration_manager, spacing),
    )
    return np.asarray(resampled, dtype=np.float32)
