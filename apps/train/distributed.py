"""Communication between the ranks that train one model together, over torch.distributed.

Each training step sums one flat tensor over all ranks; nothing else is communicated. `Communicator` itself serves a
single process; its collective operations change nothing.
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

TIMEOUT_SECONDS = 600.0  # for one collective operation: below the engine's heartbeat timeout
BACKENDS = {Device.CPU: "gloo", Device.CUDA: "nccl", Device.XPU: "xccl"}


class Communicator:
    """Collective operations of the ranks of one task; this base class serves a single process.

    Attributes
    ----------
    rank, size
        Number of this process, and number of processes.
    """

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by the sum over all ranks, bitwise equal on all of them."""

    def broadcast(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by rank 0's."""

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's ``value``, which must be JSON data."""
        return value

    def barrier(self) -> None:
        """Wait until every rank has called this method."""


SINGLE = Communicator()


class TorchCommunicator(Communicator):
    """The collective operations of torch's default process group.

    Every method raises `NodeError` when another rank is gone, or silent for `TIMEOUT_SECONDS`.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device

    def all_reduce(self, tensor: Tensor) -> None:
        """See `Communicator.all_reduce`."""
        with _lost_ranks_reported(self.rank):
            dist.all_reduce(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        """See `Communicator.broadcast`."""
        with _lost_ranks_reported(self.rank):
            dist.broadcast(tensor, 0)

    def broadcast_object(self, value: Any) -> Any:
        """See `Communicator.broadcast_object`."""
        text = json.dumps(value).encode() if self.rank == 0 else b""
        size = torch.tensor([len(text)], device=self.device)
        self.broadcast(size)
        data = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.rank == 0:
            data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        self.broadcast(data)
        return json.loads(bytes(data.tolist()))

    def barrier(self) -> None:
        """See `Communicator.barrier`."""
        self.all_reduce(torch.zeros(1, device=self.device))


@contextmanager
def _lost_ranks_reported(rank: int | None) -> Iterator[None]:
    """Convert torch's error of a broken or timed-out connection to one sentence."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        who = "This rank" if rank is None else f"Rank {rank}"
        raise NodeError(f"{who} lost the other ranks of its task: {str(error).splitlines()[0]}.") from error


@contextmanager
def process_group(
    size: int, kind: Device, device: torch.device, timeout: float = TIMEOUT_SECONDS
) -> Iterator[Communicator]:
    """Join the process group of the task, described by the environment, and leave it at the end.

    Parameters
    ----------
    size
        Ranks of the task; with 1 there is no process group, and the environment does not matter.
    kind, device
        Kind of device, and device.
    timeout
        Longest wait for the others, seconds.

    Raises
    ------
    ConfigError
        When this process was not started as one of ``size`` ranks.
    NodeError
        When the other ranks do not appear.
    """
    if size == 1:
        yield Communicator()
        return
    bound = None if kind is Device.CPU else device
    try:
        with _lost_ranks_reported(None):
            dist.init_process_group(BACKENDS[kind], timeout=timedelta(seconds=timeout), device_id=bound)
    except ValueError as error:  # a variable is missing
        raise ConfigError(
            f"The task has {size} ranks, and this process was not started as one of them.",
            "Start it by gfm_pipeline.apps.runtime.spawn or gfm_pipeline.apps.runtime.rank.",
        ) from error
    if dist.get_world_size() != size:
        raise ConfigError(f"The task has {size} ranks, and {dist.get_world_size()} were started.")
    try:
        yield TorchCommunicator(device)
    except StopRequested:
        dist.destroy_process_group()
        raise
    # After an error the connections stay until the process ends, so that it reports the cause before the others notice.
    dist.destroy_process_group()
