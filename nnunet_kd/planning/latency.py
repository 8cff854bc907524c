"""Students that keep a budget of milliseconds: built and timed on the device that is asked for."""

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nnunet_kd.networks.family import families
from nnunet_kd.planning.network import PlannedModel, count_parameters
from nnunet_kd.planning.scaling import widest
from nnunet_kd.planning.student import StudentSpec, format_student
from nnunet_kd.utilities.errors import UserError

WIDTHS = (0.03125, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
MAX_REMOVED_STAGES = 2
WARM_UP, REPEATS = 2, 5
FASTEST_NAMED = 3  # when nothing keeps the budget


@dataclass(frozen=True)
class Timed:
    """One candidate: median milliseconds for a forward pass of one patch, and its parameters."""

    spec: StudentSpec
    latency_ms: float
    parameters: int


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.inference_mode()
def time_network(network: torch.nn.Module, x: torch.Tensor, repeats: int = REPEATS) -> float:
    """Median milliseconds of a forward pass, after two that are not counted.

    Args:
        network: in evaluation mode, on the device of ``x``.
        x: input.
        repeats: passes that are timed.
    """
    times = []
    for i in range(WARM_UP + repeats):
        synchronize(x.device)
        start = time.perf_counter()
        network(x)
        synchronize(x.device)
        if i >= WARM_UP:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def time_patch(model: PlannedModel, device: torch.device) -> Timed:
    """Times one patch of a model as ``nnUNetv2_predict`` would run it (float16 autocast on CUDA).

    The ``spec`` of the result is that of unchanged plans.
    """
    network = model.build().to(device).eval()
    x = torch.zeros(1, model.channels, *model.patch, device=device)
    with torch.autocast(device.type, enabled=device.type == "cuda"):
        latency_ms = time_network(network, x)
    return Timed(StudentSpec(), latency_ms, count_parameters(network))


def search(
    spec: StudentSpec,
    budget_ms: float,
    run: Callable[[StudentSpec], Timed],
    where: str,
    shapes: Sequence[StudentSpec] = (),
) -> tuple[list[StudentSpec], list[Timed]]:
    """For every shape and depth the widest candidate within the budget, those with most parameters first.

    Latency is taken to rise with the width. Candidates that cannot be built (too few stages) are left out.

    Args:
        spec: network and what the user has fixed; a budget of parameters bounds the candidates too.
        budget_ms: milliseconds for one patch.
        run: builds and times a candidate.
        where: plans and configuration, for messages.
        shapes: variants of ``spec`` that are tried; none: ``spec`` itself.

    Returns:
        The candidates and all that were timed, in the order of timing.

    Raises:
        UserError: when nothing fits, with the fastest that were tried.
    """
    if spec.width != 1 or spec.removed_stages:
        raise UserError("--latency-budget: chooses width and depth itself; leave both out of --student.")
    family = families()[spec.family] if spec.family else None
    if family is not None and not family.features:
        raise UserError(f"--latency-budget: {spec.family} cannot be made smaller; choose another network.")
    timed: list[Timed] = []
    best: dict[tuple[StudentSpec, int], Timed] = {}

    def fits(shape: StudentSpec, removed: int, width: float) -> bool:
        candidate = dataclasses.replace(shape, width=width, removed_stages=removed, max_parameters=None)
        result = dataclasses.replace(run(candidate), spec=candidate)
        timed.append(result)
        small = spec.max_parameters is None or result.parameters <= spec.max_parameters
        good = small and result.latency_ms <= budget_ms
        key = shape, removed
        if good and (key not in best or result.parameters > best[key].parameters):
            best[key] = result
        return good

    depths = range(1 if family is not None and family.fixed_stages else 1 + MAX_REMOVED_STAGES)
    for shape, removed in itertools.product(shapes or [spec], depths):
        try:
            widest(WIDTHS, functools.partial(fits, shape, removed))
        except UserError:  # too few stages are left
            if not removed:
                raise
    if not best:
        shown = [
            f"{format_student(t.spec)} with {t.latency_ms:.2f} ms and {t.parameters} parameters"
            for t in sorted(timed, key=lambda t: t.latency_ms)[:FASTEST_NAMED]
        ]
        raise UserError(
            f"{where}: nothing fits into {budget_ms:g} ms"
            f"{'' if spec.max_parameters is None else f' and {spec.max_parameters} parameters'}; the fastest were "
            f"{', '.join(shown)}."
        )
    return [t.spec for t in sorted(best.values(), key=lambda t: -t.parameters)], timed


def format_timed(timed: Sequence[Timed], chosen: StudentSpec, device: torch.device) -> str:
    """What was timed, as aligned text; the chosen one is marked."""
    lines = [f"Candidates timed on {device} (median of {REPEATS}, one patch, batch size 1):"]
    for t in timed:
        mark = "*" if t.spec == chosen else " "
        lines.append(f"{mark} {format_student(t.spec):<40} {t.latency_ms:10.2f} ms {t.parameters:12,} parameters")
    return "\n".join(lines)
