"""Sampling of small commands whose use is known, GPU memory through a stand-in for NVML."""

import os
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from nnunet_kd.benchmark.measure import ResourceUse, device_memory_reader, run_sampled
from nnunet_kd.utilities.errors import UserError

CPUS = psutil.cpu_count()
BUSY = "import time\nwhile time.process_time() < {s}: pass\n"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_sleeping_command_takes_time_but_no_processor(tmp_path):
    use = run_sampled(python("import time; time.sleep(1)"), tmp_path / "log")
    assert 1 <= use.seconds < 10
    assert use.cpu_time_percent_s * CPUS / 100 < 0.7  # seconds of one processor
    assert use.peak_device_mb is None
    assert use.device_memory_time_mb_s is None


def test_a_busy_command_uses_the_processor_time_it_says(tmp_path):
    use = run_sampled(python(BUSY.format(s=0.5)), tmp_path / "log")
    assert 0.35 <= use.cpu_time_percent_s * CPUS / 100 <= 0.75


def test_processes_that_a_command_starts_count_too(tmp_path):
    child = BUSY.format(s=0.5) + "x = bytearray(60_000_000)\ntime.sleep(.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    use = run_sampled(python(parent), tmp_path / "log")
    assert 0.35 <= use.cpu_time_percent_s * CPUS / 100 <= 0.9
    assert 60 < use.peak_rss_mb < 200


def test_peak_memory_is_seen_though_it_is_given_back(tmp_path):
    code = "import time\nx = bytearray(100_000_000)\ntime.sleep(.5)\ndel x\ntime.sleep(.5)"
    assert 100 < run_sampled(python(code), tmp_path / "log").peak_rss_mb < 200


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux says how memory is shared")
def test_memory_that_forked_processes_share_counts_once(tmp_path):
    code = "import os, time\nx = bytearray(b'1') * 100_000_000\nfor _ in range(2): os.fork()\ntime.sleep(1)"
    assert 100 < run_sampled(python(code), tmp_path / "log").peak_rss_mb < 200  # four processes


def test_gpu_memory_above_what_was_in_use_before_and_its_area(tmp_path):
    start = time.perf_counter()

    def in_use() -> int:  # 5 MB of someone else, then 20 MB more
        return 5_000_000 if time.perf_counter() - start < 0.05 else 25_000_000

    use = run_sampled(python("import time; time.sleep(1)"), tmp_path / "log", device_memory=in_use)
    assert use.peak_device_mb == 20
    assert use.device_memory_time_mb_s == pytest.approx(20 * use.seconds, rel=0.25)


def test_output_and_environment(tmp_path):
    code = "import os, sys; print(os.environ['KD_TEST']); print(os.environ['HOME'], file=sys.stderr)"
    run_sampled(python(code), tmp_path / "log", {"KD_TEST": "here"})
    assert (tmp_path / "log").read_text().split() == ["here", os.environ["HOME"]]


def test_a_command_that_fails_shows_its_last_words(tmp_path):
    with pytest.raises(UserError, match=r"(?s)exit code 3.*no such thing"):
        run_sampled(python("print('no such thing'); raise SystemExit(3)"), tmp_path / "log")


def test_nothing_is_left_running_when_sampling_breaks_off(tmp_path):
    readings = iter([0, 0])  # before and at the start, then StopIteration
    code = f"import time, os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    start = time.perf_counter()
    with pytest.raises(StopIteration):
        run_sampled(python(code), tmp_path / "log", device_memory=lambda: next(readings), interval_s=2)
    assert time.perf_counter() - start < 30
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_commands_in_a_row_add_times_and_keep_the_highest_peak():
    both = ResourceUse.in_a_row([ResourceUse(1, 10, 100, 5, 50), ResourceUse(2, 8, 50, 7, 30)])
    assert both == ResourceUse(3, 10, 150, 7, 80)
    assert ResourceUse.in_a_row([ResourceUse(1, 10, 100)]) == ResourceUse(1, 10, 100)


def nvml(monkeypatch, fails: str = "") -> list:
    """A stand-in for pynvml that notes which GPU was asked for."""
    asked: list = []

    class NVMLError(Exception):
        pass

    def init():
        if fails:
            raise NVMLError(fails)

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlDeviceGetHandleByIndex=lambda i: asked.append(i) or "handle",
        nvmlDeviceGetHandleByUUID=lambda i: asked.append(i) or "handle",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=123 if handle == "handle" else 0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return asked


@pytest.mark.parametrize(("visible", "gpu"), [(None, 0), ("2,1", 2), ("GPU-af", "GPU-af"), ("", 0)])
def test_the_first_visible_gpu_is_read(monkeypatch, visible, gpu):
    asked = nvml(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    read, reason = device_memory_reader("cuda")
    assert (read(), reason, asked) == (123, "", [gpu])


def test_without_gpu_or_nvml_the_reason_is_said(monkeypatch):
    assert device_memory_reader("cpu") == (None, "no GPU in use (-device cpu)")
    nvml(monkeypatch, fails="Driver Not Loaded")
    assert device_memory_reader("cuda") == (None, "NVML: Driver Not Loaded")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_memory_reader("cuda") == (None, "nvidia-ml-py is not installed")
