"""The store: one blosc2 array per case and one manifest per ensemble and data identifier.

``nnUNet_preprocessed/DatasetXXX_NAME/kd_softlabels/<ensemble_id>/<data_identifier>/<case>.b2nd`` and ``manifest.json``.
What belongs to a case (shape, dtype, SHA-256, teachers) travels inside its file, so that exporters that run at once,
also on different machines, never write to the same file.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

from nnunet_kd.softlabels.encoding import encode
from nnunet_kd.softlabels.locations import Locations, from_bytes, to_bytes
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file, remove_abandoned, write_json, write_whole, writing
from nnunet_kd.utilities.preprocessed import PreprocessedImage

FORMAT = 1
MANIFEST = "manifest.json"
MISSING = "is missing"  # the fault of a case that is not there
_RECORD = "nnunet_kd"
_LOCATIONS = "nnunet_kd_locations"


class _DamageError(Exception):
    """Describes what is wrong with the file of a case."""


class SoftLabelStore:
    """Soft labels of one ensemble for one preprocessed data set."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        """Opens a store that exists; use :meth:`create` or :meth:`open`."""
        self.folder = folder
        self.manifest = manifest
        self.regions = bool(manifest["labels"]["regions"])
        heads = manifest["labels"].get("heads")
        self._channels = None if heads is None else int(heads) - (not self.regions)
        self.dtype: str = manifest["identity"]["dtype"]
        self._checked: dict[str, tuple[int, ...]] = {}

    @classmethod
    def create(cls, folder: Path, manifest: Mapping[str, Any]) -> "SoftLabelStore":
        """Opens the store in ``folder``, or makes an empty one; two processes may do so at once.

        Args:
            folder: the store's folder.
            manifest: ``format``, ``identity`` (what makes the soft labels what they are), ``labels``, ``versions``.

        Raises:
            UserError: when the folder holds a store of other soft labels, with the first difference, or cannot be
                written.
        """
        if not (folder / MANIFEST).exists():
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / MANIFEST, manifest)
        remove_abandoned(folder)
        return cls.open(folder, manifest)

    @classmethod
    def open(cls, folder: Path, manifest: Mapping[str, Any] | None = None) -> "SoftLabelStore":
        """Opens an existing store.

        Args:
            folder: the store's folder.
            manifest: what its manifest must say, apart from ``versions``; any manifest will do where this is left out.

        Raises:
            UserError: when there is none, its manifest cannot be read, or it holds other soft labels.
        """
        file = folder / MANIFEST
        if not file.exists():
            raise UserError(f"{folder}: no soft labels here; make them with nnUNetv2_kd softlabels.")
        found = load_json_file(file)
        try:
            if found["format"] != FORMAT:
                raise UserError(f"{file}: has format {found['format']}, this version reads {FORMAT}; export it again.")
            store = cls(folder, found)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise UserError(
                f"{file}: not a manifest of soft labels ({err!r}); remove the folder and export again."
            ) from err
        if manifest is not None:
            store._refuse_others(manifest)
        return store

    def _refuse_others(self, manifest: Mapping[str, Any]) -> None:
        for key in ("format", "identity", "labels"):
            if difference := _first_difference(self.manifest.get(key), json.loads(json.dumps(manifest[key])), key):
                raise UserError(
                    f"{self.folder}: holds other soft labels than asked for ({difference}); move that folder away or "
                    "export under another ensemble.name."
                )

    def file(self, case: str) -> Path:
        """Path of a case's array.

        Raises:
            UserError: for a name that could leave the folder.
        """
        if not case or case.startswith(".") or set(case) & set("/\\") or not case.isprintable():
            raise UserError(f"{self.folder}: {case!r} is not a case name.")
        return self.folder / f"{case}.b2nd"

    def cases(self) -> list[str]:
        """Names of all cases in the store, sorted."""
        return sorted(f.name.removesuffix(".b2nd") for f in self.folder.glob("*.b2nd") if not f.name.startswith("."))

    def fault(self, case: str, image: PreprocessedImage) -> str | None:
        """Why a case must be exported (again), or None; its values are left to :meth:`read`.

        Args:
            case: case name.
            image: what the soft labels must fit to. Stores of earlier versions know the shape of the image only.
        """
        if not self.file(case).is_file():
            return MISSING
        try:
            array = self._open(case)
            record = _record(array)
        except _DamageError as damage:
            return str(damage)
        if record.get("case", case) != case:
            return f"holds the soft labels of case {record['case']}"
        if tuple(array.shape[1:]) != image.shape:
            return f"has shape {tuple(array.shape[1:])}, the preprocessed image has {image.shape}"
        if record.get("image", image.digest) != image.digest:
            return "was exported for another preprocessed image"
        if (_LOCATIONS in array.schunk.vlmeta) == image.labeled:
            return f"was exported as {'an unlabeled' if image.labeled else 'a labeled'} case"
        return None

    def write(
        self,
        case: str,
        probabilities: np.ndarray,
        patch_size: Sequence[int],
        record: Mapping[str, Any],
        locations: Locations | None = None,
    ) -> None:
        """Writes one case, whole or not at all.

        Args:
            case: case name.
            probabilities: (C, z, y, x) or (R, z, y, x), float.
            patch_size: the student's patch, 2 or 3 numbers; chunks and blocks follow it as nnU-Net's own images do.
            record: anything JSON that belongs to the case: the teachers used, and as ``image`` the digest of the
                preprocessed image.
            locations: voxels of each class, for cases without a reference to find them in.
        """
        stored = np.ascontiguousarray(encode(probabilities, self.regions, self.dtype))
        blocks, chunks = comp_blosc2_params(stored.shape, tuple(patch_size), bytes_per_pixel=stored.itemsize)
        own = {"case": case, "shape": list(stored.shape), "dtype": str(stored.dtype), "sha256": _sha256(stored)}

        def save(file: Path) -> None:
            array = blosc2.asarray(
                stored,
                urlpath=str(file),
                chunks=chunks,
                blocks=blocks,
                cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5, "filters": [blosc2.Filter.NOFILTER], "nthreads": 1},
            )
            array.schunk.vlmeta[_RECORD] = json.dumps({**record, **own})
            if locations is not None:
                array.schunk.vlmeta[_LOCATIONS] = to_bytes(locations)

        write_whole(self.file(case), save)

    def read(self, case: str) -> blosc2.NDArray:
        """Lazy stored array of a case, (C - 1, z, y, x) or (R, z, y, x).

        Raises:
            UserError: when the file is missing, or its values are not those that were written. They are compared when
                a process first reads the case, and again when its file was replaced.
        """
        with self._refusing_damage(case):
            array = self._open(case)
            status = self.file(case).stat()
            version = status.st_ino, status.st_size, status.st_mtime_ns
            if self._checked.get(case) != version:
                self._check_values(case, array)
                self._checked[case] = version
        return array

    def record(self, case: str) -> dict[str, Any]:
        """What was written with a case: its name, shape, dtype, sha256 and the exporter's record.

        Raises:
            UserError: when the file is missing or broken.
        """
        with self._refusing_damage(case):
            return _record(self._open(case))

    def locations(self, case: str) -> Locations:
        """Voxels of each class that were written with an unlabeled case.

        Raises:
            UserError: for a case that was exported while it was labeled, and a missing or broken file.
        """
        with self._refusing_damage(case):
            return _locations(self._open(case))

    def verify(self, images: Mapping[str, PreprocessedImage]) -> Iterator[tuple[str, str | None]]:
        """Checks every case, yielding (case, None) or (case, what is wrong); ``MISSING`` where there is no file.

        Args:
            images: the preprocessed image of each case that the store should hold.
        """
        for case in sorted({*self.cases(), *images}):
            yield case, self._verify_case(case, images.get(case))

    def _verify_case(self, case: str, image: PreprocessedImage | None) -> str | None:
        if image is None:
            return "is not a case of the preprocessed data"
        if fault := self.fault(case, image):
            return fault
        try:
            array = self._open(case)
            self._check_values(case, array)
            if not image.labeled:
                _locations(array)
        except _DamageError as damage:
            return str(damage)
        return None

    def _open(self, case: str) -> blosc2.NDArray:
        mmap = {} if os.name == "nt" else {"mmap_mode": "r"}  # as nnU-Net 2.8 opens its own arrays
        try:
            array = blosc2.open(str(self.file(case)), mode="r", dparams={"nthreads": 1}, **mmap)
        except FileNotFoundError:
            raise _DamageError(MISSING) from None
        except Exception as err:  # blosc2 has many
            raise _DamageError(f"cannot be read ({type(err).__name__})") from err
        if not isinstance(array, blosc2.NDArray) or array.ndim != 4:
            raise _DamageError("is not an array of soft labels")
        return array

    def _check_values(self, case: str, array: blosc2.NDArray) -> None:
        record = _record(array)
        if record.get("case", case) != case:
            raise _DamageError(f"holds the soft labels of case {record['case']}")
        if str(array.dtype) != self.dtype:
            raise _DamageError(f"has dtype {array.dtype}, expected {self.dtype}")
        if self._channels is not None and array.shape[0] != self._channels:
            raise _DamageError(f"has {array.shape[0]} channels, expected {self._channels}")
        try:
            sha256 = _sha256(array)
        except Exception as err:  # blosc2 has many
            raise _DamageError(f"cannot be read ({type(err).__name__})") from err
        if sha256 != record["sha256"]:
            raise _DamageError("is damaged (SHA-256 differs)")

    @contextmanager
    def _refusing_damage(self, case: str) -> Iterator[None]:
        try:
            yield
        except _DamageError as damage:
            raise UserError(f"{self.file(case)}: {damage}; remove it and run nnUNetv2_kd softlabels again.") from damage


def _record(array: blosc2.NDArray) -> dict[str, Any]:
    try:
        record = json.loads(array.schunk.vlmeta[_RECORD])
        return {**record, "sha256": str(record["sha256"])}
    except Exception as err:  # blosc2, msgpack and json have many
        raise _DamageError(f"has no record of what was written ({type(err).__name__})") from err


def _locations(array: blosc2.NDArray) -> Locations:
    if _LOCATIONS not in array.schunk.vlmeta:
        raise _DamageError("was not exported as an unlabeled case")
    try:
        return from_bytes(array.schunk.vlmeta[_LOCATIONS])
    except Exception as err:  # zipfile, zlib and numpy have many
        raise _DamageError(f"has no readable locations ({type(err).__name__})") from err


def _sha256(array: Any) -> str:
    """Of the values in C order, chunk by chunk so that little memory is needed."""
    digest = hashlib.sha256()
    step = array.chunks[1] if isinstance(array, blosc2.NDArray) else array.shape[1]
    for channel in range(array.shape[0]):
        for z in range(0, array.shape[1], step):
            digest.update(np.ascontiguousarray(array[channel, z : z + step]).data)
    return digest.hexdigest()


def _first_difference(found: Any, asked: Any, path: str) -> str | None:
    if isinstance(found, dict) and isinstance(asked, dict):
        for key in sorted({*found, *asked}):
            if difference := _first_difference(found.get(key), asked.get(key), f"{path}.{key}"):
                return difference
        return None
    if found is None and path == "identity.preprocessing":  # earlier versions did not write it
        return None
    return None if found == asked else f"{path} is {found!r}, asked for {asked!r}"
