"""The energy of one attempt on one node, counted while its program runs and written to the attempt's folder.

The starter of a node's ranks counts: the task wrapper, or the first rank of each node of a launch. It rewrites the
record every few seconds, so a killed attempt loses only the last seconds. Nothing here can fail an attempt.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from gfm_pipeline.apps.energy.node_accounts import NodeAccounts
from gfm_pipeline.apps.energy.node_meter import NodeMeter
from gfm_pipeline.core.contracts.energy import ENERGY_FOLDER, EnergyPlan
from gfm_pipeline.core.errors import GFMError
from gfm_pipeline.core.publish import write_atomic
from gfm_pipeline.core.records import canonical_json, to_plain

POLL_SECONDS = 5.0
NODE_VARIABLES = ("SLURMD_NODENAME",)  # several nodes of a test bed may share one host


def this_node() -> str:
    """Return the name of this node, if possible that of the batch system."""
    # the batch system tells a process its node in the environment only
    return next((os.environ[name] for name in NODE_VARIABLES if os.environ.get(name)), socket.gethostname())


class AttemptMeter:
    """Counts the energy of an attempt on this node, from now until `close`.

    Parameters
    ----------
    plan
        How to count; None: no counting.
    folder
        The attempt's.
    devices
        Numbers of its GPUs on the node; None: not known, it shares all of them.
    """

    def __init__(self, plan: EnergyPlan | None, folder: Path, devices: Collection[int] | None = None) -> None:
        self._accounts: NodeAccounts | None = None
        self._task, self._path = str(folder), folder / ENERGY_FOLDER / f"{this_node()}.json"
        self._polled_at = time.monotonic()
        if plan is None or not plan.sources:
            return
        meter = NodeMeter(plan)
        if not meter.source:
            return
        accounts = NodeAccounts(meter, this_node(), plan.account)
        with suppress(OSError, GFMError):
            self._path.parent.mkdir(exist_ok=True)
            accounts.enter(self._task, plan.share, devices if plan.share < 1.0 else None)
            self._accounts = accounts

    def poll(self) -> None:
        """Write the energy so far, every few seconds."""
        if self._accounts is not None and time.monotonic() - self._polled_at >= POLL_SECONDS:
            self._leave_record(leave=False)

    def close(self) -> None:
        """Write the total energy."""
        if self._accounts is not None:
            self._leave_record(leave=True)
            self._accounts = None

    def _leave_record(self, *, leave: bool) -> None:
        self._polled_at = time.monotonic()
        with suppress(OSError, GFMError):  # faults of the disk or of the counters are not the program's
            found = None if self._accounts is None else self._accounts.read(self._task, leave=leave)
            if found is not None:
                write_atomic(self._path, canonical_json(to_plain(found)).encode(), durable=False)
