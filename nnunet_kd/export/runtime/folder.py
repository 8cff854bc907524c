"""A folder of images: found, read ahead, predicted and written beside each other; a broken one is named and skipped."""

import os
import pickle
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .images import Image, Reader
from .predictor import Predictor
from .preprocessing import Prepared
from .verify import BundleError


@dataclass(frozen=True)
class Case:
    """A name and the image files of its channels."""

    name: str
    files: tuple[Path, ...]


def find_cases(folder: Path, ending: str) -> list[Case]:
    """Cases of a folder, ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ..., sorted.

    Raises:
        BundleError: when there are none.
    """
    if not folder.is_dir():
        raise BundleError(f"-i {folder}: no such folder.")
    channels: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", file.name):
            channels.setdefault(match[1], []).append(file)
    if not channels:
        raise BundleError(f"-i {folder}: holds no images CASE_0000{ending}.")
    return [Case(name, tuple(files)) for name, files in channels.items()]


def predict_folder(
    predictor: Predictor,
    reader: Reader,
    cases: Sequence[Case],
    output: Path,
    save_probabilities: bool,
    log: Callable[[str], None],
) -> int:
    """Predicts cases and returns how many failed, each of which ``log`` was told about."""
    failed = 0
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as writer:
        writing: Future | None = None
        for i, (case, loaded) in enumerate(_ahead(loader, lambda c: _load(predictor, reader, c), cases)):
            bar = Progress(f"{case.name} ({i + 1}/{len(cases)})")
            result: tuple[np.ndarray, np.ndarray | None]
            try:
                image, prepared = loaded()
                if save_probabilities:
                    result = predictor.probabilities_of_prepared(prepared, bar)
                else:
                    result = predictor.predict_prepared(prepared, bar), None
            except (BundleError, MemoryError) as err:
                failed += 1
                log(f"{case.name}: {str(err) or 'is too large for the memory'}; skipped")
                continue
            finally:
                bar.clear()
            failed += _wait(writing, log)
            writing = writer.submit(_write, predictor, reader, case, image, prepared, result, output)
        failed += _wait(writing, log)
    return failed


def _ahead(pool: ThreadPoolExecutor, function: Callable, items: Sequence) -> Iterator[tuple[Any, Callable]]:
    """Each item with what gives the function's result of it, while that of the next one is computed."""
    following = pool.submit(function, items[0]) if items else None
    for i, item in enumerate(items):
        assert following is not None
        current, following = following, None
        current.exception()  # waits
        if i + 1 < len(items):
            following = pool.submit(function, items[i + 1])
        yield item, current.result


def _load(predictor: Predictor, reader: Reader, case: Case) -> tuple[Image, Prepared]:
    voxels, image = reader.read(case.files)
    return image, predictor.prepare(voxels, image.spacing)


def _write(
    predictor: Predictor,
    reader: Reader,
    case: Case,
    image: Image,
    prepared: Prepared,
    result: tuple[np.ndarray, np.ndarray | None],
    output: Path,
) -> None:
    segmentation, probabilities = result
    if probabilities is not None:
        properties = image.properties | {
            "shape_before_cropping": prepared.shape,
            "bbox_used_for_cropping": [[b.start, b.stop] for b in prepared.box],
            "shape_after_cropping_and_before_resampling": prepared.box_shape,
        }
        _whole(output / f"{case.name}.npz", lambda f: np.savez_compressed(f, probabilities=probabilities))
        _whole(output / f"{case.name}.pkl", lambda f: f.write_bytes(pickle.dumps(properties)))
    ending = predictor.bundle.file_ending
    _whole(output / f"{case.name}{ending}", lambda f: reader.write(segmentation, f, image))


def _whole(target: Path, save: Callable[[Path], Any]) -> None:
    """A file under its name when it is complete."""
    temporary = target.with_name(f".{uuid.uuid4().hex}{''.join(target.suffixes[-2:])}")
    try:
        save(temporary)
        os.replace(temporary, target)
        if temporary.with_suffix(".json").exists():  # the spacing beside a TIFF
            os.replace(temporary.with_suffix(".json"), target.with_suffix(".json"))
    finally:
        temporary.unlink(missing_ok=True)


def _wait(writing: Future | None, log: Callable[[str], None]) -> int:
    if writing is None:
        return 0
    try:
        writing.result()
    except Exception as err:
        log(f"cannot write a segmentation: {err}")
        return 1
    return 0


class Progress:
    """A line on a terminal with the progress of a case and the time left; nothing elsewhere."""

    def __init__(self, name: str):
        self._name, self._start, self._shown = name, time.monotonic(), 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._shown > 0.2:
            self._shown = now
            left = (now - self._start) * (1 - share) / share
            print(f"\r{self._name}: {share:4.0%}, {left:.0f} s left \033[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leaves the line empty."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
