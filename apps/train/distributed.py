"""Processes that train one model together: what they say to each other, and what happens when one is gone.

One sum of one flat tensor a step; nothing else is said while training goes on. `Ranks` itself is a process alone:
everything it says, it hears.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gfm_pipeline.apps.runtime.program import StopRequested, is_out_of_memory
from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.core.errors import ConfigError, NodeError

TIMEOUT_SECONDS = 600.0  # for the others to say something: below the engine's patience with a silent program
BACKENDS = {Device.CPU: "gloo", Device.CUDA: "nccl", Device.XPU: "xccl"}


class Ranks:
    """One process alone.

    Attributes
    ----------
    rank, size
        This process's number, and how many there are.
    """

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by the sum over all ranks: the same bits on all of them."""

    def take(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by that of rank 0."""

    def told(self, value: Any) -> Any:
        """Return rank 0's ``value``, which JSON can hold."""
        return value

    def meet(self) -> None:
        """Wait until all ranks are here."""


ALONE = Ranks()


class Together(Ranks):
    """One of several processes, in torch's default process group.

    Every method raises `NodeError` when another rank is gone, or silent for `TIMEOUT_SECONDS`.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device

    def sum(self, tensor: Tensor) -> None:
        """See `Ranks.sum`."""
        with _peers(self.rank):
            dist.all_reduce(tensor)

    def take(self, tensor: Tensor) -> None:
        """See `Ranks.take`."""
        with _peers(self.rank):
            dist.broadcast(tensor, 0)

    def told(self, value: Any) -> Any:
        """See `Ranks.told`."""
        text = json.dumps(value).encode() if self.rank == 0 else b""
        size = torch.tensor([len(text)], device=self.device)
        self.take(size)
        data = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.rank == 0:
            data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        self.take(data)
        return json.loads(bytes(data.tolist()))

    def meet(self) -> None:
        """See `Ranks.meet`."""
        self.sum(torch.zeros(1, device=self.device))


@contextmanager
def _peers(rank: int | None) -> Iterator[None]:
    """Turn what torch says of a connection that broke or timed out into one sentence."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        who = "This rank" if rank is None else f"Rank {rank}"
        raise NodeError(f"{who} lost the other ranks of its task: {str(error).splitlines()[0]}.") from error


@contextmanager
def joined(size: int, kind: Device, device: torch.device, timeout: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """Meet the other ranks, whose places are in this process's environment, and part from them at the end.

    Parameters
    ----------
    size
        Ranks of the task; 1: nobody is met, and the environment does not matter.
    kind, device
        What is computed on.
    timeout
        Longest wait for the others, seconds.

    Raises
    ------
    ConfigError
        When this process was not started as one of so many ranks.
    NodeError
        When the others do not come.
    """
    if size == 1:
        yield Ranks()
        return
    bound = None if kind is Device.CPU else device
    try:
        with _peers(None):
            dist.init_process_group(BACKENDS[kind], timeout=timedelta(seconds=timeout), device_id=bound)
    except ValueError as error:  # a variable is missing
        raise ConfigError(
            f"The task has {size} ranks, and this process was not started as one of them.",
            "Start it by gfm_pipeline.apps.runtime.spawn or gfm_pipeline.apps.runtime.rank.",
        ) from error
    if dist.get_world_size() != size:
        raise ConfigError(f"The task has {size} ranks, and {dist.get_world_size()} were started.")
    try:
        yield Together(device)
    except StopRequested:
        dist.destroy_process_group()
        raise
    # After an error the connections stay until the process ends: the others hear of it when it has said why.
    dist.destroy_process_group()
