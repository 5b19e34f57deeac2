"""All ranks sum tensors as in training, and compare their clocks."""

from __future__ import annotations

import statistics
import time

import torch

from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.device import torch_device
from gfm_pipeline.apps.train.distributed import BACKENDS, Ranks, joined
from gfm_pipeline.core.contracts.preflight import PreflightResult, PreflightSpec, Rate

REPEATS = 5
CLOCK_ROUNDS = 7


def exchange(spec: PreflightSpec, task: Task) -> PreflightResult:
    """Meet the other ranks; return how fast all of them sum tensors, and how their clocks differ.

    Raises
    ------
    ConfigError, NodeError
        As `joined` and `torch_device` do.
    """
    device = torch_device(spec.device)
    with joined(spec.ranks, spec.device, device, spec.timeout) as ranks:
        correct = True
        rates = []
        for megabytes in spec.exchange_megabytes if ranks.size > 1 else ():
            right, rate = _sum(ranks, device, megabytes)
            correct &= right
            rates.append(rate)
            task.beat()
        clocks = _clocks(ranks, device)
    return PreflightResult(str(BACKENDS[spec.device]) if spec.ranks > 1 else "", correct, tuple(rates), clocks)


def _sum(ranks: Ranks, device: torch.device, megabytes: float) -> tuple[bool, Rate]:
    """Return whether the sum over all ranks is right, and what one takes."""
    tensor = torch.full((int(megabytes * 1e6) // 4,), float(ranks.rank + 1), device=device)
    ranks.sum(tensor)  # sets up connections, too
    expected = ranks.size * (ranks.size + 1) / 2
    right = bool((tensor == expected).all())
    tensor.zero_()
    ranks.meet()
    _arrived(ranks, device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        ranks.sum(tensor)
    float(tensor[0])  # accelerators work behind the program's back
    return right, Rate(megabytes, (time.perf_counter() - began) / REPEATS)


def _arrived(ranks: Ranks, device: torch.device) -> None:
    """Return when all ranks are here, on an accelerator as well."""
    mark = torch.zeros(1, device=device)
    ranks.sum(mark)
    float(mark)


def _clocks(ranks: Ranks, device: torch.device) -> tuple[float, ...]:
    """Return how far each rank's clock is from rank 0's (s): the median of what they show after meeting."""
    began = float(ranks.told(time.time()))  # times of the day need more digits than some devices have
    rounds: list[list[float]] = []
    for _ in range(CLOCK_ROUNDS):
        _arrived(ranks, device)
        now = time.time() - began
        shown = torch.zeros(ranks.size, device=device)
        shown[ranks.rank] = now
        ranks.sum(shown)
        values = [float(value) for value in shown.tolist()]
        rounds.append([value - values[0] for value in values])
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))
