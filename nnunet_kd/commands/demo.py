"""``nnUNetv2_kd demo``."""

import argparse
from pathlib import Path

from nnunet_kd.commands.options import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the demo runs and on what."""
    parser.add_argument(
        "-o", type=Path, default=Path("nnunet_kd_demo"), metavar="DIR", help="output folder; default: ./nnunet_kd_demo"
    )
    add_device(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of data and trainings; default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace a previous demo in the output folder")


def run(args: argparse.Namespace) -> None:
    """Runs the demo."""
    from nnunet_kd.demo.run import run_demo
    from nnunet_kd.utilities.errors import UserError

    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: expected a number from 0 to {2**32 - 1}.")
    run_demo(args.o, args.device, args.seed, args.overwrite)
