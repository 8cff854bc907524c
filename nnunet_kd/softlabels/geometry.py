"""Teacher space -> student space.

Three paths, the shortest that is right is taken:

* ``direct``: teacher and student read the same preprocessed data; nothing is resampled.
* ``resampled``: same axes and crop, another spacing; the teacher's logits are resampled once, to the student's grid.
* ``original``: anything else (a 2D teacher for a 3D student, other axes, another preprocessor, maps from elsewhere);
  through the original image geometry, exactly as nnU-Net exports probabilities, turned to the axes of the student's
  image reader, and from there into the student's grid.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.training.dataloading.nnunet_dataset import (
    infer_dataset_class,
    nnUNetBaseDataset,
    nnUNetDatasetBlosc2,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_kd.errors import UserError
from nnunet_kd.planning.resampling import with_fast_resampling
from nnunet_kd.softlabels.orientation import check_readers, same_axes, turn
from nnunet_kd.softlabels.preprocessed import PreprocessedImage, image_digest, load_preprocessed, reading
from nnunet_kd.teachers import TeacherModel

GeometryPath = Literal["direct", "resampled", "original"]
UNLABELED_IMAGES = "imagesUn"  # folder of unlabeled images in nnUNet_raw/DatasetXXX_NAME
IMAGE_FILES = "nnunet_kd_image_files"  # key in the properties of an unlabeled case


@dataclass(frozen=True)
class StudentSpace:
    """The preprocessed geometry that the student trains in."""

    plans_manager: PlansManager
    configuration: str
    dataset_json: dict[str, Any]
    preprocessed: Path
    raw: Path | None

    @cached_property
    def configuration_manager(self) -> ConfigurationManager:
        """The student's configuration."""
        return self.plans_manager.get_configuration(self.configuration)

    @cached_property
    def label_manager(self) -> LabelManager:
        """The data set's labels or regions."""
        return self.plans_manager.get_label_manager(self.dataset_json)

    @property
    def folder(self) -> Path:
        """Folder of the preprocessed images, ``<preprocessed>/<data_identifier>``."""
        return self.preprocessed / self.configuration_manager.data_identifier

    @cached_property
    def dataset(self) -> nnUNetBaseDataset:
        """nnU-Net's dataset of all preprocessed cases.

        Raises:
            UserError: when the configuration was not preprocessed, or the folder holds files of other kinds too.
        """
        try:
            return infer_dataset_class(str(self.folder))(str(self.folder))
        except (OSError, AssertionError, KeyError) as err:
            raise UserError(
                f"{self.folder}: no preprocessed data of one kind; make it in an empty folder with: "
                f"nnUNetv2_preprocess -d {self.preprocessed.name} -c {self.configuration} "
                f"-plans_name {self.plans_manager.plans_name}"
            ) from err

    @property
    def unlabeled_folder(self) -> Path:
        """Folder of the preprocessed unlabeled images; stock nnU-Net never looks into it."""
        return self.preprocessed / "kd_unlabeled" / self.configuration_manager.data_identifier

    @cached_property
    def unlabeled_cases(self) -> list[str]:
        """Names of the preprocessed unlabeled cases, sorted; none where there is no folder of them.

        Raises:
            UserError: for a case that is labeled as well.
        """
        if not self.unlabeled_folder.is_dir():
            return []
        cases = sorted(nnUNetDatasetBlosc2.get_identifiers(str(self.unlabeled_folder)))
        labeled = set(self.dataset.identifiers) if cases and self.folder.is_dir() else set()
        if both := [c for c in cases if c in labeled]:
            raise UserError(
                f"{self.unlabeled_folder}: case {both[0]} has become a labeled case too; remove its three files there."
            )
        return cases

    def cases(self, labeled_only: bool = False) -> list[str]:
        """Names of all preprocessed cases: labeled ones, then unlabeled ones."""
        return [*self.dataset.identifiers, *([] if labeled_only else self.unlabeled_cases)]

    def load_case(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """A labeled or unlabeled case as nnU-Net's dataset gives it; the segmentation of the latter is its mask of
        nonzero voxels (0 inside, -1 outside).

        Raises:
            UserError: for files that are missing or broken.
        """
        return load_preprocessed(self._dataset_of(case), case)

    def reading(self, case: str) -> AbstractContextManager[None]:
        """Turns what goes wrong while a case's lazy arrays are read into a :class:`UserError`."""
        return reading(self._dataset_of(case).source_folder, case)

    def _dataset_of(self, case: str) -> nnUNetBaseDataset:
        return self.dataset if self.is_labeled(case) else nnUNetDatasetBlosc2(str(self.unlabeled_folder), [case])

    def preprocessed_image(self, case: str) -> PreprocessedImage:
        """What the soft labels of a case must fit to.

        Raises:
            UserError: for files that are missing or broken.
        """
        image = CaseSpace.load(self, case).image
        with self.reading(case):
            return PreprocessedImage(tuple(image.shape[1:]), image_digest(image), self.is_labeled(case))

    def is_labeled(self, case: str) -> bool:
        """Whether a case has a reference segmentation."""
        return case not in self._unlabeled_set

    @cached_property
    def _unlabeled_set(self) -> frozenset[str]:
        return frozenset(self.unlabeled_cases)

    def image_files(self, case: str) -> list[Path]:
        """Raw image files of a case, one per channel.

        Raises:
            UserError: when nnUNet_raw does not hold the case.
        """
        if not self.is_labeled(case):
            return self._unlabeled_image_files(case)
        if self.raw is None or not self.raw.is_dir():
            raise UserError(f"{self.raw}: raw images are needed for teachers with other preprocessing; set nnUNet_raw.")
        if case not in self._raw_files:
            raise UserError(f"{self.raw / 'imagesTr'}: has no images of case {case}, which is in {self.folder}.")
        return [Path(f) for f in self._raw_files[case]["images"]]

    def _unlabeled_image_files(self, case: str) -> list[Path]:
        files = [Path(f) for f in self.load_case(case)[3][IMAGE_FILES]]
        if self.raw is not None:  # the data set may have moved since
            files = [f if f.is_file() else self.raw / UNLABELED_IMAGES / f.name for f in files]
        if gone := [f for f in files if not f.is_file()]:
            raise UserError(
                f"{gone[0]}: the image of the unlabeled case {case} is not there any more, but a teacher with other "
                "preprocessing needs it; put it back."
            )
        return files

    @cached_property
    def _raw_files(self) -> Mapping[str, Any]:
        return get_filenames_of_train_images_and_targets(str(self.raw), self.dataset_json)


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


def reader_of(plans: PlansManager) -> str:
    """Class name of the reader of images that the plans name."""
    return str(plans.plans["image_reader_writer"])


def preprocessing_differences(student: StudentSpace, teacher: TeacherModel) -> list[str]:
    """What makes the teacher's preprocessed images others than the student's; empty: it reads the student's images."""
    mine = preprocessing_of(student.plans_manager, student.configuration_manager, student.dataset_json)
    theirs = preprocessing_of(teacher.plans_manager, teacher.configuration_manager, teacher.dataset_json)
    return [key for key, value in mine.items() if theirs[key] != value]


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
    """Refuses a teacher whose outputs mean something else, or lie where nobody knows.

    Raises:
        UserError: names what differs.
    """
    mine, theirs = (_labels(d) for d in (student.dataset_json, teacher.dataset_json))
    if mine != theirs:
        raise UserError(
            f"teacher {teacher.folder}: predicts the labels {theirs[0]}, the student's data set has {mine[0]}; "
            "teachers need the same labels in the same order."
        )
    channels, others = (channel_names(d) for d in (student.dataset_json, teacher.dataset_json))
    if [c.casefold() for c in channels] != [c.casefold() for c in others]:
        raise UserError(
            f"teacher {teacher.folder}: takes the image channels {', '.join(others)}, the student's data set has "
            f"{', '.join(channels)}; teachers need the same channels in the same order, by the same names in "
            "dataset.json."
        )
    check_readers(reader_of(student.plans_manager), reader_of(teacher.plans_manager), f"teacher {teacher.folder}")


def _labels(dataset_json: Mapping[str, Any]) -> tuple[Any, Any]:
    """What a network's outputs mean: labels are ordered by their values, regions as they are listed."""
    labels, order = dataset_json["labels"], dataset_json.get("regions_class_order")
    return (labels if order is None else list(labels.items())), order


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the image channels of a ``dataset.json``, in order; ``modality`` is the word of nnU-Net v1."""
    names = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    numbers = sorted(names, key=int) if all(n.isdecimal() for n in names) else names  # others count as they are listed
    return [str(names[number]) for number in numbers]


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
    case: "CaseSpace",
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


def check_same_crop(case: "CaseSpace", properties: Mapping[str, Any]) -> None:
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
    student: StudentSpace, probabilities: np.ndarray, properties: Mapping[str, Any], case: "CaseSpace"
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


@dataclass(frozen=True)
class CaseSpace:
    """One preprocessed case: image and reference are lazy arrays (C, z, y, x)."""

    name: str
    image: Any
    reference: Any
    previous_stage: Any
    properties: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape (z, y, x)."""
        return tuple(self.image.shape[1:])

    @classmethod
    def load(cls, student: StudentSpace, name: str) -> "CaseSpace":
        """Opens a preprocessed case of the student's data."""
        image, reference, previous_stage, properties = student.load_case(name)
        return cls(name, image, reference, previous_stage, properties)
