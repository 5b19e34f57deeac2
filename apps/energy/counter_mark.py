"""Difference between two readings of a cumulative counter that may wrap, restart, stand still or disappear.

This module is pure arithmetic. While a counter cannot be read, its mean power so far replaces it; when it returns, its
reading replaces the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gfm_pipeline.core.contracts.energy import CounterReading

STILL_SECONDS = 10.0  # a counter that stands still for this time is broken, since every node draws power
LAST_SECONDS = 2.0  # the same at the end of an attempt, which has no later reading
MOST_WATTS = 100_000.0  # W of one counter: a wrap-around that would need more power is a restart


@dataclass(frozen=True)
class Mark:
    """The last state of a counter.

    Parameters
    ----------
    seconds, joules
        Time of its last change or estimate (s of the node's clock), and its reading at the last change.
    guessed
        Joules estimated since then.
    counted, counting
        Joules counted in total, and the seconds for them, which give the mean power.
    """

    seconds: float
    joules: float
    guessed: float = 0.0
    counted: float = 0.0
    counting: float = 0.0

    @property
    def watts(self) -> float:
        """Mean power so far; 0 while not known."""
        return self.counted / self.counting if self.counting > 0 else 0.0


@dataclass(frozen=True)
class CounterEnergy:
    """Joules since the previous mark, and the estimated part (below 0: an estimate was too high)."""

    mark: Mark
    joules: float
    guess: float


def advance(mark: Mark, reading: CounterReading | None, now: float, patience: float = STILL_SECONDS) -> CounterEnergy:
    """Return the energy counted since ``mark``, and the next mark.

    Parameters
    ----------
    mark
        The last state of the counter.
    reading
        Its reading now; None: it cannot be read.
    now
        Time on the clock of the mark (s).
    patience
        How long a counter may stand still or be missing before its mean power replaces it.
    """
    passed = now - mark.seconds
    if reading is None or reading.joules == mark.joules:
        if passed <= patience or not mark.counting:
            return CounterEnergy(mark, 0.0, 0.0)
        guess = mark.watts * passed
        return CounterEnergy(replace(mark, seconds=now, guessed=mark.guessed + guess), guess, guess)
    counted = reading.joules - mark.joules
    if counted < 0 and reading.range_joules is not None:
        counted += reading.range_joules
        if not 0 <= counted <= MOST_WATTS * max(passed, 1.0):
            counted = -1.0
    if counted < 0:  # it restarted: its earlier counts are lost
        guess = mark.watts * passed
        return CounterEnergy(Mark(now, reading.joules, 0.0, mark.counted, mark.counting), guess, guess)
    since = passed + (mark.guessed / mark.watts if mark.watts else 0.0)
    next_mark = Mark(now, reading.joules, 0.0, mark.counted + counted, mark.counting + since)
    return CounterEnergy(next_mark, counted - mark.guessed, -mark.guessed)
