"""What a command uses while it runs: wall time, memory and processor of its process tree, memory of the GPU."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from nnunet_kd.utilities.programs import failure

INTERVAL_S = 0.1  # as FLARE22 samples
_BYTES_PER_MB = 1e6


@dataclass(frozen=True)
class ResourceUse:
    """What a command used from its start to its end, start-up included. 1 MB is 10^6 bytes.

    Attributes:
        seconds: wall time.
        peak_rss_mb: largest resident memory of the process and its descendants together. On Linux pages that processes
            share count once (proportional set size; nnU-Net forks), elsewhere once for each process.
        cpu_time_percent_s: area under the curve of CPU utilisation over time, in per cent times seconds, where 100 per
            cent is every logical processor of the machine at work for this process tree.
        peak_device_mb: largest memory in use on the GPU, above what was in use before; None where not measured.
        device_memory_time_mb_s: area under the curve of that memory over time, in MB times seconds; or None.
    """

    seconds: float
    peak_rss_mb: float
    cpu_time_percent_s: float
    peak_device_mb: float | None = None
    device_memory_time_mb_s: float | None = None

    @classmethod
    def in_a_row(cls, uses: Sequence["ResourceUse"]) -> "ResourceUse":
        """Several commands one after another: times and areas add up, of the peaks the largest counts."""
        device_peaks = [u.peak_device_mb for u in uses if u.peak_device_mb is not None]
        device_areas = [u.device_memory_time_mb_s for u in uses if u.device_memory_time_mb_s is not None]
        return cls(
            sum(u.seconds for u in uses),
            max(u.peak_rss_mb for u in uses),
            sum(u.cpu_time_percent_s for u in uses),
            max(device_peaks) if device_peaks else None,
            sum(device_areas) if device_areas else None,
        )


def run_sampled(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    device_memory: Callable[[], int] | None = None,
    interval_s: float = INTERVAL_S,
) -> ResourceUse:
    """Runs a command to its end, its output to ``log``, and samples what it uses.

    Areas are sums over samples (trapezoids for memory). What a process computes after its last sample, at most
    ``interval_s``, is missed, and so is a process that lives between two samples. Reading the proportional set size is
    slow; it is read where it can exceed the peak so far, and for a tenth of the time at most.
    Source: the efficiency measures of the FLARE 2022 challenge. Deviation: FLARE reads processor and GPU of the whole
    machine; here they are the command's own, so that other work does not enter (GPU: as long as it stays the same).

    Args:
        command: program and arguments.
        log: file for standard output and error.
        environment: variables to set on top of this process's.
        device_memory: returns the bytes in use on the GPU, see :func:`device_memory_reader`.
        interval_s: seconds between two samples.

    Raises:
        UserError: with the log's last lines, when the command fails.
    """
    before = device_memory() if device_memory else 0
    with log.open("w") as output:
        start = time.perf_counter()
        process = psutil.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
        )
        tree = _ProcessTree(process)
        seconds: list[float] = []
        on_device: list[int] = []
        try:
            code = None
            while code is None:
                seconds.append(time.perf_counter() - start)
                tree.sample()
                if device_memory:
                    on_device.append(max(0, device_memory() - before))
                elapsed = time.perf_counter() - start
                with contextlib.suppress(psutil.TimeoutExpired):
                    code = process.wait(timeout=interval_s - elapsed % interval_s)
            wall = time.perf_counter() - start
        finally:
            tree.kill()
    if code:
        raise failure(Path(command[0]).name, code, log)
    return ResourceUse(
        seconds=wall,
        peak_rss_mb=tree.peak_bytes / _BYTES_PER_MB,
        cpu_time_percent_s=100 * tree.cpu_seconds / (psutil.cpu_count() or 1),
        peak_device_mb=max(on_device) / _BYTES_PER_MB if device_memory else None,
        device_memory_time_mb_s=_area(seconds, on_device, wall) / _BYTES_PER_MB if device_memory else None,
    )


def _area(seconds: Sequence[float], values: Sequence[float], end: float) -> float:
    """Area under a sampled curve from its first sample to ``end``, up to which it stays at its last value."""
    t, v = [*seconds, end], [*values, values[-1]]
    return sum((t[i + 1] - t[i]) * (v[i + 1] + v[i]) / 2 for i in range(len(v) - 1))


class _ProcessTree:
    """A process and all descendants it has had; those whose parent has ended are followed on."""

    def __init__(self, root: psutil.Process) -> None:
        self.peak_bytes = 0
        self._root = root
        self._alive: set[psutil.Process] = {root}
        self._cpu_seconds: dict[psutil.Process, float] = {}
        self._next_reading = 0.0

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all processes up to their last sample."""
        return sum(self._cpu_seconds.values())

    def sample(self) -> None:
        """Notes the processor time of each process, and their memory when it is the largest so far."""
        with contextlib.suppress(psutil.Error):
            self._alive |= set(self._root.children(recursive=True))
        resident = 0
        for process in tuple(self._alive):
            try:
                with process.oneshot():
                    cpu, memory = process.cpu_times(), process.memory_info()
            except psutil.Error:  # ended, or a zombie
                self._alive.discard(process)
                continue
            self._cpu_seconds[process] = cpu.user + cpu.system
            resident += memory.rss
        if not psutil.LINUX:
            self.peak_bytes = max(self.peak_bytes, resident)
        elif resident > self.peak_bytes and time.perf_counter() >= self._next_reading:
            start = time.perf_counter()
            self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, self._alive)))
            end = time.perf_counter()
            self._next_reading = end + 9 * (end - start)

    def kill(self) -> None:
        """Ends what still runs, and waits until it is gone."""
        for process in self._alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(self._alive, timeout=5)


def _proportional_bytes(process: psutil.Process) -> int:
    """Resident memory of a process on Linux, pages that it shares with others divided among them."""
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def device_memory_reader(device: str) -> tuple[Callable[[], int] | None, str]:
    """A function that returns the bytes in use on the GPU (through NVML), or None and the reason why there is none.

    The GPU is the first of ``CUDA_VISIBLE_DEVICES``, counted as NVML does (by PCI bus), else the machine's first.

    Args:
        device: cpu, cuda or mps.
    """
    if device != "cuda":
        return None, f"no GPU in use (-device {device})"
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed"
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    try:
        pynvml.nvmlInit()
        if first.isdecimal():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(first))
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(first)
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as err:
        return None, f"NVML: {err}"
    return lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used), ""
