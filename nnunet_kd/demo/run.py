"""Runs the demo: prints each command, then runs it, then shows what came out."""

import os
import shlex
import shutil
import time
from pathlib import Path

from nnunet_kd.demo.synthetic import write_dataset
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import writing

MARKER = ".nnunet_kd_demo"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# Few workers, as each takes seconds to start; OpenMP threads that sleep while they wait, because spinning ones make
# training several times slower when the machine is busy with something else.
VARIABLES = {"nnUNet_def_n_proc": "2", "nnUNet_n_proc_DA": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def run_demo(folder: Path, device: str = "auto", seed: int = 0, overwrite: bool = False) -> None:
    """Runs everything below ``folder`` and prints the table.

    Args:
        folder: empty or new; with ``overwrite`` also a previous demo's, which is removed.
        device: cpu, cuda or mps, or auto.
        seed: seed of data and trainings.
        overwrite: whether a previous demo may be removed.

    Raises:
        UserError: when the folder or the device cannot be used, or a command fails.
    """
    start = time.perf_counter()
    folder = folder.expanduser().resolve()
    check_folder(folder, overwrite)
    variables = {name: str(folder / name) for name in FOLDERS} | VARIABLES
    os.environ.update(variables)  # before nnunetv2 is imported, which reads them once
    from nnunet_kd.demo.results import format_table, read_results, write_summary
    from nnunet_kd.demo.steps import student_request, teacher_steps
    from nnunet_kd.distill.prepare import claim, prepare
    from nnunet_kd.distill.run import run_steps
    from nnunet_kd.distill.summary import summarise
    from nnunet_kd.utilities.environment import torch_device

    device = torch_device(device).type
    make_folder(folder)
    print("\n".join(f"$ export {name}={shlex.quote(value)}" for name, value in variables.items()))

    with writing(folder):
        dataset = write_dataset(folder / FOLDERS[0], seed=seed)
    print(f"Wrote a synthetic data set to {dataset}", flush=True)
    again = f"nnUNetv2_kd demo -o {shlex.quote(str(folder))} --overwrite"
    seconds = run_steps(teacher_steps(device, seed), folder / "logs", device == "cpu", again)
    request = student_request(folder, device, seed)
    print(f"\n$ {request}", flush=True)
    distillation = prepare(request)
    claim(distillation)
    seconds |= run_steps(distillation.steps(), folder / "logs", device == "cpu", again)

    results = read_results(distillation.on_test_cases)
    print(f"\n{format_table(results, device)}\n\n{summarise(distillation)}\n", flush=True)
    write_summary(folder, device, seed, results, seconds, time.perf_counter() - start)
    minutes, rest = divmod(round(time.perf_counter() - start), 60)
    print(f"{minutes} min {rest} s in all.\nNumbers: {folder / 'summary.json'}\nLogs: {folder / 'logs'}")
    print("Read next: docs/getting-started/first-student.md, the same with your own data.")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses a folder that is in use, unless it is a previous demo's and may be replaced.

    Raises:
        UserError: names what is there, and the option that replaces it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MARKER).is_file():
        raise UserError(f"-o {folder}: exists and is not a demo's folder; choose another.")
    if not overwrite:
        raise UserError(f"-o {folder}: holds a previous demo; choose another folder, or add --overwrite to replace it.")


def make_folder(folder: Path) -> None:
    """Makes an empty demo folder in place of a previous demo."""
    if (folder / MARKER).is_file():
        shutil.rmtree(folder)
    with writing(folder):
        for name in (*FOLDERS, "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text("Made by nnUNetv2_kd demo; --overwrite removes this folder.\n")
