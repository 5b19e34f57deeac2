"""Kills, slows and starves the tasks of a running campaign at random, to demonstrate that the campaign survives.

Chaos never corrupts data: it causes the faults that also occur in a campaign of weeks. Each attempt that is hit gets a
note in its folder. `gfm_pipeline.engine.tasks.classify` reads this note, so chaos does not use up the attempts that
are meant for real trouble.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.contracts.task import CHAOS_FILE, WRAPPER_FILE, WrapperRecord
from gfm_pipeline.core.errors import ConfigError, IntegrityError
from gfm_pipeline.core.faultpoints import FAULTS_FILE, REFUSALS, Fault, FaultPoint, arm
from gfm_pipeline.core.processes import is_alive, kill, kill_group
from gfm_pipeline.core.records import read_record
from gfm_pipeline.core.strenum import StrEnum
from gfm_pipeline.engine.tasks.orphans import attempts_left

SLOW_SECONDS = (0.5, 3.0)
POLL_SECONDS = 0.1  # pause between searches for a running attempt
STARVED = (FaultPoint.PUBLISH_FILLED, FaultPoint.PUBLISH_BEFORE_RENAME)


class ChaosKind(StrEnum):
    """The kinds of faults; all equally likely except the first, which is twice as likely."""

    KILL = "killed"  # a task's whole process group
    WORKER = "robbed of its worker"  # the Parsl worker that runs a task
    SLOW = "slowed"  # stopped for a while
    STARVE = "starved"  # the disk refuses a task's next artefact


@dataclass(frozen=True)
class ChaosPlan:
    """``SEED:RATE``: seed of the random numbers, and faults per minute on average, in the whole campaign."""

    seed: int
    rate: float

    @classmethod
    def parse(cls, text: str) -> ChaosPlan:
        """Return the plan from ``SEED:RATE``; raises `ConfigError` for any other text."""
        seed, _, rate = text.partition(":")
        try:
            plan = cls(int(seed), float(rate))
        except ValueError:
            plan = cls(0, 0.0)
        if not 0 < plan.rate <= 600:
            raise ConfigError(
                f"--chaos {text!r} is not SEED:RATE.", "Give a whole number and faults per minute up to 600, e.g. 7:20."
            )
        return plan


class Chaos:
    """Causes faults from a thread within the ``with`` block.

    Parameters
    ----------
    plan
        Seed and rate of faults.
    paths
        The campaign; all of its processes on this machine may be hit, except its driver.
    say
        Receives a sentence about every fault.
    """

    def __init__(self, plan: ChaosPlan, paths: CampaignPaths, notify: Callable[[str], None]) -> None:
        self.struck: Counter[ChaosKind] = Counter()
        self._plan = plan
        self._paths = paths
        self._notify = notify
        self._random = random.Random(plan.seed)
        self._starve: Fault | None = None  # for the next attempt that starts
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)

    def __enter__(self) -> Chaos:
        """Begin."""
        arm(self)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Stop, and report the number of faults."""
        self._over.set()
        self._thread.join()
        arm(None)
        summary = ", ".join(f"{count} {what}" for what, count in sorted(self.struck.items())) or "none"
        self._notify(f"Chaos: {self.struck.total()} tasks were hit ({summary}).")

    def reached(self, point: FaultPoint) -> None:
        """Do nothing to the driver."""

    def hand_down(self, folder: Path) -> None:
        """Let the disk refuse the first artefact of the attempt that starts in ``folder``, if this fault is due."""
        fault, self._starve = self._starve, None
        if fault is None:
            return
        self._note(folder, f"chaos: the disk refused ({fault.what})")
        armed = {"faults": [str(fault)], "driver": os.getpid(), "counts": str(folder)}
        (folder / FAULTS_FILE).write_text(json.dumps(armed), encoding="utf-8")
        self._describe(ChaosKind.STARVE, folder)

    def _run(self) -> None:
        while not self._over.wait(self._random.expovariate(self._plan.rate / 60.0)):
            kind = self._random.choice([ChaosKind.KILL, *ChaosKind])
            if kind is ChaosKind.STARVE:
                self._starve = Fault(self._random.choice(STARVED), what=self._random.choice(sorted(REFUSALS)))
                continue
            while not self._over.wait(POLL_SECONDS) and not self._strike(kind):
                pass

    def _strike(self, kind: ChaosKind) -> bool:
        """Hit one running attempt; return False if there is none."""
        folders = attempts_left(self._paths)
        if not folders:
            return False
        folder = self._random.choice(folders)
        try:
            found = read_record(WrapperRecord, folder / WRAPPER_FILE)
        except (OSError, IntegrityError):
            return False  # it has just ended
        if kind is ChaosKind.SLOW:
            return is_alive(found.program) and self._slow(found.program.pid, folder)
        # Keep earlier notes of an attempt: it may be starved, and end for that reason now.
        noted = (folder / CHAOS_FILE).exists()
        if not noted:
            self._note(folder, f"chaos: {kind}")
        hit = kill_group(found.program) if kind is ChaosKind.KILL else kill(found.wrapper)
        if hit:
            self._describe(kind, folder)
        elif not noted:
            (folder / CHAOS_FILE).unlink(missing_ok=True)
        return hit

    def _slow(self, group: int, folder: Path) -> bool:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGSTOP)
            self._describe(ChaosKind.SLOW, folder)
            self._over.wait(self._random.uniform(*SLOW_SECONDS))
            os.killpg(group, signal.SIGCONT)
        return True

    def _describe(self, kind: ChaosKind, folder: Path) -> None:
        self.struck[kind] += 1
        self._notify(f"  chaos: {folder.parent.name} is {kind}")

    @staticmethod
    def _note(folder: Path, text: str) -> None:
        (folder / CHAOS_FILE).write_text(text, encoding="utf-8")
