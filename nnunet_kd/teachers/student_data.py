"""The student's data: the preprocessed cases of its configuration, labeled and unlabeled."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import (
    infer_dataset_class,
    nnUNetBaseDataset,
    nnUNetDatasetBlosc2,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_kd.config import KDConfig
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.nnunet_files import read_dataset_json, read_plans
from nnunet_kd.utilities.preprocessed import PreprocessedImage, image_digest, load_preprocessed, reading

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


def load_student(plans_file: Path, configuration: str, raw: Path | None) -> tuple[KDConfig, StudentSpace]:
    """Reads a plans file in ``nnUNet_preprocessed/DatasetXXX_NAME`` and checks that it has the configuration.

    Raises:
        UserError: for missing plans, a bad ``"kd"`` block or an unknown configuration.
    """
    plans = read_plans(plans_file, configuration)
    kd = KDConfig.from_plans(plans)
    dataset_json = read_dataset_json(plans_file.parent / "dataset.json")
    return kd, StudentSpace(PlansManager(plans), configuration, dataset_json, plans_file.parent, raw)
