"""The waiting trainings of a search in order, updated with every event.

A search has up to a million trainings and many events per second. So this module keeps the facts that follow from the
whole state, and updates them from the changes since the last query: candidates that
were proposed or promoted, and tasks with a new status (`StageState.changed`). It contains no facts
that are not in the state.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gfm_pipeline.campaign.events import Candidate
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.engine.decisions.requests import is_to_start
from gfm_pipeline.engine.stages.trials import finished, task_name

Turn = tuple[int, int, str]  # negative rung, wave, candidate: the order in which trainings start


@dataclass(frozen=True)
class Training:
    """A training that the decisions so far require: a candidate to a rung; ``entered`` is the deciding wave."""

    candidate: Candidate
    rung: int
    entered: int

    @property
    def turn(self) -> Turn:
        """The position in the order: higher rungs first."""
        return -self.rung, self.entered, self.candidate.name


class Agenda:
    """The waiting trainings of one search.

    Parameters
    ----------
    stage
        State of the search, whose changes the agenda follows.
    """

    def __init__(self, stage: StageState) -> None:
        self.stage = stage
        self.turns: list[Turn] = []  # trainings that can start, most urgent first
        self._trainings: dict[str, Training] = {}  # by task
        self._finished: set[str] = set()
        self._unfinished: Counter[tuple[int, int]] = Counter()  # by entering wave and rung
        self.left = 0  # number of unfinished trainings
        # Waves, and a rung at which all of their trainings have finished and that has no decision.
        self._complete: set[tuple[int, int]] = set()
        self._waves = self._changes = 0  # processed so far
        self._decisions: set[tuple[int, int]] = set()
        self._candidates: dict[str, Candidate] = {}

    def update(self) -> None:
        """Process the changes."""
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
        """Return the number of unfinished trainings that ``wave`` brought to ``rung``."""
        return self._unfinished[wave, rung]

    def first_complete(self, rungs: int) -> tuple[int, int] | None:
        """Return wave and rung of the first decision with all results; None: none among the first ``rungs``."""
        return min((due for due in self._complete if due[1] < rungs), default=None)

    def unfinished_trainings(self) -> list[Training]:
        """Return the unfinished trainings."""
        return [training for task, training in self._trainings.items() if task not in self._finished]

    def outlook(self, most: Sequence[int]) -> tuple[int, ...]:
        """Return, for each rung, the largest number of candidates that still train to this rung and to no higher one.

        Promotions that the decisions to come can make are included.

        Parameters
        ----------
        most
            The largest number of candidates that can ever train to each rung.
        """
        unfinished, undecided, entered = Counter[int](), Counter[int](), Counter[int]()
        for (_, rung), count in self._unfinished.items():
            unfinished[rung] += count
        for training in self._trainings.values():
            entered[training.rung] += 1
            undecided[training.rung] += (training.entered, training.rung) not in self._decisions
        coming = [0]
        for rung, limit in enumerate(most[1:], start=1):
            coming.append(max(0, min(limit - entered[rung], undecided[rung - 1] + coming[-1])))
        train = [unfinished[rung] + coming[rung] for rung in range(len(most))]
        return tuple(max(0, n - go_on) for n, go_on in zip(train, [*coming[1:], 0], strict=True))

    @property
    def all_finished(self) -> bool:
        """Whether every required training has finished."""
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
        """Update the facts of one training."""
        name, rung, turn = training.candidate.name, training.rung, training.turn
        task = task_name(name, rung)
        done = finished(self.stage, name, rung)
        if done is not (task in self._finished):
            step = -1 if done else 1
            (self._finished.add if done else self._finished.discard)(task)
            self._count(training, step)
        place = bisect_left(self.turns, turn)
        listed = place < len(self.turns) and self.turns[place] == turn
        # The previous rung may be repeated after its loss.
        starts = is_to_start(self.stage, task) and (rung == 0 or finished(self.stage, name, rung - 1))
        if starts and not listed:
            insort(self.turns, turn)
        elif listed and not starts:
            del self.turns[place]
