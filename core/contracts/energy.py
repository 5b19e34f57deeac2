"""Energy: records of consumption, and descriptions of sources.

A source is declared by an `EnergySourceDescription` and read on compute nodes as an `EnergyMeter`. Another package adds
one by an entry point of the group ``gfm_pipeline.energy_sources``. Energies are in joules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

from gfm_pipeline.core.contracts.extensions import Extensions
from gfm_pipeline.core.strenum import StrEnum

ENERGY_FOLDER = "energy"  # in an attempt's folder: a `NodeEnergy` of each of its nodes, by the node's name
AUTO = "auto"  # in a site file: the node's first source in the order below
MODEL = "model"  # not read at all: power model x time


class EnergyLabel(StrEnum):
    """Origin of an energy, the most certain first."""

    MEASURED = "measured"  # a counter that no other work advanced
    ATTRIBUTED = "attributed"  # a share of a counter that several tasks advanced, or that was not read all the time
    MODELLED = "modelled"  # power model x time


LABELS = tuple(EnergyLabel)


class EnergyScope(StrEnum):
    """What a counter measures. A node's counter includes the others, so they are never added to it."""

    NODE = "node"
    GPU = "gpu"
    PACKAGE = "package"


@dataclass(frozen=True)
class CounterReading:
    """A cumulative counter at one moment.

    Parameters
    ----------
    joules
        Its reading.
    scope
        What it measures.
    period_seconds
        Time between two updates: the largest delay of a reading.
    range_joules
        Value at which it restarts from 0; None: it does not.
    device
        Number of its GPU on the node; None: it does not measure a GPU.
    """

    joules: float
    scope: EnergyScope
    period_seconds: float
    range_joules: float | None = None
    device: int | None = None


class EnergyMeter(Protocol):
    """A source of energy on a node, constructed with the folder of its counters ('' without one)."""

    def read(self) -> dict[str, CounterReading]:
        """Return every counter by name; raises OSError when none exists or none may be read."""


@dataclass(frozen=True)
class EnergySourceDescription:
    """Facts about a source, available without importing it.

    Parameters
    ----------
    target
        ``module:class`` of its `EnergyMeter`.
    summary
        The source in one line.
    scope
        What its counters measure.
    root
        Folder of its counter files; '' without one.
    """

    target: str
    summary: str
    scope: EnergyScope
    root: str = ""


_APPS = "gfm_pipeline.apps.energy"
SOURCES = Extensions(
    "energy source",
    "gfm_pipeline.energy_sources",
    EnergySourceDescription,
    {
        "pm_counters": EnergySourceDescription(
            f"{_APPS}.cray:CrayCounters", "counters of HPE Cray EX nodes", EnergyScope.NODE, "/sys/cray/pm_counters"
        ),
        "nvml": EnergySourceDescription(f"{_APPS}.nvml:Nvml", "NVIDIA's GPUs, by their driver", EnergyScope.GPU),
        "amd_smi": EnergySourceDescription(f"{_APPS}.amd_smi:AmdSmi", "AMD's GPUs, by AMD SMI", EnergyScope.GPU),
        "rapl": EnergySourceDescription(
            f"{_APPS}.rapl:Rapl", "processors and memory, by powercap", EnergyScope.PACKAGE, "/sys/class/powercap"
        ),
    },
)


def source_order() -> tuple[str, ...]:
    """Return the names of all sources in the order of trial; those of other packages come last."""
    return (*SOURCES.built_in, *(name for name in SOURCES.names() if name not in SOURCES.built_in))


def make_meter(name: str, root: str | None = None) -> EnergyMeter:
    """Return the meter of a source, with its counters in ``root``; None: in their usual folder.

    Raises
    ------
    ConfigError
        When there is no such source.
    """
    described = SOURCES.describe(name)
    module, _, cls = described.target.partition(":")
    made: EnergyMeter = getattr(import_module(module), cls)(described.root if root is None else root)
    return made


@dataclass(frozen=True)
class EnergyUse:
    """An amount of energy used.

    Parameters
    ----------
    joules
        How much.
    error
        Half-width of its error bar (J): one update period of the counters at the mean power, plus the energy not
        measured. None: not known, as for a model.
    label
        Its origin.
    source
        Name of the source or model.
    node_seconds
        Node-seconds that it covers.
    """

    joules: float
    error: float | None
    label: EnergyLabel
    source: str
    node_seconds: float = 0.0


def total(uses: Iterable[EnergyUse]) -> EnergyUse | None:
    """Return the sum with the least certain label; None for no energies. Errors add: they may be correlated."""
    found = [use for use in uses if use is not None]
    if not found:
        return None
    errors = [use.error for use in found]
    return EnergyUse(
        sum(use.joules for use in found),
        None if None in errors else sum(e for e in errors if e is not None),
        max((use.label for use in found), key=LABELS.index),
        "+".join(dict.fromkeys(part for use in found for part in use.source.split("+"))),
        sum(use.node_seconds for use in found),
    )


@dataclass(frozen=True)
class NodeEnergy:
    """Energy of one node, for one attempt and in total.

    Parameters
    ----------
    node
        Its name.
    task
        Of the attempt.
    idle
        Of the node while no task ran on it, since the last attempt that counted it.
    all
        Of the node since its accounts were opened, whichever task used it.
    """

    node: str
    task: EnergyUse
    idle: EnergyUse
    all: EnergyUse


@dataclass(frozen=True)
class EnergyPlan:
    """How to read the energy of an attempt on each of its nodes.

    Parameters
    ----------
    sources
        Names in the order they are tried.
    roots
        Folders of counter files by source, when they are not the usual ones.
    account
        Name of the accounts that the tasks of one driver share on a node.
    share
        Share of the node that the attempt has; 1: the whole node.
    nodes
        Number of nodes of the attempt.
    """

    sources: tuple[str, ...]
    roots: Mapping[str, str] = field(default_factory=dict)
    account: str = ""
    share: float = 1.0
    nodes: int = 1


def label_text(use: EnergyUse) -> str:
    """Return the origin of an energy as text for people, e.g. ``measured, pm_counters``."""
    return f"{use.label}, {use.source}"
