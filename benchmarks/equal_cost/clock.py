"""What the training programs of all sides share: their task, their budget of processor time, and their answer."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 8  # structures per prediction of the test set


def _processor_seconds() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


class Budget:
    """Processor time of a training, of all threads and of compilers that it starts, from the first step on."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._start = seconds, _processor_seconds()

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return _processor_seconds() - self._start

    @property
    def done(self) -> float:
        """Used share of the budget, at most 1; schedules of the learning rate follow it."""
        return min(1.0, self.used / self.seconds)


class Turns(Budget):
    """Turns of some steps: each waits for a line of standard input, and ends with an answer on standard output."""

    def __init__(self, steps: int, batch: int, facts: dict[str, Any]) -> None:
        super().__init__(math.inf)
        self._steps, self._taken, self._batch, self._facts = steps, 0, batch, facts

    @property
    def done(self) -> float:
        """Always zero; the process ends where no more turns are asked for."""
        if self._taken % self._steps == 0:
            if self._taken:
                answer = {"seconds": self.used, "structures": self._steps * self._batch}
                print(json.dumps(answer | self._facts), flush=True)
            if not sys.stdin.readline():
                sys.exit(0)
            self._start = _processor_seconds()
        self._taken += 1
        return 0.0


def set_cosine_rate(optimiser: Any, rate: float, done: float) -> None:
    """Let the learning rate of an optimiser of PyTorch fall from ``rate`` to zero along a cosine of the used share."""
    for group in optimiser.param_groups:
        group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * done))


def task() -> dict[str, Any]:
    """Return the task of this program: files of structures, cutoff, seconds, seed, settings and output."""
    return json.loads(sys.stdin.readline())  # type: ignore[no-any-return]


def clock_of(asked: dict[str, Any], facts: dict[str, Any]) -> Budget:
    """Return the budget of a training, or its turns where the task names their ``steps``."""
    return Turns(asked["steps"], asked["settings"]["batch"], facts) if "steps" in asked else Budget(asked["seconds"])


def shuffled(n: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices without end; every pass over the data has a new order and whole batches only."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        size = min(batch, n)
        for first in range(0, n - size + 1, size):
            yield order[first : first + size].tolist()


def answer(output: str, energies: Sequence[float], forces: Sequence[Any], facts: dict[str, Any]) -> None:
    """Write predictions of the test structures, in order, and what is to be known of the training."""
    np.savez(Path(output), energy=np.asarray(energies, dtype=np.float64), forces=np.concatenate(forces))
    print(json.dumps(facts), flush=True)
