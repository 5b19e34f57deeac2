"""Starts the worker pools of a block: in this allocation, or in a separate batch job."""

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

TERM_SECONDS = 2.0  # wait for a pool to end by itself, before its group is killed
THIS_NODE = "${SLURMD_NODENAME:-$(hostname -s)}"  # shell text: the node's name in the batch system


@dataclass(frozen=True)
class PoolCommand:
    """The command line of one executor's pool in a block, as shell text."""

    label: str
    text: str


def pool_commands(
    site: SiteModel, executors: Sequence[tuple[SizeClass, Any]], block: str, nodes: Sequence[str] | int, node_file: Path
) -> list[PoolCommand]:
    """Return the pools of a block, one per executor.

    Parameters
    ----------
    site
        The machine.
    executors
        Started ones, with their sizes.
    block
        Name of the block, which is part of the names of Parsl's managers.
    nodes
        Names of the block's nodes, or their number if the names are unknown before it runs; empty on a machine
        without batch system.
    node_file
        Future file of the nodes' names, one per line, from which `MPIExecutor` counts its nodes.
    """
    # Variables of a pilot job would bind the launches nested in it.
    clean = ["env", *(part for name in site.launch.scrub for part in ("-u", name))]
    found = []
    for size, executor in executors:
        if size.whole:
            # Read from a file, so that Parsl uses the driver's names and does not query the batch system.
            words = [shlex.join([*clean, "-u", "SLURM_NODELIST", f"PBS_NODEFILE={node_file}", *RUN])]
            words.append(pool_command(executor, shlex.quote(block)))
        else:
            line = pool_line(site, nodes) if site.launch.pool_template else []
            words = [shlex.join(clean), *map(expanded, line), "bash", "-c"]
            words.append(shlex.quote("exec " + pool_command(executor, manager_block(block, THIS_NODE))))
        found.append(PoolCommand(size.label, " ".join(words)))
    return found


def manager_block(block: str, node: str) -> str:
    """Return a block name that includes the node: Parsl does not report the node of a manager otherwise."""
    return f"{block}@{node}"


class LocalPools:
    """Pools that this process starts: on this machine, or on the nodes of its allocation.

    A pool that outlives its driver would hold its nodes, so a watcher in its process group ends the group when the
    driver is gone. Parsl's pool ends by itself when heartbeats stop, but not when the interchange dies between
    the pool's probe and its connection: then its communicating thread ends, and the rest waits forever.
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
        """Return the labels of started pools."""
        return frozenset(self._pools)

    def kill(self, label: str | None = None) -> None:
        """Kill one pool, or all pools, at once, with their workers."""
        ending = [self._pools.pop(name) for name in list(self._pools) if label in (None, name)]
        for pool in ending:
            with suppress(ProcessLookupError, PermissionError):
                # A killed launch line leaves its processes on other nodes; a terminated one ends them.
                os.killpg(pool.pid, signal.SIGTERM)
        give_up = time.monotonic() + TERM_SECONDS
        for pool in ending:
            with suppress(subprocess.TimeoutExpired):
                pool.wait(max(0.0, give_up - time.monotonic()))
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pool.pid, signal.SIGKILL)
            pool.wait()
