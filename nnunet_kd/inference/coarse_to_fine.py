"""Coarse to fine: one network finds the foreground, another one segments the box around it.

Source: Choi et al. 2022, Section 2 and Figure 1.
"""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from nnunet_kd.inference.box import Box
from nnunet_kd.inference.components import keep_largest_components
from nnunet_kd.inference.region import PreparedImage, normalisation_of, prepare
from nnunet_kd.inference.stage import Stage
from nnunet_kd.teachers.fitness import channel_names, reader_of, same_channels
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class Settings:
    """How the box is made and what is kept.

    Attributes:
        margin: fraction of the box's length that is added on each side.
        margin_mm: what is added on each side at least.
        keep_largest: only the largest component of every class, after each stage.
    """

    margin: float = 0.1
    margin_mm: float = 0.0
    keep_largest: bool = False


@dataclass(frozen=True)
class Result:
    """A segmentation (axes of nnU-Net's reader), its box there, and how it came about.

    Attributes:
        found: whether the coarse network found any foreground; if not, the box is the whole image.
        coarse_seconds: normalisation and first stage.
        fine_seconds: second stage, including resampling to the image's grid.
    """

    segmentation: np.ndarray
    box: Box
    found: bool
    coarse_seconds: float
    fine_seconds: float


def check_models(coarse: TeacherModel, fine: TeacherModel) -> None:
    """Refuses two models that cannot look at the same image.

    Raises:
        UserError: names the flag, and what differs.
    """
    for flag, model in (("--coarse", coarse), ("--fine", fine)):
        if model.configuration_manager.previous_stage_name is not None:
            raise UserError(
                f"{flag} {model.folder}: {model.configuration} refines the prediction of another configuration; name "
                "a model that is not cascaded."
            )
    if not same_channels(coarse.dataset_json, fine.dataset_json):
        coarse_names, fine_names = (", ".join(channel_names(m.dataset_json)) for m in (coarse, fine))
        raise UserError(
            f"--coarse takes the image channels {coarse_names}, --fine takes {fine_names}; both need the same "
            "channels in the same order, by the same names in dataset.json."
        )
    readers = [reader_of(m.plans_manager) for m in (coarse, fine)]
    if readers[0] != readers[1]:
        raise UserError(f"--coarse reads images with {readers[0]}, --fine with {readers[1]}: axes may differ.")


@dataclass(frozen=True)
class CoarseToFine:
    """Two loaded stages, whose models :func:`check_models` has passed."""

    coarse: Stage
    fine: Stage
    settings: Settings

    def predict(self, image: np.ndarray, properties: dict[str, Any]) -> Result:
        """Segments one image (C, ...), read by nnU-Net's reader, with the reader's properties."""
        start = perf_counter()
        prepared = self._prepare(self.coarse, image, properties)
        box = self._find(prepared)
        found = box is not None
        middle = perf_counter()
        if normalisation_of(self.coarse.plans, self.coarse.model.configuration_manager) != normalisation_of(
            self.fine.plans, self.fine.model.configuration_manager
        ):
            prepared = self._prepare(self.fine, image, properties)
        box = box if box is not None else Box.whole(image.shape[1:])
        box, region = self._fine_region(prepared, box, grow=found)
        segmentation = self.fine.segment(prepared, region)
        if self.settings.keep_largest:
            segmentation[box.slices] = keep_largest_components(segmentation[box.slices])
        return Result(segmentation, box, found, middle - start, perf_counter() - middle)

    @staticmethod
    def _prepare(stage: Stage, image: np.ndarray, properties: dict[str, Any]) -> PreparedImage:
        return prepare(image, properties, stage.plans, stage.model.configuration_manager)

    def _find(self, prepared: PreparedImage) -> Box | None:
        """Box of the coarse foreground in the axes of the reader; None where there is none."""
        whole = Box.whole(prepared.data.shape[1:])
        mask = self.coarse.mask(prepared, whole)
        if self.settings.keep_largest:
            mask = keep_largest_components(mask)
        box = Box.around(mask > 0)
        if box is None:
            return None
        absolute = box.scaled(mask.shape, whole.shape).shifted(prepared.nonzero.start)
        return absolute.permuted(self.coarse.plans.transpose_backward)

    def _fine_region(self, prepared: PreparedImage, box: Box, grow: bool) -> tuple[Box, Box]:
        """The box with its margin, and the same as a region of ``prepared.data``."""
        plans = self.fine.plans
        shape = tuple(prepared.shape[i] for i in plans.transpose_backward)
        spacing_mm = prepared.properties["spacing"]
        if grow:
            least = [0, 0, 0]
            if not self.fine.whole_region:
                patch = self.fine.patch_voxels([spacing_mm[i] for i in plans.transpose_forward])
                least = [patch[i] for i in plans.transpose_backward]
            box = box.grown(shape, spacing_mm, self.settings.margin, self.settings.margin_mm, least)
        inside = box.permuted(plans.transpose_forward).intersection(prepared.nonzero)
        if inside is None:  # the coarse network found something where the fine one's image is empty
            inside = prepared.nonzero
        region = inside.shifted([-s for s in prepared.nonzero.start])
        return inside.permuted(plans.transpose_backward), region
