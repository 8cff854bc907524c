"""A loaded bundle: arrays in, segmentations out."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .description import Description
from .engine import open_network
from .preprocessing import Prepared, prepare
from .resampling import axis_orders
from .way_back import LabelsOnGrid, probabilities_on_grid
from .windows import mirrored, predict_slices

Progress = Callable[[float], None]


class Predictor:
    """A bundle with its network in memory; use one from one thread at a time.

    Attributes:
        bundle: content of ``bundle.json``.
        engine: ``openvino`` or ``onnx``.
        network: (1, inputs, *patch) -> logits (1, outputs, *patch), mirrored.
    """

    def __init__(self, folder: Path, bundle: Description, threads: int | None = None, mirroring: bool = True):
        """Args:
        folder: the bundle.
        bundle: its description.
        threads: of the network; None for every processor that this process may use.
        mirroring: test-time mirroring along the axes that the bundle names.
        """
        self.bundle = bundle
        network, self.engine = open_network(folder, bundle, threads or usable_processors())
        self.network = mirrored(network, bundle.mirror_axes) if mirroring else network

    def predict(self, array: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Segments an image.

        Args:
            array: (C, z, y, x), or (z, y, x) for one channel, in the axes in which SimpleITK and nnU-Net read images;
                an image of one slice has z = 1.
            spacing: mm (z, y, x).

        Returns:
            Labels (z, y, x), uint8, or uint16 where there are more than 255.

        Raises:
            BundleError: for an image that the bundle cannot predict.
        """
        return self.predict_prepared(self.prepare(array, spacing))

    def predict_probabilities(self, array: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """The labels of :meth:`predict`, and probabilities of classes or regions (C, z, y, x), float32.

        All classes are in memory on the image's grid, unlike in :meth:`predict`.
        """
        return self.probabilities_of_prepared(self.prepare(array, spacing))

    def prepare(self, array: np.ndarray, spacing: Sequence[float]) -> Prepared:
        """The first part of :meth:`predict`, which needs no network: axes, crop, intensities and spacing."""
        array = np.asarray(array)
        return prepare(array[None] if array.ndim == 3 else array, spacing, self.bundle)

    def predict_prepared(self, prepared: Prepared, progress: Progress | None = None) -> np.ndarray:
        """The second part of :meth:`predict`."""
        orders, half = self._way_back(prepared)
        box_shape = prepared.data.shape[1:] if orders is None else prepared.box_shape
        grid = LabelsOnGrid(
            prepared.data.shape[1:], box_shape, orders or (0, 0, 0), self.bundle.regions_class_order, half
        )
        for logits in self._slices(prepared, progress):
            grid.add(logits)
        return self._whole(grid.result, prepared)

    def probabilities_of_prepared(
        self, prepared: Prepared, progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The second part of :meth:`predict_probabilities`."""
        logits = np.concatenate(list(self._slices(prepared, progress)), axis=1)
        orders, half = self._way_back(prepared)
        box_shape = logits.shape[1:] if orders is None else prepared.box_shape
        regions = self.bundle.regions_class_order
        labels, inside = probabilities_on_grid(logits, box_shape, orders or (0, 0, 0), regions, half)
        probabilities = np.zeros((len(inside), *prepared.shape), np.float32)
        if regions is None:
            probabilities[0] = 1
        probabilities[(slice(None), *prepared.box)] = inside
        back = [0, *(a + 1 for a in np.argsort(self.bundle.transpose))]
        return self._whole(labels, prepared), probabilities.transpose(back)

    def _slices(self, prepared: Prepared, progress: Progress | None):
        b = self.bundle
        return predict_slices(prepared.data, self.network, b.patch_size, b.outputs, b.step_size, progress)

    def _way_back(self, prepared: Prepared) -> tuple[tuple[int, int, int] | None, bool]:
        settings = self.bundle.probabilities_resampling
        if settings is None:
            return None, False
        return axis_orders(settings, prepared.target_spacing, prepared.spacing)[0], settings.half

    def _whole(self, labels: np.ndarray, prepared: Prepared) -> np.ndarray:
        order = self.bundle.regions_class_order
        if order is not None:
            labels = np.array([0, *order], np.uint16)[labels]
        whole = np.zeros(prepared.shape, np.uint8 if self.bundle.foreground_labels < 255 else np.uint16)
        whole[prepared.box] = labels
        return whole.transpose(np.argsort(self.bundle.transpose))


def usable_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
