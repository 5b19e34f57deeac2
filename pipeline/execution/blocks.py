"""Writes batch scripts of a campaign for users to read, and checks whether a block's worker pools have started."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.core.publish import storage_errors, write_atomic
from gfm_pipeline.execution.launcher import ParslLauncher
from gfm_pipeline.sites.batch import BatchJob, block_script, resident_script
from gfm_pipeline.sites.schema import SiteModel


@dataclass(frozen=True)
class JobShape:
    """The common requests of all jobs of a campaign."""

    nodes: int
    hours: float
    queue: str
    account: str | None


class Scripts:
    """Writes the batch scripts of a campaign into a folder.

    Parameters
    ----------
    site
        The machine.
    shape
        Of all jobs.
    folder
        Folder for scripts, and for the output of jobs.
    """

    def __init__(self, site: SiteModel, shape: JobShape, folder: Path) -> None:
        self.site, self.shape, self.folder = site, shape, folder

    def job(self, name: str, after: str | None = None) -> BatchJob:
        """Return the request for the job ``name``."""
        return BatchJob(
            name=name,
            nodes=self.shape.nodes,
            hours=self.shape.hours,
            queue=self.shape.queue,
            account=self.shape.account,
            folder=str(Path.cwd()),
            output=str(self.folder / f"{name}.out"),
            programs=str(Path(sys.executable).parent),
            after=after,
        )

    def resident(self, name: str, after: str | None, command: Sequence[str]) -> Path:
        """Write the script of a job that drives the campaign by ``command``; return its path."""
        return self._write(name, resident_script(self.site, self.job(name, after), command))

    def block(self, name: str, launcher: ParslLauncher) -> Path:
        """Write the script of a block whose worker pools belong to ``launcher``; return its path."""
        node_file = self.folder / f"{name}.nodes"
        pools = [c.text for c in launcher.commands(name, self.shape.nodes, node_file)]
        return self._write(name, block_script(self.site, self.job(name), pools, str(node_file)))

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.sh"
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
        return path


@dataclass(frozen=True)
class PilotBlocks:
    """The blocks of a driver that runs elsewhere."""

    scripts: Scripts
    launcher: ParslLauncher

    def script(self, name: str) -> Path:
        """Write the script of block ``name`` and return its path."""
        return self.scripts.block(name, self.launcher)

    def ready(self, name: str) -> bool:
        """Return whether the pools of the block have reported to Parsl."""
        return self.launcher.connected(name)

    def suspended(self, names: Collection[str]) -> None:
        """Have the silence of the pools of these blocks excused, and of no others."""
        self.launcher.excuse(names)

    def end(self, name: str) -> None:
        """Keep the pools of a block that ends from getting further tasks."""
        self.launcher.hold_block(name)
