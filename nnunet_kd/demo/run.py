"""Runs the demo: prints each command, then runs it, then shows what came out."""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from nnunet_kd.demo.results import format_table, measure_costs, read_results, write_summary
from nnunet_kd.demo.steps import MODELS, Step, make_steps
from nnunet_kd.demo.synthetic import write_dataset
from nnunet_kd.errors import UserError
from nnunet_kd.files import writing
from nnunet_kd.programs import failure, find_program

MARKER = ".nnunet_kd_demo"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# Few workers, as each takes seconds to start; OpenMP threads that sleep while they wait, because spinning ones make
# training several times slower when the machine is busy with something else.
VARIABLES = {"nnUNet_def_n_proc": "2", "nnUNet_n_proc_DA": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def run_demo(folder: Path, device: str | None = None, seed: int = 0, overwrite: bool = False) -> None:
    """Runs everything below ``folder`` and prints the table.

    Args:
        folder: empty or new; with ``overwrite`` also a previous demo's, which is removed.
        device: cpu, cuda or mps; None for cuda where available, else cpu.
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
    device = choose_device(device)
    make_folder(folder)
    print("\n".join(f"$ export {name}={shlex.quote(value)}" for name, value in variables.items()))

    with writing(folder):
        dataset = write_dataset(folder / FOLDERS[0], seed=seed)
    print(f"Wrote a synthetic data set to {dataset}", flush=True)
    steps = make_steps(folder, device, seed)
    seconds: dict[str, float] = {}
    for number, step in enumerate(steps, 1):
        if number == len(steps):
            print("\nTiming the networks ...", flush=True)
            measure_costs(folder, device, {m.key: seconds[m.prediction_title] for m in MODELS})
        print(f"\n[{number}/{len(steps)}] {step.title}\n$ {step}", flush=True)
        seconds[step.title] = run_step(step, folder / "logs" / f"{number:02d}_{step.command[0]}.log")
        print(f"{seconds[step.title]:.1f} s", flush=True)

    results = read_results(folder)
    print(f"\n{format_table(results, device)}\n", flush=True)
    write_summary(folder, device, seed, results, seconds, time.perf_counter() - start)
    minutes, rest = divmod(round(time.perf_counter() - start), 60)
    print(f"{minutes} min {rest} s in all. Open the report: {folder / 'report' / 'report.html'}")
    print(f"Numbers: {folder / 'summary.json'}\nLogs: {folder / 'logs'}")
    print("Read next: docs/getting-started/first-student.md, the same steps with your own data.")


def choose_device(name: str | None) -> str:
    """The named device, or cuda where available, else cpu.

    Raises:
        UserError: when the machine has no such device.
    """
    import torch

    from nnunet_kd.environment import torch_device

    return torch_device(name or ("cuda" if torch.cuda.is_available() else "cpu")).type


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses a folder that is in use, unless it is a previous demo's and may be replaced.

    Raises:
        UserError: says what is there and how to go on.
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
    for name in (*FOLDERS, "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by nnUNetv2_kd demo; --overwrite removes this folder.\n")


def run_step(step: Step, log: Path) -> float:
    """Runs one command, all output to ``log``; returns its wall time in seconds.

    Raises:
        UserError: with the log's last lines, when the command fails.
    """
    program, *arguments = step.command
    start = time.perf_counter()
    with log.open("w") as output:
        code = subprocess.run(
            [find_program(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | step.variables,
        ).returncode
    if code:
        raise failure(program, code, log)
    return time.perf_counter() - start
