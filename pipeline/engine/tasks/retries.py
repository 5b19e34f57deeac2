"""The action after an attempt: a table of causes, and a pure function of cause and history.

Failures count from the last progress of the task (increase of `Attempt.saved`): a training that is hit once a day
for weeks and progresses each time never runs out of attempts, but a training without progress soon does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfm_pipeline.campaign.events import Action, Cause
from gfm_pipeline.campaign.stage_state import Attempt

TOTAL_LIMIT = 8  # counted attempts without progress, of all causes
FIRST_DELAY = 2.0
LONGEST_DELAY = 60.0


@dataclass(frozen=True)
class Rule:
    """``action`` follows up to ``limit`` attempts with this cause without progress; None: no limit and no count."""

    action: Action
    limit: int | None


RULES: dict[Cause, Rule] = {
    Cause.FINISHED: Rule(Action.ACCEPT, None),
    Cause.DIVERGED: Rule(Action.ACCEPT, None),  # a result: a failure for DeepHyper
    Cause.STOPPED: Rule(Action.CONTINUE, None),
    Cause.DRIVER_LOST: Rule(Action.CONTINUE, None),
    Cause.LAUNCHER_LOST: Rule(Action.CONTINUE, None),  # the driver limits the restarts of Parsl
    Cause.BLOCK_LOST: Rule(Action.CONTINUE, None),  # the driver limits the number of blocks without a result
    Cause.STORAGE: Rule(Action.PAUSE, None),
    Cause.WALL_TIME: Rule(Action.CONTINUE, 1),
    Cause.OUT_OF_MEMORY: Rule(Action.SHRINK, TOTAL_LIMIT),
    Cause.WORKER_LOST: Rule(Action.RETRY, 5),
    Cause.NODE_FAILURE: Rule(Action.RETRY, 5),
    Cause.KILLED: Rule(Action.RETRY, 5),
    Cause.SILENT: Rule(Action.RETRY, 2),
    Cause.TROUBLE: Rule(Action.RETRY, 3),
    Cause.USER_ERROR: Rule(Action.GIVE_UP, 0),
    Cause.PROGRAM_ERROR: Rule(Action.GIVE_UP, 0),
    Cause.CHAOS: Rule(Action.CONTINUE, None),
}


def _since_progress(history: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts after the last progress."""
    furthest, start = float("-inf"), 0
    for number, attempt in enumerate(history):
        if attempt.saved is not None and attempt.saved > furthest:
            furthest, start = attempt.saved, number + 1
    return list(history[start:])


def _furthest(history: Sequence[Attempt]) -> float:
    return max((a.saved for a in history if a.saved is not None), default=float("-inf"))


def next_action(
    cause: Cause, history: Sequence[Attempt], saved: float | None = None, *, can_shrink: bool = False
) -> Action:
    """Return the action after an attempt that ended for ``cause``.

    Parameters
    ----------
    cause, saved
        Of the attempt that just ended; ``saved`` is the progress from which the next attempt can continue.
    history
        The attempts before it, oldest first.
    can_shrink
        Whether the task can run with a smaller micro-batch than it had.
    """
    rule = RULES[cause]
    if rule.limit is None:
        return rule.action
    action = rule.action
    limit = rule.limit
    if action is Action.SHRINK and not can_shrink:
        action, limit = Action.RETRY, 2  # fewer tasks may run at the same time then
    if saved is not None and saved > _furthest(history):
        return action
    counted = [a for a in _since_progress(history) if a.cause is not None and RULES[a.cause].limit is not None]
    same = 1 + sum(a.cause is cause for a in counted)
    if same > limit or 1 + len(counted) > TOTAL_LIMIT:
        return Action.GIVE_UP
    return action


def micro_batch(batch_size: int, history: Sequence[Attempt]) -> int | None:
    """Return the micro-batch of the next attempt: halved once per lack of memory; None: the whole batch."""
    times = sum(a.cause is Cause.OUT_OF_MEMORY for a in history)
    return max(1, batch_size >> times) if times else None


def delay(history: Sequence[Attempt]) -> float:
    """Return the seconds to wait before the next attempt: none after the first failure, then doubling."""
    counted = [a for a in _since_progress(history) if a.cause is not None and RULES[a.cause].action is Action.RETRY]
    return 0.0 if len(counted) < 2 else float(min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (len(counted) - 2)))
