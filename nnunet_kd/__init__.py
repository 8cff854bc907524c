"""Knowledge distillation for nnU-Net v2."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nnunet-kd")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
