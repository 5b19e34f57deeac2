"""The trainings of a search that wait, kept in order from event to event.

A search has up to a million trainings, and something happens to one of them many times a second. What follows from the
state as a whole is kept here, and brought up to date from what has changed since it was last asked: candidates that
were proposed, candidates that were promoted, and tasks whose status is another (`StageState.changed`). It holds nothing
that the state does not say.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass

from gfm_pipeline.campaign.events import Candidate
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.engine.decisions.requests import is_to_start
from gfm_pipeline.engine.stages.trials import finished, task_name

Turn = tuple[int, int, str]  # minus the rung, the wave, the candidate: in this order trainings start


@dataclass(frozen=True)
class Training:
    """A training that the decisions so far ask for: a candidate to a rung; ``entered`` is the wave that decided it."""

    candidate: Candidate
    rung: int
    entered: int

    @property
    def turn(self) -> Turn:
        """Where it comes among the others: higher rungs first."""
        return -self.rung, self.entered, self.candidate.name


class Agenda:
    """What waits in one search.

    Parameters
    ----------
    stage
        Its state, whose changes are followed.
    """

    def __init__(self, stage: StageState) -> None:
        self.stage = stage
        self.turns: list[Turn] = []  # trainings that can start, the most urgent first
        self._trainings: dict[str, Training] = {}  # by task
        self._finished: set[str] = set()
        self._unfinished: Counter[tuple[int, int]] = Counter()  # by entering wave and rung
        self.left = 0  # trainings that have not finished
        # Waves, and the rung to which all of their trainings have finished, without a decision on it.
        self._complete: set[tuple[int, int]] = set()
        self._waves = self._changes = 0  # taken in
        self._decisions: set[tuple[int, int]] = set()
        self._candidates: dict[str, Candidate] = {}

    def update(self) -> None:
        """Take in what has changed."""
        stage = self.stage
        while self._waves < len(stage.waves):
            for candidate in stage.waves[self._waves].candidates:
                self._candidates[candidate.name] = candidate
                self._enter(Training(candidate, 0, self._waves))
            self._waves += 1
        if len(self._decisions) < len(stage.decisions):
            for (wave, rung), decision in stage.decisions.items():
                if (wave, rung) not in self._decisions:
                    self._decisions.add((wave, rung))
                    self._complete.discard((wave, rung))
                    for name in decision.promoted:
                        self._enter(Training(self._candidates[name], rung + 1, wave))
        changed, self._changes = stage.changed[self._changes :], len(stage.changed)
        for task in changed:
            training = self._trainings.get(task)
            if training is not None:
                self._update(training)
                after = self._trainings.get(task_name(training.candidate.name, training.rung + 1))
                if after is not None:
                    self._update(after)

    def training(self, turn: Turn) -> Training:
        """Return the training of a turn."""
        return self._trainings[task_name(turn[2], -turn[0])]

    def unfinished(self, wave: int, rung: int) -> int:
        """Return how many trainings that ``wave`` brought to ``rung`` have not finished."""
        return self._unfinished[wave, rung]

    def first_complete(self, rungs: int) -> tuple[int, int] | None:
        """Return wave and rung of what has all results, and no decision; None: nothing among the first ``rungs``."""
        return min((due for due in self._complete if due[1] < rungs), default=None)

    @property
    def all_finished(self) -> bool:
        """Whether every training that is asked for has finished."""
        return self.left == 0

    def rungs(self) -> list[int]:
        """Return the rungs of trainings that can start, highest first."""
        found, place = [], 0
        while place < len(self.turns):
            rung = -self.turns[place][0]
            found.append(rung)
            place = bisect_left(self.turns, (1 - rung, -1, ""), place)
        return found

    def _enter(self, training: Training) -> None:
        self._trainings[task_name(training.candidate.name, training.rung)] = training
        self._count(training, 1)
        self._update(training)

    def _count(self, training: Training, step: int) -> None:
        of = training.entered, training.rung
        self._unfinished[of] += step
        self.left += step
        if self._unfinished[of] or of in self._decisions:
            self._complete.discard(of)
        else:
            self._complete.add(of)

    def _update(self, training: Training) -> None:
        """Bring up to date what is known of one training."""
        name, rung, turn = training.candidate.name, training.rung, training.turn
        task = task_name(name, rung)
        done = finished(self.stage, name, rung)
        if done is not (task in self._finished):
            step = -1 if done else 1
            (self._finished.add if done else self._finished.discard)(task)
            self._count(training, step)
        place = bisect_left(self.turns, turn)
        listed = place < len(self.turns) and self.turns[place] == turn
        # The rung before may be being made again, after it was lost.
        starts = is_to_start(self.stage, task) and (rung == 0 or finished(self.stage, name, rung - 1))
        if starts and not listed:
            insort(self.turns, turn)
        elif listed and not starts:
            del self.turns[place]
