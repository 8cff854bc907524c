"""Options that several commands share."""

import argparse

DEVICES = ("auto", "cuda", "mps", "cpu")


def add_device(parser: argparse.ArgumentParser, what: str = "where networks run", default: str = "auto") -> None:
    """``-device``, for :func:`nnunet_kd.utilities.environment.torch_device`."""
    text = f"{what}; auto: CUDA where there is one, else MPS, else the CPU; default: {default}"
    parser.add_argument("-device", default=default, choices=DEVICES, help=text)
