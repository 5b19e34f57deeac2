"""How the worker pools of a block are started: in this allocation, or in a separate batch job."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfm_pipeline.core.processes import RUN, ProcessId, identify
from gfm_pipeline.core.publish import storage_errors, write_atomic
from gfm_pipeline.execution.executors import pool_command
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.batch import expanded
from gfm_pipeline.sites.launch import pool_line
from gfm_pipeline.sites.schema import SiteModel

TERM_SECONDS = 2.0  # for a pool to end by itself, before its group is killed
THIS_NODE = "${SLURMD_NODENAME:-$(hostname -s)}"  # shell text: its name as the batch system knows it


@dataclass(frozen=True)
class PoolCommand:
    """The command line of one executor's pool in a block, as shell text."""

    label: str
    text: str


def pool_commands(
    site: SiteModel, executors: Sequence[tuple[SizeClass, Any]], block: str, nodes: Sequence[str] | int, node_file: Path
) -> list[PoolCommand]:
    """Return the pools of a block, one an executor.

    Parameters
    ----------
    site
        The machine.
    executors
        Started ones, with their sizes.
    block
        Its name, which Parsl's managers carry.
    nodes
        Of the block, by name, or their number where the names are not known before it runs; empty on a machine
        without batch system.
    node_file
        Where the names of the nodes will be, one per line: what `MPIExecutor` counts its nodes from.
    """
    # What a pilot job leaves in the environment would bind the launches nested in it.
    clean = ["env", *(part for name in site.launch.scrub for part in ("-u", name))]
    found = []
    for size, executor in executors:
        if size.whole:
            # Read from a file, so that the names are what the driver says and Parsl asks no batch system.
            words = [shlex.join([*clean, "-u", "SLURM_NODELIST", f"PBS_NODEFILE={node_file}", *RUN])]
            words.append(pool_command(executor, shlex.quote(block)))
        else:
            line = pool_line(site, nodes) if site.launch.pool_template else []
            words = [shlex.join(clean), *map(expanded, line), "bash", "-c"]
            words.append(shlex.quote("exec " + pool_command(executor, manager_block(block, THIS_NODE))))
        found.append(PoolCommand(size.label, " ".join(words)))
    return found


def manager_block(block: str, node: str) -> str:
    """Return what a node's manager calls its block: Parsl does not tell otherwise on which node a manager is."""
    return f"{block}@{node}"


class LocalPools:
    """Pools started from this process: on this machine, or on the nodes of the allocation it runs in.

    A pool that outlives its driver would hold its nodes, so a watcher in its process group ends the group when the
    driver is gone. Parsl's pool leaves by itself when heartbeats stop, but not when the interchange dies between
    the pool's probe and its connection: its communicating thread ends then, and the rest waits for ever.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pools: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, commands: Sequence[PoolCommand], nodes: Sequence[str], node_file: Path) -> None:
        """Start the pools of a block."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(node_file, "".join(f"{n}\n" for n in nodes or ["localhost"]).encode())
            for command in commands:
                self._start(command)

    def _start(self, command: PoolCommand) -> None:
        watch = f"( tail --pid={os.getpid()} -f /dev/null && kill -KILL 0 ) &\n" if shutil.which("tail") else ""
        with open(self.folder / f"{command.label}.log", "ab") as log:
            self._pools[command.label] = subprocess.Popen(
                ["bash", "-c", f"{watch}exec {command.text}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self) -> list[ProcessId]:
        """Return the leaders of the pools' process groups."""
        return [identify(pool.pid) for pool in self._pools.values()]

    def dead(self) -> str | None:
        """Return the label of a pool that has ended, or None."""
        return next((label for label, pool in self._pools.items() if pool.poll() is not None), None)

    def up(self) -> frozenset[str]:
        """Return the labels of the pools that were started."""
        return frozenset(self._pools)

    def kill(self, label: str | None = None) -> None:
        """End one pool, or all of them, at once, with their workers."""
        ending = [self._pools.pop(name) for name in list(self._pools) if label in (None, name)]
        for pool in ending:
            with suppress(ProcessLookupError, PermissionError):
                # A launch line that is killed leaves what it started on other nodes; asked to end, it takes it along.
                os.killpg(pool.pid, signal.SIGTERM)
        give_up = time.monotonic() + TERM_SECONDS
        for pool in ending:
            with suppress(subprocess.TimeoutExpired):
                pool.wait(max(0.0, give_up - time.monotonic()))
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pool.pid, signal.SIGKILL)
            pool.wait()
