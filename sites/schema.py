"""The schema of site files: a machine as data. Names contain units; values cite sources."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from gfm_pipeline.core.contracts.attempts.launch import DeviceSelection
from gfm_pipeline.core.contracts.energy import AUTO, MODEL, SOURCES, source_order
from gfm_pipeline.core.explain import unknown_name
from gfm_pipeline.core.strict import NAME, Strict
from gfm_pipeline.sites.cores import parse_cores
from gfm_pipeline.sites.enums import DriverMode, GpuRuntime, Staging
from gfm_pipeline.sites.scheduler_schema import SchedulerModel

# Placeholders of `launch.template` and `launch.pool_template`.
PLACEHOLDERS = ("nodes", "ranks", "ranks_per_node", "cores_per_rank", "gpus_per_node", "nodelist", "core_list")
POOL_PLACEHOLDERS = ("nodes", "cores_per_node", "nodelist")


def _cores(text: str) -> str:
    parse_cores(text)
    return text


def _rising(ports: tuple[int, int]) -> tuple[int, int]:
    if not ports[0] < ports[1] < 65536:
        raise ValueError(f"ports must rise and stay below 65536, not {list(ports)}")
    return ports


def _text(value: object) -> object:
    """Return whole numbers as text, as in the environment; other values unchanged."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Exports = dict[str, Annotated[str, BeforeValidator(_text)]]
Cores = Annotated[str, AfterValidator(_cores), Field(description="Hardware threads, e.g. 1-7 or 48-63,112-127.")]
Ports = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_rising)]


class NodeModel(Strict):
    """The shape of one node."""

    cores: PositiveInt | Literal["auto"] = Field(default="auto", description="Physical cores; auto: those found here.")
    threads_per_core: PositiveInt = Field(default=1, description="Hardware threads of a core that tasks use.")
    reserved_cores: list[NonNegativeInt] = Field(default=[], description="Cores kept for the system (low-noise mode).")
    memory_gb: PositiveFloat | None = Field(default=None, description="Main memory (GB).")
    gpus: NonNegativeInt = Field(default=0, description="GPUs as the scheduler counts them (Frontier: GCDs).")
    gpu_memory_gb: PositiveFloat | None = Field(default=None, description="Memory of one GPU (GB).")
    gpu_type: str | None = Field(default=None, description="For people, e.g. MI250X GCD.")
    gpu_cores: list[Cores] = Field(
        default=[],
        description="Hardware threads beside each GPU that tasks use, in the order of GPU numbers. "
        "Empty: cores dealt evenly.",
    )
    rank_gpus: list[NonNegativeInt] = Field(
        default=[],
        description="GPU of each local rank when a node is full of ranks, one per GPU. Empty: 0, 1, 2, ...",
    )

    @property
    def usable_cores(self) -> int:
        """Number of cores for tasks; 0 when `cores` is auto."""
        return 0 if self.cores == "auto" else self.cores - len(self.reserved_cores)

    @property
    def usable_threads(self) -> int:
        """Number of hardware threads for tasks, as srun's ``--cpus-per-task`` counts; 0 when `cores` is auto."""
        return self.usable_cores * self.threads_per_core

    @model_validator(mode="after")
    def _consistent(self) -> NodeModel:
        if self.gpu_cores and len(self.gpu_cores) != self.gpus:
            raise ValueError(f"gpu_cores names {len(self.gpu_cores)} groups of cores for {self.gpus} gpus")
        if self.rank_gpus and sorted(self.rank_gpus) != list(range(self.gpus)):
            raise ValueError(f"rank_gpus must name each of the {self.gpus} gpus once, not {self.rank_gpus}")
        groups = [core for text in self.gpu_cores for core in parse_cores(text)]
        if len(set(groups)) != len(groups):
            raise ValueError("gpu_cores gives a core to two GPUs")
        if set(groups) & set(self.reserved_cores):
            raise ValueError("gpu_cores names reserved cores")
        if self.cores == "auto":
            return self
        if self.reserved_cores and max(self.reserved_cores) >= self.cores:
            raise ValueError(f"reserved_cores names core {max(self.reserved_cores)} of {self.cores}")
        if self.usable_cores < 1:
            raise ValueError("reserved_cores leaves no core for tasks")
        if len(groups) > self.usable_threads:
            raise ValueError(f"gpu_cores names {len(groups)} hardware threads of {self.usable_threads} usable ones")
        return self


