"""The nodes of the Slurm test bed, and the configuration that makes Slurm believe in them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NodeShape:
    """Nodes of one kind.

    ``gpu_cores`` lists the cores beside each GPU, as Slurm knows them (``gres.conf`` counts cores, not threads).
    """

    prefix: str
    partition: str
    hours: int
    sockets: int
    cores_per_socket: int
    reserved_cores: int
    memory: int  # MB
    feature: str
    gpu_type: str
    gpu_flags: str  # which variable masks the GPUs of a step
    gpu_cores: tuple[str, ...]

    def names(self, count: int) -> list[str]:
        """Return the names of ``count`` nodes."""
        return [f"{self.prefix}{i + 1}" for i in range(count)]


FRONTIER = NodeShape(
    "fr", "batch", 12, 8, 8, 8, 500_000, "nvme", "mi250x", "amd_gpu_env",
    ("48-55", "56-63", "16-23", "24-31", "0-7", "8-15", "32-39", "40-47"),
)  # fmt: skip
PERLMUTTER = NodeShape(
    "pm", "gpu", 48, 1, 64, 0, 250_000, "gpu", "a100", "nvidia_gpu_env", ("48-63", "32-47", "16-31", "0-15")
)  # fmt: skip


def names(shape: NodeShape, count: int) -> str:
    """Return the names of ``count`` nodes as Slurm writes them."""
    return f"{shape.prefix}[1-{count}]"


def slurm_conf(folder: Path, ports: Sequence[int], counts: Mapping[NodeShape, int], slurmd_timeout: int) -> str:
    """Return the text of slurm.conf for a Slurm that lies in ``folder``.

    ``ports`` are slurmctld's and one for each node; ``slurmd_timeout`` is in seconds.
    """
    host = socket.gethostname().partition(".")[0]
    text = f"""\
ClusterName=bed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=100000,bf_interval=2,batch_sched_delay=1,spec_cores_first
SlurmdParameters=config_overrides
AllowSpecResourcesUsage=yes
EnforcePartLimits=ALL
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
KillWait=5
MinJobAge=900
InactiveLimit=0
MessageTimeout=10
SlurmctldTimeout=30
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
SlurmdTimeout={slurmd_timeout}
"""
    first = 1
    for shape, count in counts.items():
        if not count:
            continue
        where = ",".join(str(port) for port in ports[first : first + count])
        first += count
        spec = f" CoreSpecCount={shape.reserved_cores}" if shape.reserved_cores else ""
        text += (
            f"NodeName={names(shape, count)} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{where}] "
            f"Sockets={shape.sockets} CoresPerSocket={shape.cores_per_socket} ThreadsPerCore=2{spec} "
            f"RealMemory={shape.memory} Gres=gpu:{shape.gpu_type}:{len(shape.gpu_cores)} "
            f"Feature={shape.feature} State=UNKNOWN\n"
            f"PartitionName={shape.partition} Nodes={names(shape, count)} MaxTime={shape.hours}:00:00 "
            f"OverSubscribe=EXCLUSIVE State=UP{' Default=YES' if first == 1 + count else ''}\n"
        )
    every = ",".join(names(shape, count) for shape, count in counts.items() if count)
    urgent = f"PartitionName=urgent Nodes={every} PriorityTier=100 MaxTime=1:00:00 OverSubscribe=EXCLUSIVE State=UP\n"
    return text + urgent


def gres_conf(folder: Path, counts: Mapping[NodeShape, int]) -> str:
    """Return the text of gres.conf: every node of a shape has the pretend GPUs of ``folder``."""
    return "".join(
        f"NodeName={names(shape, count)} Name=gpu Type={shape.gpu_type} File={folder}/dev/gpu{gpu} "
        f"Cores={cores} Flags={shape.gpu_flags}\n"
        for shape, count in counts.items()
        if count
        for gpu, cores in enumerate(shape.gpu_cores)
    )
