"""The store: one blosc2 array per case and one manifest per ensemble and data identifier.

``nnUNet_preprocessed/DatasetXXX_NAME/kd_softlabels/<ensemble_id>/<data_identifier>/<case>.b2nd`` and ``manifest.json``.
What belongs to a case (shape, dtype, SHA-256, teachers) travels inside its file, so that exporters that run at once,
also on different machines, never write to the same file.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

from nnunet_kd.errors import UserError
from nnunet_kd.files import write_json, write_whole
from nnunet_kd.softlabels.encoding import encode
from nnunet_kd.softlabels.locations import Locations, from_bytes, to_bytes

FORMAT = 1
MANIFEST = "manifest.json"
_RECORD = "nnunet_kd"
_LOCATIONS = "nnunet_kd_locations"


class SoftLabelStore:
    """Soft labels of one ensemble for one preprocessed data set."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        """Opens a store that exists; use :meth:`create` or :meth:`open`."""
        self.folder = folder
        self.manifest = manifest
        self.regions: bool = manifest["labels"]["regions"]
        self.dtype: str = manifest["identity"]["dtype"]

    @classmethod
    def create(cls, folder: Path, manifest: Mapping[str, Any]) -> "SoftLabelStore":
        """Opens the store in ``folder``, or makes an empty one; two processes may do so at once.

        Args:
            folder: the store's folder.
            manifest: ``format``, ``identity`` (what makes the soft labels what they are), ``labels``, ``versions``.

        Raises:
            UserError: when the folder holds a store of other soft labels, with the first difference.
        """
        if not (folder / MANIFEST).exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / MANIFEST, manifest)
        store = cls.open(folder)
        for key in ("format", "identity", "labels"):
            difference = _first_difference(store.manifest.get(key), json.loads(json.dumps(manifest[key])), key)
            if difference:
                raise UserError(
                    f"{folder}: holds other soft labels than asked for ({difference}); move that folder away or "
                    "export under "
                    "another ensemble.name."
                )
        return store

    @classmethod
    def open(cls, folder: Path) -> "SoftLabelStore":
        """Opens an existing store.

        Raises:
            UserError: when there is none or its manifest cannot be read.
        """
        file = folder / MANIFEST
        try:
            manifest = json.loads(file.read_text())
            if manifest["format"] != FORMAT:
                raise UserError(
                    f"{file}: has format {manifest['format']}, this version reads {FORMAT}; export it again."
                )
            return cls(folder, manifest)
        except FileNotFoundError:
            raise UserError(f"{folder}: no soft labels here; make them with nnUNetv2_kd softlabels.") from None
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise UserError(
                f"{file}: not a manifest of soft labels ({err!r}); remove the folder and export again."
            ) from err

    def file(self, case: str) -> Path:
        """Path of a case's array.

        Raises:
            UserError: for a name that could leave the folder.
        """
        if not case or case.startswith(".") or set(case) & set("/\\") or not case.isprintable():
            raise UserError(f"{self.folder}: {case!r} is not a case name.")
        return self.folder / f"{case}.b2nd"

    def __contains__(self, case: str) -> bool:
        return self.file(case).is_file()

    def cases(self) -> list[str]:
        """Names of all cases in the store, sorted."""
        return sorted(f.name.removesuffix(".b2nd") for f in self.folder.glob("*.b2nd") if not f.name.startswith("."))

    def missing(self, cases: Sequence[str]) -> list[str]:
        """Those of ``cases`` that the store does not hold yet, in order."""
        return [c for c in cases if c not in self]

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
            record: anything JSON that belongs to the case, such as the teachers used.
            locations: voxels of each class, for cases without a reference to find them in.
        """
        stored = np.ascontiguousarray(encode(probabilities, self.regions, self.dtype))
        blocks, chunks = comp_blosc2_params(stored.shape, tuple(patch_size), bytes_per_pixel=stored.itemsize)
        own = {"shape": list(stored.shape), "dtype": str(stored.dtype), "sha256": _sha256(stored)}

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
        """Lazy stored array of a case, (C - 1, z, y, x) or (R, z, y, x)."""
        mmap = {} if os.name == "nt" else {"mmap_mode": "r"}  # as nnU-Net 2.8 opens its own arrays
        return blosc2.open(str(self.file(case)), mode="r", dparams={"nthreads": 1}, **mmap)

    def record(self, case: str) -> dict[str, Any]:
        """What was written with a case: shape, dtype, sha256 and the exporter's record."""
        array = self.read(case)  # its schunk lives no longer than the array
        return json.loads(array.schunk.vlmeta[_RECORD])

    def locations(self, case: str) -> Locations:
        """Voxels of each class that were written with an unlabeled case.

        Raises:
            UserError: for a case that was exported while it was labeled.
        """
        array = self.read(case)
        if _LOCATIONS not in array.schunk.vlmeta:
            raise UserError(
                f"{self.file(case)}: was not exported as an unlabeled case; remove it and run nnUNetv2_kd softlabels."
            )
        return from_bytes(array.schunk.vlmeta[_LOCATIONS])

    def verify(self, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str | None]]:
        """Checks every case, yielding (case, None) or (case, what is wrong).

        Args:
            shapes: spatial shape (z, y, x) of each preprocessed case that the store should hold.
        """
        for case in sorted({*self.cases(), *shapes}):
            yield case, self._verify_case(case, shapes)

    def _verify_case(self, case: str, shapes: Mapping[str, Sequence[int]]) -> str | None:
        if case not in self:
            return "missing"
        if case not in shapes:
            return "not a case of the preprocessed data"
        try:
            record, stored = self.record(case), self.read(case)[:]
        except Exception as err:
            return f"cannot be read ({type(err).__name__})"
        if tuple(stored.shape[1:]) != tuple(shapes[case]):
            return f"shape {tuple(stored.shape[1:])}, the preprocessed image has {tuple(shapes[case])}"
        if str(stored.dtype) != self.dtype:
            return f"dtype {stored.dtype}, expected {self.dtype}"
        return None if _sha256(stored) == record["sha256"] else "SHA-256 differs, the file is damaged"


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _first_difference(found: Any, asked: Any, path: str) -> str | None:
    if isinstance(found, dict) and isinstance(asked, dict):
        for key in sorted({*found, *asked}):
            if difference := _first_difference(found.get(key), asked.get(key), f"{path}.{key}"):
                return difference
        return None
    return None if found == asked else f"{path} is {found!r}, asked for {asked!r}"