class GpuModel(Strict):
    """How programs reach accelerators."""

    runtime: GpuRuntime = GpuRuntime.CPU
    visible_variable: str | None = Field(
        default=None, description="Variable that masks GPUs: ROCR_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES, ..."
    )
    detect: bool = Field(
        default=False,
        description="Look for GPUs of the machine this runs on, where no file names node.gpus or gpu.runtime.",
    )
    torch_device: Literal["cpu", "cuda", "xpu"] | None = Field(
        default=None, description="Device type of PyTorch; null: the runtime's (ROCm is cuda, too)."
    )
    unset: list[str] = Field(
        default=[], description="Variables removed from every task, e.g. a second mask that would be applied on top."
    )

    @property
    def device(self) -> str:
        """Device type of PyTorch for this runtime."""
        names = {GpuRuntime.CPU: "cpu", GpuRuntime.ROCM: "cuda", GpuRuntime.CUDA: "cuda", GpuRuntime.XPU: "xpu"}
        return self.torch_device or names[self.runtime]

    @model_validator(mode="after")
    def _one_mask(self) -> GpuModel:
        if self.runtime is not GpuRuntime.CPU and self.visible_variable is None:
            raise ValueError(f"runtime {self.runtime} needs visible_variable")
        if self.visible_variable in self.unset:
            raise ValueError(f"unset removes {self.visible_variable}, which is the mask of the site")
        return self


class LaunchModel(Strict):
    """How the ranks of a task are started.

    ``template`` is one argument an entry, filled from {nodes} {ranks} {ranks_per_node} {cores_per_rank}
    {gpus_per_node} {nodelist}, and {core_list}: the cores of each local rank, ranks parted by colons. A node's cores
    and GPUs are dealt to its ranks by the site's node shape; {cores_per_rank} counts hardware threads.
    """

    template: list[str] = Field(
        default=[], description="Launch line of a task over whole nodes, one argument an entry."
    )
    device: DeviceSelection = DeviceSelection.RANK
    bind_cores: bool = Field(
        default=True,
        description="Whether ranks see to it that they run on the cores beside their GPU. "
        "False: nobody looks, e.g. on nodes that only pretend to have so many.",
    )
    rank_variable: str = Field(default="SLURM_PROCID", description="Holds the number of a rank.")
    local_rank_variable: str = Field(default="SLURM_LOCALID", description="Holds its number on its node.")
    address_suffix: str = Field(
        default="", description="Added to a node's name for its address among ranks, e.g. .hsn.cm.example.org."
    )
    scrub: list[str] = Field(default=[], description="Variables of the pilot job that would bind a nested launch.")
    max_steps: PositiveInt | None = Field(default=None, description="Launches at a time; null: no known limit.")
    step_delay_seconds: NonNegativeFloat = Field(default=0.0, description="Between two launches.")
    max_sub_node_nodes: PositiveInt | None = Field(
        default=None, description="Largest number of nodes on which Parsl's worker pools are known to work."
    )
    pool_template: list[str] = Field(
        default=[],
        description="Launch line of Parsl's worker pools, one per node; filled from {nodes} {nodelist} and "
        "{cores_per_node}, the hardware threads of a node that tasks use.",
    )

    @model_validator(mode="after")
    def _known_placeholders(self) -> LaunchModel:
        _check_placeholders("template", self.template, PLACEHOLDERS)
        _check_placeholders("pool_template", self.pool_template, POOL_PLACEHOLDERS)
        return self


def _check_placeholders(key: str, template: list[str], known: tuple[str, ...]) -> None:
    for argument in template:
        for name in re.findall(r"\{([^{}]*)\}", argument):
            if name not in known:
                names = ", ".join(f"{{{k}}}" for k in known)
                raise ValueError(f"{key} has the unknown placeholder {{{name}}}; known: {names}")


class SizedExports(Strict):
    """Variables that depend on how many nodes a task has (NCCL over the network, or not)."""

    min_nodes: PositiveInt = 1
    max_nodes: PositiveInt | None = None
    exports: Exports

    @model_validator(mode="after")
    def _ordered(self) -> SizedExports:
        if self.max_nodes is not None and self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes ({self.min_nodes}) exceeds max_nodes ({self.max_nodes})")
        return self


class ProfileModel(Strict):
    """A named environment: what a job does before Python starts."""

    description: str = ""
    modules: list[str] = Field(default=[])
    prologue: list[str] = Field(
        default=[], description="Shell lines after the modules, e.g. what needs other variables."
    )
    exports: Exports = Field(
        default={},
        description="Variables of the job and of every task, as they stand; they win over the site's environment.",
    )
    activate: str | None = Field(
        default=None, description="Shell line that activates the Python environment; null: the one that submits."
    )
    verified: bool = Field(default=True, description="False: second-hand; check before you rely on it.")


class StagingModel(Strict):
    """Python environment on node-local storage."""

    kind: Staging = Staging.NONE
    archive: str | None = Field(default=None, description="conda-pack archive (.tar.gz) on the shared file system.")
    folder: str = Field(default="/tmp", description="Node-local folder.")  # noqa: S108 - on compute nodes
    unpack: str = Field(default="tar -xzf", description="Command that unpacks the archive.")

    @model_validator(mode="after")
    def _has_archive(self) -> StagingModel:
        if self.kind is not Staging.NONE and self.archive is None:
            raise ValueError(f"kind {self.kind} needs archive, the conda-pack archive")
        return self


