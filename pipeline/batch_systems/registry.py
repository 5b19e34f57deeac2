"""The registry of batch systems: built-in ones, and those of other installed packages."""

from __future__ import annotations

from collections.abc import Mapping

from gfm_pipeline.batch_systems.base import BatchSystem
from gfm_pipeline.batch_systems.pbs import Pbs
from gfm_pipeline.batch_systems.slurm import Slurm
from gfm_pipeline.core.contracts.extensions import Extensions
from gfm_pipeline.core.errors import ConfigError

LOCAL = "local"  # name for a site without a batch system
_FOUND: Extensions[type] = Extensions(
    "batch system", "gfm_pipeline.batch_systems", type, {system.system: system for system in (Pbs, Slurm)}
)


def batch_system(name: str) -> type[BatchSystem] | None:
    """Return the batch system of this name; None for machines without one.

    Raises
    ------
    ConfigError
        When no batch system has this name, or another package's one cannot be used.
    """
    if name == LOCAL:
        return None
    found = _FOUND.describe(name)
    if not (isinstance(found, type) and issubclass(found, BatchSystem)):
        raise ConfigError(
            f"The entry point {name!r} names no batch system.", "It must name a class derived from `BatchSystem`."
        )
    if found.system != name:
        raise ConfigError(f"The entry point {name!r} names the batch system {found.system!r}.", "Give both one name.")
    return found


def names() -> list[str]:
    """Return the names of batch systems for site files."""
    return [LOCAL, *_FOUND.names()]


def connected(name: str, environment: Mapping[str, str], seconds: float = 120.0) -> BatchSystem | None:
    """Return a batch system, ready for use; None for machines without one.

    Parameters
    ----------
    name
        As in the site file.
    environment
        The environment of this process, which names the batch system and the job of this process.
    seconds
        Time-out of each command.
    """
    system = batch_system(name)
    return None if system is None else system(environment, seconds)
