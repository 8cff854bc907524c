"""The networks' predictions with only the largest component of every label, evaluated beside the raw ones."""

import json
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.postprocessing.remove_connected_components import (
    load_postprocess_save,
    remove_all_but_largest_component_from_segmentation,
)

from nnunet_kd.cli import main


def keep_largest(folder: Path, reference: Path, arms: Sequence[str] = ()) -> None:
    """Writes ``FOLDER-largest`` with nnU-Net's own postprocessing; what is there already is left as it is.

    Args:
        folder: predictions of one data set, with a folder for each network.
        reference: reference segmentations.
        arms: names of networks, or of networks without ``-SEED``; none: all.
    """
    for source in sorted(summary.parent for summary in folder.glob("*/summary.json")):
        if arms and not {source.name, source.name.rpartition("-")[0]} & set(arms):
            continue
        target = folder.with_name(f"{folder.name}-largest") / source.name
        if (target / "summary.json").exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        description = source / "dataset.json"
        content = json.loads(description.read_text())
        labels = [{"labels_or_regions": label} for label in content["labels"].values() if label]
        functions = [remove_all_but_largest_component_from_segmentation] * len(labels)
        for file in sorted(source.glob(f"*{content['file_ending']}")):
            load_postprocess_save(str(file), str(target / file.name), SimpleITKIO(), functions, labels)
        main(["evaluate", "-i", str(target), "-r", str(reference), "-djfile", str(description), "-np", "1"])
