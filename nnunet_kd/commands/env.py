"""``nnUNetv2_kd env``."""

import argparse
import os
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def discovery_setting(current: str) -> str:
    """Value of ``nnUNet_extTrainer`` that keeps the user's folders and adds ours once."""
    ours = str(Path(__file__).resolve().parents[1] / "_discovery")
    folders = [f for f in current.split(os.pathsep) if f]
    return os.pathsep.join(folders if ours in folders else [*folders, ours])


def run(args: argparse.Namespace) -> None:
    """Prints the setting in the shell's syntax."""
    value = discovery_setting(os.environ.get("nnUNet_extTrainer", ""))
    print(f'set "nnUNet_extTrainer={value}"' if os.name == "nt" else f"export nnUNet_extTrainer='{value}'")
