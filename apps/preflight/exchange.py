"""All ranks sum tensors as in training, and compare their clocks."""

from __future__ import annotations

import statistics
import time

import torch

from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.device import torch_device
from gfm_pipeline.apps.train.distributed import BACKENDS, Communicator, process_group
from gfm_pipeline.core.contracts.preflight import PreflightResult, PreflightSpec, Rate

REPEATS = 5
CLOCK_ROUNDS = 7


def exchange(spec: PreflightSpec, task: Task) -> PreflightResult:
    """Join the other ranks; return the speed of sums of tensors over all ranks, and the differences of clocks.

    Raises
    ------
    ConfigError, NodeError
        As `process_group` and `torch_device` do.
    """
    device = torch_device(spec.device)
    with process_group(spec.ranks, spec.device, device, spec.timeout) as communicator:
        correct = True
        rates = []
        for megabytes in spec.exchange_megabytes if communicator.size > 1 else ():
            right, rate = _sum(communicator, device, megabytes)
            correct &= right
            rates.append(rate)
            task.heartbeat()
        clocks = _clocks(communicator, device)
    return PreflightResult(str(BACKENDS[spec.device]) if spec.ranks > 1 else "", correct, tuple(rates), clocks)


def _sum(communicator: Communicator, device: torch.device, megabytes: float) -> tuple[bool, Rate]:
    """Return whether the sum over all ranks is right, and the time of one sum."""
    tensor = torch.full((int(megabytes * 1e6) // 4,), float(communicator.rank + 1), device=device)
    communicator.all_reduce(tensor)  # also sets up connections
    expected = communicator.size * (communicator.size + 1) / 2
    right = bool((tensor == expected).all())
    tensor.zero_()
    communicator.barrier()
    _synchronise(communicator, device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        communicator.all_reduce(tensor)
    float(tensor[0])  # accelerators work asynchronously
    return right, Rate(megabytes, (time.perf_counter() - began) / REPEATS)


def _synchronise(communicator: Communicator, device: torch.device) -> None:
    """Wait for all ranks, also on an accelerator."""
    mark = torch.zeros(1, device=device)
    communicator.all_reduce(mark)
    float(mark)


def _clocks(communicator: Communicator, device: torch.device) -> tuple[float, ...]:
    """Return the difference of each rank's clock from rank 0's (s): the median of readings after a barrier."""
    began = float(communicator.broadcast_object(time.time()))  # Unix time needs more digits than some devices have
    rounds: list[list[float]] = []
    for _ in range(CLOCK_ROUNDS):
        _synchronise(communicator, device)
        now = time.time() - began
        shown = torch.zeros(communicator.size, device=device)
        shown[communicator.rank] = now
        communicator.all_reduce(shown)
        values = [float(value) for value in shown.tolist()]
        rounds.append([value - values[0] for value in values])
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))
