"""Parameters, multiply-adds, peak memory and latency of every network, relative to the network of the base plans.

    python benchmarks/networks.py DATASET CONFIGURATION [--students SPEC ...] [-device cpu|cuda] [--threads 1]

Each student is measured in a process of its own, one patch of the plans, batch size 1, random weights, evaluation mode.
The base network is timed in the same process, pass by pass in turn with the student; ratios are of medians.

Memory: the most that parameters and tensors of a forward pass in float32 held at a time; on the CPU counted from the
tensors, without what libraries need inside an operation; on CUDA what the allocator held. Clock: "wall" is what a user
waits; "process" is the processor time of one thread, which other work on the machine disturbs less.
"""

import argparse
import multiprocessing
import statistics
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunet_kd.config import KDConfig
from nnunet_kd.networks.family import families
from nnunet_kd.planning.cost import measure
from nnunet_kd.planning.latency import WARM_UP, synchronize
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.planning.plans import compose_plans, load_base_plans
from nnunet_kd.utilities.environment import dataset_paths
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file
from nnunet_kd.utilities.schema import from_dict

SCALED = ("width=0.5", "width=0.25", "width=0.25,blocks=0.5,decoder=1")
STUDENTS = (*SCALED, *(name for name, family in families().items() if family.features))
MODES = {"cpu": ("fp32", "bf16", "channels last"), "cuda": ("fp32", "fp16", "fp16 channels last")}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp16 channels last": torch.float16}


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "process": time.process_time}


@dataclass(frozen=True)
class Result:
    """What one student costs; latencies of student and base network in milliseconds for each mode."""

    parameters: int
    gmac: float
    memory_mb: float
    latency_ms: dict[str, tuple[float, float]]


def main() -> None:
    """Prints one table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", default="nnUNetPlans")
    networks = parser.add_mutually_exclusive_group()
    networks.add_argument("--students", nargs="+", default=STUDENTS, help="as --student of nnUNetv2_kd plan")
    networks.add_argument("--plans", nargs="+", help="KD plans that are written, with their patch, instead")
    parser.add_argument("-device", default="cpu", choices=MODES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10, help="timed passes; 0: count, do not time")
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    args = parser.parse_args()

    modes = MODES[args.device] if args.repeats else ()
    columns = [f" {m} ms | base / this |" for m in modes]
    print("| network | parameters | GMAC | memory MB |" + "".join(columns))
    print("|---|" + "---:|" * (3 + 2 * len(modes)))
    for student in args.plans or ("same", *args.students):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            result = pool.apply(in_own_process, (args, student))
        if isinstance(result, str):
            print(f"| {student} | {result} |" + " |" * (2 + 2 * len(modes)))
            continue
        times = "".join(f" {a:.1f} | {b / a:.2f} |" for a, b in result.latency_ms.values())
        name = args.p if student == "same" else student
        print(f"| {name} | {result.parameters:,} | {result.gmac:.3f} | {result.memory_mb:.0f} |{times}", flush=True)


def in_own_process(args: argparse.Namespace, student: str) -> Result | str:
    """Measures one student; a sentence when the plans cannot have it."""
    torch.set_num_threads(args.threads)
    try:
        return measure_student(args, student)
    except UserError as error:
        return str(error)


def measure_student(args: argparse.Namespace, student: str) -> Result:
    """Builds, counts and times one student beside the base network."""
    device = torch.device(args.device)
    preprocessed = dataset_paths(args.dataset).preprocessed
    dataset_json = load_json_file(preprocessed / "dataset.json")
    base = load_base_plans(preprocessed, args.p)
    if args.plans:
        plans = load_json_file(preprocessed / f"{student}.json")
    else:
        config = from_dict(KDConfig, {"student": {"architecture": student}}, "kd")
        plans = compose_plans(base, "candidate", [args.configuration], config, dataset_json)
    model, base_model = (PlannedModel(PlansManager(p), args.configuration, dataset_json) for p in (plans, base))
    x = torch.randn(1, model.channels, *model.patch, generator=torch.Generator().manual_seed(0)).to(device)

    network = model.build().to(device).eval()
    memory = peak_memory_mb(network, x)
    latency = {}
    if args.repeats:
        reference = base_model.build().to(device).eval()
        latency = {mode: alternate(network, reference, x, mode, args) for mode in MODES[args.device]}
    cost = measure(model, student)
    return Result(cost.parameters, cost.macs_per_patch / 1e9, memory, latency)


@torch.no_grad()
def peak_memory_mb(network: torch.nn.Module, x: torch.Tensor) -> float:
    """Most memory of parameters, input and tensors of a forward pass, in MB (1e6 bytes)."""
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x.device)
        network(x)
        return torch.cuda.max_memory_allocated(x.device) / 1e6
    parameters = sum(p.nbytes for p in (*network.parameters(), *network.buffers()))
    with LiveTensors() as live:
        network(x)
    return (parameters + x.nbytes + live.peak) / 1e6


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until the last tensor of each is gone."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.users: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor, given)
        return result

    def add(self, tensor: torch.Tensor, given: set[int]) -> None:
        """Takes a tensor that an operation returned; those that share memory with untracked inputs do not count."""
        storage = tensor.untyped_storage()
        pointer, size = storage.data_ptr(), storage.nbytes()
        if pointer not in self.users:
            if pointer in given:
                return
            self.users[pointer] = 0
            self.now += size
            self.peak = max(self.peak, self.now)
        self.users[pointer] += 1
        weakref.finalize(tensor, self.remove, pointer, size)

    def remove(self, pointer: int, size: int) -> None:
        """One tensor less that uses a storage."""
        self.users[pointer] -= 1
        if not self.users[pointer]:
            del self.users[pointer]
            self.now -= size


@torch.inference_mode()
def alternate(
    network: torch.nn.Module, reference: torch.nn.Module, x: torch.Tensor, mode: str, args: argparse.Namespace
) -> tuple[float, float]:
    """Median milliseconds of two networks whose passes take turns."""
    layout, clock = torch.contiguous_format, CLOCKS[args.clock]
    if "channels last" in mode:
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    x = x.to(memory_format=layout)
    for p in (*network.parameters(), *reference.parameters()):
        if p.ndim == x.ndim:  # the dilated network has 2D kernels for volumes
            p.data = p.data.contiguous(memory_format=layout)
    times: tuple[list[float], list[float]] = ([], [])
    with torch.autocast(x.device.type, dtype=AUTOCAST[mode]) if mode in AUTOCAST else nullcontext():
        for i in range(WARM_UP + args.repeats):
            for n, seconds in zip((network, reference), times, strict=True):
                synchronize(x.device)
                start = clock()
                n(x)
                synchronize(x.device)
                if i >= WARM_UP:
                    seconds.append(clock() - start)
    return 1000 * statistics.median(times[0]), 1000 * statistics.median(times[1])


if __name__ == "__main__":
    main()
