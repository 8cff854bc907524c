"""Unlabeled images -> preprocessed cases, with nnU-Net's own preprocessor, beside the labeled ones."""

import contextlib
import json
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from tqdm import tqdm

from nnunet_kd.data.image_cases import ImageCase
from nnunet_kd.data.read_images import ImageError, read_case
from nnunet_kd.teachers.fitness import preprocessing_of
from nnunet_kd.teachers.student_data import IMAGE_FILES, StudentSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import (
    load_json_file,
    remove_abandoned,
    sync_to_disk,
    temporary_folder,
    write_json,
    writing,
)

FORMAT = 1


@dataclass(frozen=True)
class PreprocessingSummary:
    """What was done: numbers of cases, and case -> fault of those that could not be preprocessed."""

    written: int
    already_there: int
    faults: dict[str, str]


def preprocess_cases(
    space: StudentSpace, cases: Sequence[ImageCase], processes: int, progress: bool = True
) -> PreprocessingSummary:
    """Preprocesses those of ``cases`` that are not there yet into ``space.unlabeled_folder``.

    Args:
        space: plans, configuration and folders of the data set.
        cases: unlabeled cases.
        processes: number of worker processes; 1 works in this one.
        progress: show a progress bar.

    Raises:
        UserError: when the folder holds cases that were preprocessed otherwise, or a worker died.
    """
    _claim(space)
    remove_abandoned(space.unlabeled_folder)
    there = set(space.unlabeled_cases)
    todo = [c for c in cases if c.name not in there or not _is_whole(space, c.name)]
    faults, written = {}, 0
    bar = tqdm(total=len(todo), desc="unlabeled cases", unit="case", disable=not progress)
    with bar, contextlib.closing(_results(space, todo, min(processes, len(todo)))) as results:
        for name, fault in results:
            bar.update()
            if fault is None:
                written += 1
            else:
                faults[name] = fault
    return PreprocessingSummary(written, len(cases) - len(todo), dict(sorted(faults.items())))


def _claim(space: StudentSpace) -> None:
    """Makes the folder; refuses one whose cases were preprocessed otherwise."""
    folder = space.unlabeled_folder
    # Beside the folder, not in it: nnU-Net infers the kind of a data set from the endings of the files in a folder.
    manifest = folder.with_name(f"{folder.name}.json")
    now = {
        "format": FORMAT,
        "preprocessing": preprocessing_of(space.plans_manager, space.configuration_manager, space.dataset_json),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not manifest.exists():
        write_json(manifest, now)
    if load_json_file(manifest) != json.loads(json.dumps(now)):
        raise UserError(
            f"{folder}: its cases were preprocessed with other settings than {space.plans_manager.plans_name} has; "
            f"move that folder and {manifest.name} away and start again."
        )


def _is_whole(space: StudentSpace, case: str) -> bool:
    try:
        space.load_case(case)
    except UserError:
        return False
    return True


def _results(
    space: StudentSpace, cases: Sequence[ImageCase], processes: int
) -> Generator[tuple[str, str | None], None, None]:
    """(case, None) or (case, fault) of every case, as they are done."""
    if processes <= 1:
        yield from (_preprocess(space, c) for c in cases)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        for future in as_completed([pool.submit(_preprocess, space, c) for c in cases]):
            yield future.result()
    except BrokenProcessPool:
        raise UserError("a worker process died, most likely for want of memory; try fewer with -np.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _preprocess(space: StudentSpace, case: ImageCase) -> tuple[str, str | None]:
    """Preprocesses and writes one case; a fault of its images is returned, not raised."""
    plans, configuration = space.plans_manager, space.configuration_manager
    try:
        with contextlib.redirect_stdout(None):  # nnU-Net prints what the error contains too
            image, properties = read_case(plans, configuration, case.images)
        if fault := find_fault(image, len(configuration.patch_size)):
            return case.name, fault
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, nonzero, properties = preprocessor.run_case_npy(
            image, None, properties, plans, configuration, space.dataset_json
        )
    except ImageError as err:
        return case.name, str(err)
    except Exception as err:  # whatever makes the preprocessor fail is a fault of the image
        return case.name, f"cannot be preprocessed ({type(err).__name__}: {' '.join(str(err).split())[:200]})"
    properties[IMAGE_FILES] = [str(f) for f in case.images]
    _save(space, case.name, data.astype(np.float32, copy=False), nonzero.astype(np.int16, copy=False), properties)
    return case.name, None


def find_fault(image: np.ndarray, dimensions: int) -> str | None:
    """Why an image cannot be trained on, or None.

    Args:
        image: (C, z, y, x) as nnU-Net's reader gives it.
        dimensions: 2 or 3, of the configuration's patch.
    """
    if dimensions == 3 and min(image.shape[1:]) == 1:
        return f"is a single slice, shape {image.shape[1:]}, the configuration is 3D"
    if all(c.min() == c.max() for c in image):
        return "is constant"
    return None


def _save(space: StudentSpace, name: str, data: np.ndarray, nonzero: np.ndarray, properties: dict) -> None:
    """nnU-Net's three files of a case, whole or absent: the image, by which nnU-Net lists a case, comes last.

    Raises:
        UserError: when they cannot be written.
    """
    patch = tuple(space.configuration_manager.patch_size)
    blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
    blocks_seg, chunks_seg = comp_blosc2_params(nonzero.shape, patch, nonzero.itemsize)
    folder = space.unlabeled_folder
    with writing(folder), temporary_folder(folder) as temporary:
        nnUNetDatasetBlosc2.save_case(
            data, nonzero, properties, str(temporary / name), chunks, blocks, chunks_seg, blocks_seg
        )
        for ending in ("_seg.b2nd", ".pkl", ".b2nd"):
            sync_to_disk(temporary / f"{name}{ending}")
            os.replace(temporary / f"{name}{ending}", folder / f"{name}{ending}")
