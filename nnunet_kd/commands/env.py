"""``nnUNetv2_kd env``."""

import argparse
import os
from pathlib import Path

from nnunet_kd.utilities.extensions import VARIABLE, extension_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def discovery_setting(current: str) -> str:
    """Value of ``nnUNet_extTrainer`` that keeps the user's folders and adds ours once."""
    ours = str(Path(__file__).resolve().parents[1] / "_discovery")
    folders = [f for f in current.split(os.pathsep) if f]
    return os.pathsep.join(folders if ours in folders else [*folders, ours])


def run(args: argparse.Namespace) -> None:
    """Prints the settings in the shell's syntax: that of the trainers, and of the user's own folders where it is set.

    Raises:
        UserError: when one of the latter is no folder.
    """
    extension_folders("trainers")
    settings = {"nnUNet_extTrainer": discovery_setting(os.environ.get("nnUNet_extTrainer", ""))}
    if extensions := os.environ.get(VARIABLE):
        settings[VARIABLE] = extensions
    for name, value in settings.items():
        print(f'set "{name}={value}"' if os.name == "nt" else f"export {name}='{value}'")
