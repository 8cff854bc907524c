"""Files that can hold code (PyTorch's, pickles), read without running any of it."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_kd.utilities.errors import UserError

_multiarray = getattr(np, "_core", None) or np.core  # NumPy 2 renamed the module
# Everything that nnU-Net 2.x puts into a checkpoint beside tensors and plain containers.
_CHECKPOINT_GLOBALS: list[Any] = [
    torch.device,
    np.dtype,
    np.ndarray,
    _multiarray.multiarray.scalar,
    *{type(np.dtype(t)) for t in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
]
# What NumPy's scalars and arrays are made of, under the names of NumPy 1 and 2.
_NUMPY_GLOBALS = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} | {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}


def load_torch_file(file: Path, what: str) -> Any:
    """What a file of ``torch.save`` holds, on the CPU: tensors, numbers, text and containers of them.

    Args:
        file: the file.
        what: what a message calls it.

    Raises:
        UserError: when the file cannot be read or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(_CHECKPOINT_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # PyTorch's own text is not passed on: it advises to load such files without protection
        raise UserError(f"{file}: not a readable {what} ({_reason(err)}).") from err


def load_pickle_file(file: Path) -> Any:
    """What a pickle holds: numbers, text, containers, NumPy scalars and arrays.

    Raises:
        UserError: when the file cannot be read or holds anything else.
    """
    try:
        with file.open("rb") as f:
            return _Unpickler(f).load()
    except Exception as err:
        raise UserError(f"{file}: not a readable pickle ({_reason(err)}).") from err


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY_GLOBALS:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)


def _reason(err: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(err)):
        return f"it holds {found[1]}, which could be code"
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return "it is damaged, or holds other things than numbers, text and arrays"
