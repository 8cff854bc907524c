"""What the whole ``nnUNetv2_predict`` uses for some cases, from its start to the last file."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from nnunet_kd.benchmark.candidates import Candidate, Conditions, file_ending
from nnunet_kd.benchmark.measure import ResourceUse, run_sampled
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.programs import find_program

PROGRAM = "nnUNetv2_predict"


def measure_command(
    candidate: Candidate,
    cases: Sequence[str],
    conditions: Conditions,
    log: Path,
    device_memory: Callable[[], int] | None,
) -> ResourceUse:
    """Predicts some cases with each folder of a model in turn; the predictions are thrown away.

    Args:
        candidate: the model.
        cases: names, keys of ``conditions.cases``.
        conditions: files of the cases, device, numbers of processes.
        log: for the command's output; with several folders each has its own, numbered one.
        device_memory: bytes in use on the GPU, or None.

    Raises:
        UserError: when a command fails or leaves a case out.
    """
    uses = []
    with TemporaryDirectory(prefix="nnunet_kd_benchmark_") as scratch:
        images = Path(scratch, "images")
        images.mkdir()
        for case in cases:
            for file in conditions.cases[case]:
                _show(file, images)
        for number, model in enumerate(candidate.models):
            output = Path(scratch, f"output_{number}")
            command = (
                *(find_program(PROGRAM), "-d", model.folder.parent.name, "-c", model.configuration),
                *("-tr", model.trainer_name, "-p", model.plans_name, "-f", *map(str, model.folds)),
                *("-chk", model.checkpoint, "-i", str(images)),
                *("-o", str(output), "-device", conditions.device.type),
                *("-npp", str(conditions.preprocessing_processes), "-nps", str(conditions.export_processes)),
                *(() if candidate.mirroring else ("--disable_tta",)),
            )
            results = {"nnUNet_results": str(model.folder.parent.parent)}
            own_log = log if len(candidate.models) == 1 else log.with_stem(f"{log.stem}_folder_{number}")
            uses.append(run_sampled(command, own_log, results, device_memory))
            if left_out := [c for c in cases if not (output / f"{c}{file_ending(model)}").is_file()]:
                raise UserError(f"{PROGRAM} left out case {left_out[0]}; its output is in {own_log}.")
    return ResourceUse.in_a_row(uses)


def _show(file: Path, folder: Path) -> None:
    """Makes an image appear in a folder, with what nnU-Net reads beside it (``CASE.json`` of TIFF images)."""
    beside = file.with_name(re.sub(r"_\d{4}\..+$", ".json", file.name))
    for source in (file, beside):
        target = folder / source.name
        if not source.is_file() or target.exists():
            continue
        try:
            target.symlink_to(source.absolute())
        except OSError:  # no symbolic links on this system
            shutil.copyfile(source, target)
