"""When to stop training at constant rate: a pure function of the validation history."""

from __future__ import annotations

from collections.abc import Sequence

from gfm_pipeline.core.contracts.training import Convergence
from gfm_pipeline.core.strenum import StrEnum


class Verdict(StrEnum):
    """What the history says."""

    IMPROVING = "improving"
    PLATEAU = "plateau"
    LIMIT = "limit"


def judge(history: Sequence[tuple[int, float]], graphs: int, rule: Convergence) -> Verdict:
    """Judge a run at constant learning rate.

    Parameters
    ----------
    history
        (graphs seen, objective) of the checks so far, oldest first.
    graphs
        Graphs seen in the model's life.
    rule
        The best of the last ``patience`` checks must be lower than the best before them by ``min_delta``
        (relative), else it is a plateau; a plateau on reaching ``max_graphs`` is still a plateau.
    """
    objectives = [objective for _, objective in history]
    if len(objectives) > rule.patience:
        before = min(objectives[: -rule.patience])
        recent = min(objectives[-rule.patience :])
        if recent > before * (1.0 - rule.min_delta):
            return Verdict.PLATEAU
    return Verdict.LIMIT if graphs >= rule.max_graphs else Verdict.IMPROVING
