"""Student and teacher networks that plans can name; each runs in 2D and 3D and returns logits.

Plans name classes without their file, as ``nnunet_kd.networks.ENet``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """The class of this name among those that a family of this package is declared for."""
    from nnunet_kd.networks.family import families  # torch takes seconds: only who asks for a class waits for it

    if not name.startswith("_"):
        for family in families().values():
            if family.class_path == f"{__name__}.{name}":
                return family.network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
