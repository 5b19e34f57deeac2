"""One Parsl executor per size class, without those defaults of Parsl that lose work.

Tasks of one node, or of a part of a node, run on `HighThroughputExecutor`: a pool of workers on every node.
Tasks of several nodes run on `MPIExecutor`: one pool on the first node of a block, whose workers start launch lines.
All tasks of an executor have one size, workers prefetch nothing, and the driver never submits a task without a free
place. So Parsl's backlog of multi-node tasks, which loses tasks of mixed sizes, is never used.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from typing import Any

from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.schema import SiteModel

MISSED_HEARTBEATS = 4  # after so many, a manager or the driver's side counts as lost
LOOPBACK = "127.0.0.1"
POOL = "gfm_pipeline.apps.runtime.forked_pool"
INTERCHANGE = "gfm_pipeline.execution.interchange"
# Names of folders in the command, and the executor's attributes.
FOLDERS = {"cert_dir": "cert_dir", "logdir": "worker_logdir", "logconf": "logconf_path"}


def build_executor(site: SiteModel, size: SizeClass, nodes: int) -> Any:
    """Return the executor of a size class without starting it.

    Parameters
    ----------
    site
        The machine.
    size
        Size class of all tasks of the executor.
    nodes
        Of a block.
    """
    from parsl.executors import HighThroughputExecutor, MPIExecutor

    driver = site.driver
    common = {
        "label": size.label,
        "provider": _held_nodes(nodes),
        "address": _address(site),
        "worker_port_range": driver.worker_ports,
        "interchange_port_range": driver.interchange_ports,
        "prefetch_capacity": 0,
        "heartbeat_period": driver.heartbeat_seconds,
        "heartbeat_threshold": MISSED_HEARTBEATS * driver.heartbeat_seconds,
        "encrypted": True,
        "block_error_handler": False,  # we manage blocks: a failed block must not end the executor
        "launch_cmd": _launch_template(),
    }
    if size.whole:
        executor = MPIExecutor(
            max_workers_per_block=max(1, size.capacity(nodes) if size.launches is None else min(size.launches, nodes)),
            mpi_launcher="mpiexec" if site.scheduler.system is None else site.scheduler.system.mpi_launcher,
            **common,
        )
    else:
        # We set the number of workers; Parsl must not derive it from cores.
        executor = HighThroughputExecutor(max_workers_per_node=size.per_node, cores_per_worker=1e-6, **common)
    # Set here, because MPIExecutor accepts only one word. The interchange gets a parent-death signal, so that no
    # killed driver leaves it behind, and its own session, so that Ctrl-C on a terminal reaches only the driver.
    guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    session = ["setsid"] if shutil.which("setsid") else []
    executor.interchange_launch_cmd = [*guard, *session, *module_command(INTERCHANGE)]
    return executor


def _launch_template() -> str:
    """Return Parsl's launch command with our pool; Parsl fills in all other parts, but not the folders.

    Parsl inserts folders without quoting; a space, a quote or a brace in a folder would change the command.
    """
    from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD

    text: str = DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", "{{pool}}", 1)
    for name in FOLDERS:
        text = text.replace(f"{{{name}}}", f"{{{{{name}}}}}")
    return text


def pool_command(executor: Any, block: str) -> str:
    """Return the command line of a started executor's worker pool, as shell text.

    Parameters
    ----------
    executor
        A started executor of `build_executor`.
    block
        Name of the block for Parsl's managers, as shell text.
    """
    folders = {name: shlex.quote(str(getattr(executor, attribute))) for name, attribute in FOLDERS.items()}
    text: str = executor.launch_cmd.format(pool=shlex.join(module_command(POOL)), block_id=block, **folders)
    return text


def resources(size: SizeClass) -> dict[str, int]:
    """Return the resource specification of a task: all three numbers, or `MPIExecutor` writes ``None`` and floats."""
    if not size.whole:
        return {}
    if size.strategy is LaunchStrategy.GROUP:
        return {"num_nodes": 1, "ranks_per_node": 1, "num_ranks": 1}  # one worker; the launch line names the nodes
    shape = size.shape
    return {"num_nodes": shape.nodes, "ranks_per_node": shape.ranks_per_node, "num_ranks": shape.ranks}


def _address(site: SiteModel) -> str:
    """Return the address of Parsl's sockets: the site's address or interface, never all interfaces."""
    from parsl.addresses import address_by_interface

    if site.driver.address is not None:
        return site.driver.address
    return LOOPBACK if site.driver.interface is None else str(address_by_interface(site.driver.interface))


def _held_nodes(nodes: int) -> Any:
    """Return a provider of existing nodes: the driver acquires the nodes, and Parsl only uses them."""
    from parsl.launchers import SimpleLauncher
    from parsl.providers.base import ExecutionProvider

    class HeldNodes(ExecutionProvider):  # type: ignore[misc]  # Parsl is not typed
        """Nodes that Parsl neither acquires nor releases."""

        label = "held"
        status_polling_interval = 60

        def __init__(self) -> None:
            self.min_blocks = self.max_blocks = self.init_blocks = 0
            self.nodes_per_block = nodes
            self.parallelism = 1.0
            self.script_dir: str | None = None
            self.resources: dict[object, Any] = {}
            self.cores_per_node: int | None = None
            self.mem_per_node: float | None = None
            self.launcher = SimpleLauncher()

        def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> object:
            """Refuse: blocks are started by `gfm_pipeline.execution.pools`."""
            raise RuntimeError(f"Parsl wants a block of its own for {job_name} ({tasks_per_node} x {command})")

        def status(self, job_ids: Sequence[object]) -> Sequence[Any]:
            """Return nothing: Parsl knows no blocks."""
            return [None for _ in job_ids]

        def cancel(self, job_ids: Sequence[object]) -> Sequence[bool]:
            """Cancel nothing."""
            return [False for _ in job_ids]

    return HeldNodes()