class DriverModel(Strict):
    """Where the driver lives, and how Parsl's parts find each other."""

    mode: DriverMode = DriverMode.LOCAL
    interface: str | None = Field(default=None, description="Network interface of Parsl's sockets, e.g. hsn0.")
    address: str | None = Field(default=None, description="Address of Parsl's sockets, instead of an interface.")
    worker_ports: Ports = Field(default=(54000, 55000), description="Range for workers.")
    interchange_ports: Ports = Field(default=(55000, 56000), description="Range for the interchange.")
    rendezvous_ports: Ports = Field(
        default=(20000, 29999), description="Range for torch.distributed; not ephemeral, and not Parsl's."
    )
    heartbeat_seconds: PositiveInt = 30
    spare_share: float = Field(default=0.0, ge=0, lt=0.5, description="Share of nodes kept for those that fail.")
    warning_signal: str = Field(
        default="USR1", pattern=r"^[A-Z][A-Z0-9]*$", description="Sent to the driver before the wall time ends."
    )
    warning_seconds: PositiveInt = Field(default=300, description="How long before.")
    max_jobs: PositiveInt = Field(default=50, description="Most jobs of one chain.")

    @model_validator(mode="after")
    def _one_address(self) -> DriverModel:
        if self.interface is not None and self.address is not None:
            raise ValueError("address and interface exclude each other; set one of them to null")
        return self


class EnergyModel(Strict):
    """Energy: where it is read, and the model that stands in."""

    source: str = Field(
        default=AUTO,
        description="pm_counters, nvml, amd_smi or rapl; auto: those a node has, in this order; model: none is read.",
    )
    path: str | None = Field(default=None, description="Folder of the counters of `source`; null: the usual one.")
    roots: dict[str, str] = Field(
        default={}, description="Folders of the counters by source, instead of the usual ones."
    )
    node_watts: PositiveFloat | None = Field(default=None, description="Power model: one busy node, all in.")
    idle_node_watts: PositiveFloat | None = Field(default=None, description="Power model: one idle node.")
    core_watts: PositiveFloat | None = Field(default=None, description="Power model of a machine without nodes.")
    pue: float = Field(default=1.0, ge=1.0, description="Power usage effectiveness of the building; yours to set.")

    @model_validator(mode="after")
    def _known_sources(self) -> EnergyModel:
        for name in (self.source, *self.roots):
            if name not in (AUTO, MODEL, *SOURCES.names()):
                raise unknown_name("source of energy", name, (AUTO, MODEL, *SOURCES.names()))
        if self.path is not None and self.source in (AUTO, MODEL):
            raise ValueError("path needs a source whose counters lie there; name it in source, or use roots")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources to try, in order."""
        if self.source == MODEL:
            return ()
        return source_order() if self.source == AUTO else (self.source,)

    @property
    def folders(self) -> dict[str, str]:
        """Folders of counter files by source, where they are not the usual ones."""
        return self.roots | ({} if self.path is None else {self.source: self.path})


class SiteModel(Strict):
    """A machine."""

    name: str = Field(pattern=NAME)
    description: str
    node: NodeModel = NodeModel()
    gpu: GpuModel = GpuModel()
    scheduler: SchedulerModel = SchedulerModel()
    launch: LaunchModel = LaunchModel()
    profiles: dict[str, ProfileModel] = Field(default={"default": ProfileModel()})
    profile: str = Field(default="default", description="The profile in use.")
    environment: Exports = Field(default={}, description="Variables set for every task.")
    sized_environment: list[SizedExports] = Field(default=[], description="Variables by number of nodes of a task.")
    staging: StagingModel = StagingModel()
    driver: DriverModel = DriverModel()
    energy: EnergyModel = EnergyModel()
    nodes: PositiveInt = Field(default=1, description="Nodes of the machine.")
    slots: PositiveInt | Literal["auto"] = Field(default="auto", description="Local: tasks at a time; auto: by cores.")
    threads_per_task: PositiveInt = Field(default=1, description="Local: PyTorch threads of one task.")
    compile_training: Literal["never", "auto", "always"] = Field(
        default="never",
        description="Compile the training pass (torch.compile): always, never, or where a training of 200,000 graphs "
        "or more makes it pay. What fails to compile, or gives other numbers, runs without.",
    )
    scratch: str | None = Field(default=None, description="File system campaigns should live on; for people.")
    programs: dict[str, str] = Field(
        default={}, description="Modules run in place of gfm_pipeline.apps.<program>, by program."
    )

    @model_validator(mode="after")
    def _whole(self) -> SiteModel:
        if self.profile not in self.profiles:
            raise unknown_name("profile", self.profile, self.profiles)
        if self.scheduler.system is not None and not self.launch.template:
            raise ValueError(f"scheduler.kind {self.scheduler.kind} needs launch.template")
        if self.gpu.runtime is not GpuRuntime.CPU and self.node.gpus < 1:
            raise ValueError(f"gpu.runtime {self.gpu.runtime} needs node.gpus")
        return self

    def resolved_slots(self) -> int:
        """Return the number of tasks at a time on this machine: as given, or by the cores this process may use."""
        if self.slots != "auto":
            return self.slots
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return max(1, available // self.threads_per_task)

    def slot_watts(self) -> float | None:
        """Return the modelled power of one busy slot of this machine (W); None without a model."""
        watts = self.energy.core_watts
        return None if watts is None else watts * self.threads_per_task
