"""Batches of labeled cases, then unlabeled ones, made by nnU-Net's own data loaders."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_kd.data.mixing import MixedReference

WORKERS = "nnUNet_n_proc_DA"


class MixedLoader:
    """Joins a batch of each of two data loaders, the first one's cases first."""

    def __init__(self, labeled: nnUNetDataLoader, unlabeled: nnUNetDataLoader):
        """Both loaders must give samples of the same shape."""
        self.labeled, self.unlabeled = labeled, unlabeled

    def set_thread_id(self, thread_id: int) -> None:
        """Called by nnU-Net's augmenter in each of its workers."""
        self.labeled.set_thread_id(thread_id)
        self.unlabeled.set_thread_id(thread_id)

    def __iter__(self) -> "MixedLoader":
        return self

    def __next__(self) -> dict[str, Any]:
        """``data`` (B, C, *spatial), ``target`` (B, 1, *spatial) or a list of them, ``keys``."""
        batches = next(self.labeled), next(self.unlabeled)
        targets = [b["target"] for b in batches]
        if isinstance(targets[0], list):
            target: Any = [torch.cat(t) for t in zip(*targets, strict=True)]
        else:
            target = torch.cat(targets)
        return {
            "data": torch.cat([b["data"] for b in batches]),
            "target": target,
            "keys": [k for b in batches for k in b["keys"]],
        }


def mix_in(
    loader: nnUNetDataLoader, unlabeled: Any, labeled_cases: int, unlabeled_cases: int, labels: LabelManager
) -> MixedLoader:
    """nnU-Net's training batches with unlabeled cases in them.

    Args:
        loader: nnU-Net's data loader of the labeled cases.
        unlabeled: dataset of the unlabeled cases.
        labeled_cases: labeled cases of a batch.
        unlabeled_cases: unlabeled cases of a batch, behind the labeled ones.
        labels: label definition.

    Returns:
        A loader whose patches and augmentation are those of ``loader``. Foreground is oversampled at random in
        nnU-Net's proportion, among labeled and unlabeled cases alike: with so few cases of each kind in a batch, its
        fixed share of the batch would round to none.
    """
    first = 1 if loader.patch_size_was_2d else 0  # nnU-Net keeps 2D patches as (1, y, x) and adds the 1 itself
    loaders = [
        nnUNetDataLoader(
            data,
            cases,
            loader.patch_size[first:],
            loader.final_patch_size[first:],
            labels,
            oversample_foreground_percent=loader.oversample_foreground_percent,
            probabilistic_oversampling=True,
            transforms=loader.transforms,
        )
        for data, cases in ((loader._data, labeled_cases), (unlabeled, unlabeled_cases))
    ]
    return MixedLoader(*loaders)


@contextmanager
def without_workers() -> Iterator[None]:
    """nnU-Net 2.8 starts its workers as soon as it has made its loaders; in here it starts none."""
    before = os.environ.get(WORKERS)
    os.environ[WORKERS] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WORKERS]
        else:
            os.environ[WORKERS] = before


def start_workers(training: Any, validation: nnUNetDataLoader, pin_memory: bool) -> tuple[Any, Any]:
    """Augmenters of two loaders with as many workers and cached batches as nnU-Net gives them."""
    workers = get_allowed_n_proc_DA()
    if workers == 0:
        return SingleThreadedAugmenter(training, None), SingleThreadedAugmenter(validation, None)
    sizes = ((workers, max(6, workers // 2)), (max(1, workers // 2), max(3, workers // 4)))
    return tuple(
        NonDetMultiThreadedAugmenter(
            loader, None, processes, num_cached=cached, seeds=None, pin_memory=pin_memory, wait_time=0.002
        )
        for loader, (processes, cached) in zip((training, validation), sizes, strict=True)
    )


def unlabeled_share(fraction: float, batch_size: int) -> int:
    """Unlabeled cases in a batch: the nearest whole number, at least one of either kind; 0 for fraction 0.

    Raises:
        ValueError: for a batch with no room for both.
    """
    if fraction == 0:
        return 0
    if batch_size < 2:
        raise ValueError(f"a batch of {batch_size} has no room for a labeled and an unlabeled case")
    return min(max(round(fraction * batch_size), 1), batch_size - 1)


def without_last(cases: int, batch: Any) -> Any:
    """A tensor (B, ...), a list of them or a mixed reference without the last ``cases`` of the batch."""
    if cases == 0:
        return batch
    if isinstance(batch, MixedReference):
        return batch.map(partial(without_last, cases))
    return [b[:-cases] for b in batch] if isinstance(batch, list | tuple) else batch[:-cases]
