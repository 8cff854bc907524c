"""What prediction needs beside nnU-Net, written into a model folder whose network is not one of nnU-Net's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_kd import __version__
from nnunet_kd.utilities.dotted_names import PACKAGES, VARIABLE
from nnunet_kd.utilities.extensions import extension_folders
from nnunet_kd.utilities.files import write_whole

STOCK = ("dynamic_network_architectures", "nnunetv2")


def write_readme(model_folder: Path, class_path: str, arguments: Mapping[str, Any]) -> None:
    """Writes ``README.md`` where something is needed and no such file is there.

    Args:
        model_folder: ``TRAINER__PLANS__CONFIGURATION``.
        class_path: of the network, as plans name it.
        arguments: of its class, as in plans.
    """
    needed, file = needed_at_prediction(class_path, arguments), model_folder / "README.md"
    if not needed or file.exists():
        return
    text = "\n".join(
        [
            f"# {model_folder.name}",
            "",
            f"The network of this model, `{class_path}`, is not nnU-Net's own. `nnUNetv2_predict` finds it with:",
            "",
            *(f"- {line}" for line in needed),
            "",
            "Trainers are not needed. Without these, nnU-Net ends with an error when it loads the network.",
            "`nnUNetv2_kd export` turns the model into a bundle that predicts without them.",
            "",
        ]
    )
    write_whole(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def needed_at_prediction(class_path: str, arguments: Mapping[str, Any]) -> list[str]:
    """A line for each package, file or variable; none for nnU-Net's own networks."""
    package = class_path.partition(".")[0]
    if package in STOCK:
        return []
    files = {file.stem: file for folder in extension_folders("networks") for file in folder.glob("*.py")}
    if package in files:
        return [
            f"the file `{files[package].name}`, in a folder on Python's path (`export PYTHONPATH=FOLDER`)",
            "the packages that this file imports",
        ]
    version = f" ({__version__} made this model)" if package == "nnunet_kd" else ""
    lines = [f"the Python package `{package.replace('_', '-') if version else package}`{version}"]
    inner = str(arguments.get("network", ""))  # of another library, in a network of this package
    if version and "." in inner:
        library = inner.partition(".")[0]
        lines.append(f"the Python package that has `{inner}`")
        if library not in PACKAGES:
            lines.append(f"the variable by which it is allowed: `export {VARIABLE}={library}`")
    return lines
