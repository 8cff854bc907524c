"""Find, check and load frozen teachers: trained nnU-Net model folders."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_kd.errors import UserError

# Everything that nnU-Net 2.x puts into a checkpoint beside tensors and plain containers.
_ALLOWED_GLOBALS: list[Any] = [
    torch.device,
    np.dtype,
    np.ndarray,
    np.core.multiarray.scalar if int(np.__version__.split(".")[0]) < 2 else np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *{type(np.dtype(t)) for t in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
]


def load_checkpoint_file(file: Path) -> dict[str, Any]:
    """Loads an nnU-Net checkpoint onto the CPU without running any code that it may hold.

    Raises:
        UserError: when the file is missing, damaged or holds objects that no nnU-Net checkpoint holds.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; finish the training or name another one.")
    try:
        with torch.serialization.safe_globals(_ALLOWED_GLOBALS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:
        raise UserError(f"{file}: not a readable nnU-Net checkpoint ({str(err).splitlines()[0]}).") from err
