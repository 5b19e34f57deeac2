"""The check of a machine: observations and measurements of the ranks of one small job."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfm_pipeline.core.contracts.training import Device

OBSERVATIONS_FOLDER = "seen"  # in the attempt's folder: a `RankSeen` of each rank, `RANK.json`


@dataclass(frozen=True)
class PreflightSpec:
    """Instructions for one launch of the program.

    Parameters
    ----------
    ranks
        Processes of the launch.
    device
        The device on which trainings of the site compute.
    visible_variable
        The variable that masks GPUs; None: the site has none.
    packages
        The first rank of each node imports these to report whether they are installed, and in which version.
    data
        Folder in which rank 0 writes a file with ADIOS2 and the last rank reads it; None: no such test.
    data_megabytes
        Its size.
    exchange_megabytes
        Sizes of the tensors that all ranks sum; empty: no exchange between ranks.
    counters
        Folders of energy counters by source, when they are not the usual ones.
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
    """The resources and findings of one rank.

    Parameters
    ----------
    rank, local_rank, node
        Where it is.
    mask
        Value of the variable that masks GPUs; None: not set.
    cores
        Hardware threads it may use.
    python, executable
        Version and path of its interpreter.
    packages, missing
        Versions of the requested packages, and the reasons why others cannot be imported.
    build
        The platform of torch's build: ``cpu``, ``cuda 12.8``, ``rocm 7.1``, ``xpu 2025.1``; '' when not examined.
    devices, device
        Number of devices that torch sees, and the name of the first; None when not examined.
    device_cores
        Hardware threads near the device according to Linux, as a text list; '' when not known.
    device_trouble
        Why the device cannot compute.
    energy, energy_trouble
        Sources of energy: a reading (J), or the reason why there is none.
    mpi, mpi_trouble
        MPI library of mpi4py, or the reason why there is none.
    written, read
        Speeds of ADIOS2 (MB/s) of this rank.
    data_trouble
        The error of the test with the file.
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
        """Size over time: the bandwidth available to a training."""
        return self.megabytes / 1000 / self.seconds


@dataclass(frozen=True)
class PreflightResult:
    """The findings of all ranks.

    ``clocks`` are the differences of the ranks' clocks from rank 0's (s).
    """

    backend: str = ""
    correct: bool = True
    rates: tuple[Rate, ...] = ()
    clocks: tuple[float, ...] = ()
