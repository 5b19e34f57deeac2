"""What a cumulative counter has counted between two looks, though it wraps, begins anew, stands still or is gone.

Pure arithmetic. A counter that cannot be followed for a while is guessed to go on at its mean power so far; when it
comes back, what it says replaces the guess.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gfm_pipeline.core.contracts.energy import CounterReading

STILL_SECONDS = 10.0  # a counter that does not move for so long is not at work: no node draws nothing
LAST_SECONDS = 2.0  # the same at the end of an attempt, where nobody looks again
MOST_WATTS = 100_000.0  # of what one counter counts: a wrap-around that would need more is none


@dataclass(frozen=True)
class Mark:
    """The last that was seen of a counter.

    Parameters
    ----------
    seconds, joules
        When it last moved or was guessed (s of the node's clock), and what it showed when it last moved.
    guessed
        Joules guessed since then.
    counted, counting
        Joules it has counted in all, and in how many seconds: its mean power.
    """

    seconds: float
    joules: float
    guessed: float = 0.0
    counted: float = 0.0
    counting: float = 0.0

    @property
    def watts(self) -> float:
        """Mean power so far; 0 while it is not known."""
        return self.counted / self.counting if self.counting > 0 else 0.0


@dataclass(frozen=True)
class CounterEnergy:
    """Joules since the mark before, and how many of them are a guess (less than 0: a guess was too high)."""

    mark: Mark
    joules: float
    guess: float


def advance(mark: Mark, reading: CounterReading | None, now: float, patience: float = STILL_SECONDS) -> CounterEnergy:
    """Return what a counter has counted since ``mark``, and the next mark.

    Parameters
    ----------
    mark
        The last that was seen of it.
    reading
        What it shows now; None: it cannot be read.
    now
        Seconds of the clock of the mark.
    patience
        For how long a counter may stand still, or be gone, before its mean power stands in.
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
    if counted < 0:  # it began anew: what it had counted before is lost
        guess = mark.watts * passed
        return CounterEnergy(Mark(now, reading.joules, 0.0, mark.counted, mark.counting), guess, guess)
    since = passed + (mark.guessed / mark.watts if mark.watts else 0.0)
    next_mark = Mark(now, reading.joules, 0.0, mark.counted + counted, mark.counting + since)
    return CounterEnergy(next_mark, counted - mark.guessed, -mark.guessed)
