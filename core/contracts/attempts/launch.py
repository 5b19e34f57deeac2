"""Instructions for the ranks of a launch: the driver writes them, and each rank or node reads them once.

This module imports nothing that knows sites, because every rank imports it before its program starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gfm_pipeline.core.contracts.energy import EnergyPlan
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.core.records import read_record
from gfm_pipeline.core.strenum import StrEnum

LAUNCH_FILE = "launch.json"  # in an attempt's folder
GROUP_FILE = "group.json"  # in the folder of a group of attempts that share one launch


class DeviceSelection(StrEnum):
    """Who sees to it that a rank sees one GPU only."""

    SCHEDULER = "scheduler"  # srun --gpus-per-task=1
    RANK = "rank"  # all GPUs of the node are visible; the rank masks all but its own before its program starts


@dataclass(frozen=True)
class RankFile:
    """Instructions for the ranks of one task: their numbers, devices, and variables to remove.

    Parameters
    ----------
    ranks, ranks_per_node
        Of this task.
    nodes
        Names of its nodes, rank 0's first; empty when the ranks start on the node that reads this record.
    master_address, master_port
        Where the ranks meet.
    visible_variable
        The variable that masks GPUs; None without GPUs.
    rank_gpus
        GPU of each local rank, by its number on the node; empty without GPUs.
    rank_cores
        Cores of each local rank as text lists; empty: binding is left alone.
    bind
        Whether each rank binds itself to ``rank_cores``; False: the launcher binds.
    device
        Who masks GPUs: the scheduler or the rank.
    unset, exports
        Variables removed for the program, and variables set for it.
    rank_variable, local_rank_variable
        Where a rank finds its number, and its number on its node.
    wrapper_timeout_seconds
        When the wrapper's file has not changed for this time, the wrapper is gone and the step ends itself.
    cancel
        Command that ends the whole step; ``{step}`` stands for its id; empty: there is none.
    expects, visible_seconds
        Files from other hosts that the program reads, and how long to wait for them.
    energy
        How the first rank of each node counts the energy; None: it does not.
    """

    ranks: int
    ranks_per_node: int
    nodes: tuple[str, ...]
    master_address: str
    master_port: int
    visible_variable: str | None
    rank_gpus: tuple[int, ...]
    rank_cores: tuple[str, ...]
    bind: bool
    device: DeviceSelection
    unset: tuple[str, ...]
    exports: dict[str, str]
    rank_variable: str
    local_rank_variable: str
    wrapper_timeout_seconds: float
    cancel: tuple[str, ...] = ()
    expects: tuple[str, ...] = ()
    visible_seconds: float = 0.0
    energy: EnergyPlan | None = None

    def write(self, folder: Path) -> None:
        """Write ``launch.json`` into ``folder``; not durable, since a crash of the machine leads to a new attempt."""
        write_record(folder / LAUNCH_FILE, self, durable=False)

    @classmethod
    def read(cls, folder: Path) -> RankFile:
        """Read ``launch.json`` in ``folder``; raises `IntegrityError` when its content is not valid."""
        return read_record(cls, folder / LAUNCH_FILE)


def visible_devices(folder: Path) -> tuple[int, ...] | None:
    """Return the GPUs of the node that ``launch.json`` in ``folder`` gives to ranks of this task; None: not known."""
    try:
        file = RankFile.read(folder)
    except (OSError, IntegrityError):
        return None
    return file.rank_gpus or None


@dataclass(frozen=True)
class GroupMember:
    """One task of a group: its attempt's folder (with its own ``launch.json``), its program, its ranks.

    ``number`` counts the tasks that the launch was given: ranks that had a task wait for one with a higher number.
    """

    folder: str
    module: str
    first_rank: int
    ranks: int
    number: int = 0


@dataclass(frozen=True)
class GroupFile:
    """The latest tasks that share one launch line, by rising rank.

    Parameters
    ----------
    members
        The tasks. The driver replaces an ended one by the next task of these ranks.
    cancel
        Command that ends the launch, as in `RankFile`.
    open
        Whether ranks without a task wait for the next one; False: they end.
    """

    members: tuple[GroupMember, ...] = field(default=())
    cancel: tuple[str, ...] = ()
    open: bool = False

    def member_of(self, rank: int, after: int = -1) -> GroupMember | None:
        """Return the task of ``rank`` of the whole launch with a number above ``after``; None: it has no such task."""
        for member in self.members:
            if member.first_rank <= rank < member.first_rank + member.ranks and member.number > after:
                return member
        return None

    def write(self, folder: Path) -> None:
        """Write ``group.json`` into ``folder``; not durable, since a crash of the machine leads to a new launch."""
        write_record(folder / GROUP_FILE, self, durable=False)

    @classmethod
    def read(cls, folder: Path) -> GroupFile:
        """Read ``group.json`` in ``folder``; raises `IntegrityError` when its content is not valid."""
        return read_record(cls, folder / GROUP_FILE)
