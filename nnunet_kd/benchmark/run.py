"""All measurements of a benchmark, in order, and what is noted beside them."""

import contextlib
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

import nnunet_kd
from nnunet_kd.benchmark.candidates import Candidate, Conditions
from nnunet_kd.benchmark.command import measure_command
from nnunet_kd.benchmark.measure import ResourceUse, device_memory_reader
from nnunet_kd.benchmark.network import rotated, time_networks
from nnunet_kd.planning.cost import count_models

WARM_UP = "one case per model, through the command and through the networks"


def run_benchmark(
    candidates: Sequence[Candidate], conditions: Conditions, logs: Path, network_only: bool = False
) -> dict[str, Any]:
    """Measures everything; returns the content of ``benchmark.json``.

    Args:
        candidates: the first is the reference of the ratios.
        conditions: the same for all.
        logs: existing folder for the commands' output.
        network_only: leave out whole ``nnUNetv2_predict``, and with it memory and processor.

    Raises:
        UserError: when a model cannot be loaded or a command fails.
    """
    costs = {c.name: count_models(c.name, c.models, c.mirroring) for c in candidates}
    cases, runs = list(conditions.cases), conditions.runs
    read_device_memory, no_device_memory = device_memory_reader(conditions.device.type)
    uses: dict[str, list[ResourceUse]] = {c.name: [] for c in candidates}
    whole = 0 if network_only else (runs + 1) * len(candidates)
    with tqdm(total=whole + len(cases), desc="benchmark", unit="step") as bar:
        # The commands come first: while they run, this process must not hold memory of the GPU.
        for c in candidates if whole else ():
            measure_command(c, cases[:1], conditions, logs / f"{c.name}_warm_up.log", read_device_memory)
            bar.update()
        for run in range(runs) if whole else ():
            for c in rotated(candidates, run):
                log = logs / f"{c.name}_run_{run + 1}.log"
                uses[c.name].append(measure_command(c, cases, conditions, log, read_device_memory))
                bar.update()
        network_seconds = time_networks(candidates, conditions, bar)
    return {
        "device": _describe_device(conditions.device),
        "machine": _describe_machine(),
        "versions": _versions(),
        "date": time.strftime("%Y-%m-%d"),
        "cases": len(cases),
        "case_names": cases,
        "runs": runs,
        "warm_up": WARM_UP,
        "processes": {"npp": conditions.preprocessing_processes, "nps": conditions.export_processes},
        "no_device_memory": no_device_memory,
        "reference": candidates[0].name,
        "models": {
            c.name: {
                "folders": [f"{m.folder.name}:{','.join(map(str, m.folds))}" for m in c.models],
                "cost": asdict(costs[c.name]),
                **network_seconds[c.name],
                **_values(uses[c.name], len(cases)),
            }
            for c in candidates
        },
    }


def _values(uses: Sequence[ResourceUse], cases: int) -> dict[str, Any]:
    """A value of each run; times and areas for one case."""
    peaks = [u.peak_device_mb for u in uses if u.peak_device_mb is not None]
    areas = [u.device_memory_time_mb_s / cases for u in uses if u.device_memory_time_mb_s is not None]
    return {
        "predict_seconds_per_case": [u.seconds / cases for u in uses] or None,
        "peak_rss_mb": [u.peak_rss_mb for u in uses] or None,
        "peak_device_mb": peaks or None,
        "device_memory_time_mb_s": areas or None,
        "cpu_time_percent_s": [u.cpu_time_percent_s / cases for u in uses] or None,
    }


def _describe_device(device: torch.device) -> str:
    return f"cuda: {torch.cuda.get_device_name(0)}" if device.type == "cuda" else device.type


def _describe_machine() -> str:
    """Processor, number of logical ones, memory and system; not the machine's name."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            processor = found[1]
    memory_gb = psutil.virtual_memory().total / 1e9
    return f"{processor}, {os.cpu_count()} logical CPUs, {memory_gb:.0f} GB memory, {platform.system()}"


def _versions() -> dict[str, str]:
    versions = {"nnunet_kd": nnunet_kd.__version__, "nnunetv2": version("nnunetv2"), "torch": torch.__version__}
    return versions | {"python": platform.python_version()}
