"""The check of a machine: observations and measurements of the ranks of one small job."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfm_pipeline.core.contracts.training import Device

OBSERVATIONS_FOLDER = "seen"  # in the attempt's folder: a `RankSeen` of each rank, `RANK.json`


@dataclass(frozen=True)
class PreflightSpec:
    """What one launch of the program does.

    Parameters
    ----------
    ranks
        Processes of the launch.
    device
        What trainings of the site compute on.
    visible_variable
        The variable that masks GPUs; None: the site has none.
    packages
        Imported by the first rank of each node, to see whether they are there and in which version.
    data
        Folder in which rank 0 writes a file with ADIOS2 that the last rank reads; None: that is not done.
    data_megabytes
        Its size.
    exchange_megabytes
        Sizes of the tensors that all ranks sum; empty: they do not meet.
    counters
        Folders of energy counters by source, where they are not the usual ones.
    timeout
        Longest wait for another rank, seconds.
    """

    ranks: int
    device: Device
    visible_variable: str | None
    packages: tuple[str, ...] = ()
    data: str | None = None
    data_megabytes: int = 64
    exchange_megabytes: tuple[float, ...] = ()
    counters: dict[str, str] = field(default_factory=dict)
    timeout: float = 120.0


@dataclass(frozen=True)
class RankObservation:
    """What one rank was given and found.

    Parameters
    ----------
    rank, local_rank, node
        Where it is.
    mask
        The variable that masks GPUs, as the program has it; None: it is not set.
    cores
        Hardware threads it may use.
    python, executable
        Version and path of its interpreter.
    packages, missing
        Versions of the packages asked for, and why others cannot be imported.
    build
        What torch was built for: ``cpu``, ``cuda 12.8``, ``rocm 7.1``, ``xpu 2025.1``; '' where nobody looked.
    devices, device
        How many devices torch sees, and the name of the first; None where it was not asked.
    device_cores
        Hardware threads beside the device as Linux knows them, as a text list; '' where it does not tell.
    device_trouble
        Why the device cannot compute.
    energy, energy_trouble
        Sources of energy: a reading (J), or why there is none.
    mpi, mpi_trouble
        MPI library of mpi4py, or why there is none.
    written, read
        Speeds of ADIOS2 (MB/s) of this rank.
    data_trouble
        What went wrong with the file.
    """

    rank: int
    local_rank: int
    node: str
    mask: str | None
    cores: tuple[int, ...]
    python: str
    executable: str
    packages: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    build: str = ""
    devices: int | None = None
    device: str = ""
    device_cores: str = ""
    device_trouble: str = ""
    energy: dict[str, float] = field(default_factory=dict)
    energy_trouble: dict[str, str] = field(default_factory=dict)
    mpi: str = ""
    mpi_trouble: str = ""
    written: float | None = None
    read: float | None = None
    data_trouble: str = ""


@dataclass(frozen=True)
class Rate:
    """One sum over all ranks: size of the tensor (MB) and the time of one sum (s)."""

    megabytes: float
    seconds: float

    @property
    def gigabytes_per_second(self) -> float:
        """Size over time, what a training sees of the network."""
        return self.megabytes / 1000 / self.seconds


@dataclass(frozen=True)
class PreflightResult:
    """What all ranks found together.

    ``clocks`` are the differences of the ranks' clocks from rank 0's (s).
    """

    backend: str = ""
    correct: bool = True
    rates: tuple[Rate, ...] = ()
    clocks: tuple[float, ...] = ()
