"""Spoiling files: one function for each kind of file, chosen by a name and a seed."""

import gzip
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np
import torch

from tests.fuzz.values import VALUES, mutate_value

Spoil = Callable[[Path, random.Random], None]


def _garbage(file: Path, rng: random.Random) -> None:
    file.write_bytes(rng.randbytes(600))


def _truncated(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(1, len(content))])


def _flipped(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(3):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def _missing(file: Path, rng: random.Random) -> None:
    file.unlink()


def _dangling(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def _folder(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


FILES: dict[str, Spoil] = {
    "empty file": lambda file, rng: file.write_bytes(b"") and None,
    "garbage": _garbage,
    "truncated": _truncated,
    "flipped bits": _flipped,
    "missing": _missing,
    "dangling link": _dangling,
    "folder": _folder,
}


def _json_value(name: str, below: tuple[str, ...] = ()) -> Spoil:
    def spoil(file: Path, rng: random.Random) -> None:
        file.write_text(json.dumps(mutate_value(json.loads(file.read_text()), name, rng, below)))

    return spoil


def _deep(file: Path, rng: random.Random) -> None:
    file.write_text('{"kd": ' + "[" * 20_000 + "]" * 20_000 + "}")


JSON: dict[str, Spoil] = {
    **{name: _json_value(name) for name in VALUES},
    **FILES,
    "nested deeply": _deep,
    "a list": lambda file, rng: file.write_text("[1, 2]") and None,
    "a number": lambda file, rng: file.write_text("3") and None,
    "null itself": lambda file, rng: file.write_text("null") and None,
    "utf-16": lambda file, rng: file.write_bytes(file.read_text().encode("utf-16")) and None,
}
KD: dict[str, Spoil] = {name: _json_value(name, ("kd",)) for name in VALUES}


def _pickled(name: str) -> Spoil:
    def spoil(file: Path, rng: random.Random) -> None:
        file.write_bytes(pickle.dumps(mutate_value(pickle.loads(file.read_bytes()), name, rng)))

    return spoil


class _Harmful:
    """What a hostile file holds; unpickled, it leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


PICKLE: dict[str, Spoil] = {
    **{name: _pickled(name) for name in VALUES},
    **FILES,
    "harmful": lambda file, rng: file.write_bytes(pickle.dumps(_Harmful())) and None,
}


def _checkpoint(change: Callable[[dict, random.Random], Any]) -> Spoil:
    def spoil(file: Path, rng: random.Random) -> None:
        content = torch.load(file, weights_only=False)
        changed = change(content, rng)
        torch.save(content if changed is None else changed, file)

    return spoil


def _weights(value: Callable[[torch.Tensor], Any]) -> Spoil:
    def change(content: dict, rng: random.Random) -> None:
        weights = content["network_weights"]
        key = rng.choice(sorted(weights))
        weights[key] = value(weights[key])

    return _checkpoint(change)


def _outer(name: str) -> Spoil:
    def change(content: dict, rng: random.Random) -> dict:
        shallow = {k: v for k, v in content.items() if k in ("trainer_name", "network_weights", "init_args")}
        shallow["inference_allowed_mirroring_axes"] = content.get("inference_allowed_mirroring_axes")
        key = rng.choice(["trainer_name", "network_weights", "inference_allowed_mirroring_axes"])
        return content | mutate_value({key: shallow[key]}, name, rng) if name != "deleted" else _without(content, key)

    return _checkpoint(change)


def _without(content: dict, key: str) -> dict:
    return {k: v for k, v in content.items() if k != key}


CHECKPOINT: dict[str, Spoil] = {
    **{name: _outer(name) for name in ("deleted", "null", "other type", "nested", "negative", "path", "long name")},
    **FILES,
    "nan weights": _weights(lambda w: w * float("nan")),
    "infinite weights": _weights(lambda w: w + float("inf")),
    "other shape": _weights(lambda w: torch.zeros(3, 3)),
    "a word for weights": _weights(lambda w: "weights"),
    "integers": _weights(lambda w: w.to(torch.int32)),
    "harmful": _checkpoint(lambda content, rng: {**content, "logging": _Harmful()}),
    "a list": _checkpoint(lambda content, rng: [1, 2]),
}


def _nifti(array: Callable[[np.ndarray], np.ndarray], zooms: tuple[float, ...] | None = None) -> Spoil:
    def spoil(file: Path, rng: random.Random) -> None:
        image = nib.load(file)
        new = array(np.asanyarray(image.dataobj))
        made = nib.Nifti1Image(new, image.affine, dtype=new.dtype)
        if zooms is not None:
            made = nib.Nifti1Image(new, np.diag([*zooms, 1.0]), dtype=new.dtype)
        nib.save(made, file)

    return spoil


def _header(**fields: Any) -> Spoil:
    """Header fields as no library would write them, in an uncompressed copy under the same name."""

    def spoil(file: Path, rng: random.Random) -> None:
        image = nib.load(file)
        array = np.asanyarray(image.dataobj)
        header = image.header.copy()
        for name, value in fields.items():
            header.structarr[name] = value
        file.write_bytes(gzip.compress(header.binaryblock + bytes(4) + array.tobytes(order="F")))

    return spoil


def _set_voxel(value: float, dtype: type) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        new = array.astype(dtype)
        new[tuple(s // 2 for s in new.shape)] = value
        return new

    return change


IMAGE: dict[str, Spoil] = {
    **FILES,
    "4D": _nifti(lambda a: np.stack([a, a], -1)),
    "2D": _nifti(lambda a: a[..., 0]),
    "one slice": _nifti(lambda a: a[..., :1]),
    "one voxel": _nifti(lambda a: a[:1, :1, :1]),
    "complex": _nifti(lambda a: a.astype(np.complex64)),
    "colours": _nifti(lambda a: np.zeros(a.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    "constant": _nifti(np.zeros_like),
    "nan": _nifti(_set_voxel(np.nan, np.float32)),
    "infinite": _nifti(_set_voxel(np.inf, np.float32)),
    "huge spacing": _nifti(np.asarray, (1e6, 1e6, 1e6)),
    "tiny spacing": _nifti(np.asarray, (1e-7, 1e-7, 1e-7)),
    "slightly anisotropic": _nifti(np.asarray, (1.0, 1.0, 900.0)),
    "other shape": _nifti(lambda a: np.repeat(a, 2, 0)),
    "zero size": _header(dim=[3, 0, 0, 0, 1, 1, 1, 1]),
    "negative size": _header(dim=[3, -4, 20, 20, 1, 1, 1, 1]),
    "huge size": _header(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]),
    "zero spacing": _header(pixdim=[1, 0, 0, 0, 1, 1, 1, 1], qform_code=0, sform_code=0),
    "nan spacing": _header(pixdim=[1, np.nan, 1, 1, 1, 1, 1, 1], qform_code=1, sform_code=0),
    "nan affine": _header(srow_x=[np.nan] * 4, sform_code=1),
    "zero affine": _header(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4, sform_code=1),
    "unknown type": _header(datatype=77),
}
LABEL: dict[str, Spoil] = {
    **IMAGE,
    "huge label": _nifti(_set_voxel(3e8, np.int32)),
    "negative label": _nifti(_set_voxel(-2, np.int16)),
    "fraction": _nifti(_set_voxel(1.4, np.float32)),
    "huge fraction": _nifti(_set_voxel(1e30, np.float64)),
}


def _npz(make: Callable[[np.ndarray], dict[str, Any]]) -> Spoil:
    def spoil(file: Path, rng: random.Random) -> None:
        with np.load(file) as content:
            probabilities = content["probabilities"]
        np.savez(file, **make(probabilities))

    return spoil


def _map(change: Callable[[np.ndarray], Any]) -> Spoil:
    return _npz(lambda p: {"probabilities": change(p)})


MAP: dict[str, Spoil] = {
    **FILES,
    "other key": _npz(lambda p: {"softmax": p}),
    "no array": _npz(lambda p: {}),
    "strings": _map(lambda p: p.astype(str)),
    "objects": _map(lambda p: p.astype(object)),
    "complex": _map(lambda p: p.astype(np.complex64)),
    "booleans": _map(lambda p: p > 0.5),
    "records": _map(lambda p: np.zeros(p.shape, [("a", "f4"), ("b", "f4")])),
    "dates": _map(lambda p: np.zeros(p.shape, "datetime64[s]")),
    "zero size": _map(lambda p: p[..., :0]),
    "scalar": _map(lambda p: np.float32(1)),
    "3D": _map(lambda p: p[0]),
    "other classes": _map(lambda p: p[:-1]),
    "other shape": _map(lambda p: p[:, :-1]),
    "nan": _map(lambda p: p * np.nan),
    "negative": _map(lambda p: p - 1),
    "logits": _map(lambda p: p * 50),
}


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(file: Path, rng: random.Random) -> None:
        new = np.ascontiguousarray(change(blosc2.open(str(file), mode="r")[:]))
        file.unlink()
        blosc2.asarray(new, urlpath=str(file))

    return spoil


def _other_frame(file: Path, rng: random.Random) -> None:
    file.unlink()
    blosc2.SChunk(data=b"seven" * 40, urlpath=str(file))


BLOSC: dict[str, Spoil] = {
    **FILES,
    "other shape": _array(lambda a: a[:, :-2]),
    "3D": _array(lambda a: a[0]),
    "zero size": _array(lambda a: a[:, :0]),
    "complex": _array(lambda a: a.astype(np.complex64)),
    "nan": _array(lambda a: a.astype(np.float32) * np.nan),
    "strings": _array(lambda a: a.astype("S3")),
    "no array": _other_frame,
}
