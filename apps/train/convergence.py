"""Convergence criteria of trainings at constant rate: the interface, and the built-in criteria."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from gfm_pipeline.core.contracts.policies import CRITERIA, PolicyChoice, make_policy
from gfm_pipeline.core.contracts.training import Convergence
from gfm_pipeline.core.strenum import StrEnum


class TrainingStatus(StrEnum):
    """The result of a convergence criterion."""

    IMPROVING = "improving"
    PLATEAU = "plateau"
    LIMIT = "limit"


class ConvergenceCriterion(ABC):
    """Decides whether a training at constant rate has converged; a pure function of its validations."""

    @abstractmethod
    def converged(self, history: Sequence[tuple[int, float]], rule: Convergence) -> bool:
        """Return whether training should anneal and end.

        Parameters
        ----------
        history
            (graphs seen, objective) of the checks so far, oldest first.
        rule
            The section ``converge`` of the workflow.
        """

    @abstractmethod
    def reason(self, rule: Convergence) -> str:
        """Return the criterion as a clause of a sentence: ``The objective improved by less than ...``."""


class Plateau(ConvergenceCriterion):
    """The best of the last ``patience`` checks is not lower than the best before them by ``min_delta`` (relative)."""

    def converged(self, history: Sequence[tuple[int, float]], rule: Convergence) -> bool:
        """Compare the best objective of the last checks with the best before them."""
        objectives = [objective for _, objective in history]
        if len(objectives) <= rule.patience:
            return False
        before = min(objectives[: -rule.patience])
        recent = min(objectives[-rule.patience :])
        return recent > before * (1.0 - rule.min_delta)

    def reason(self, rule: Convergence) -> str:
        """Return the small improvement of the objective and the number of graphs, as a clause."""
        return (
            f"The objective improved by less than {rule.min_delta:.2%} over {rule.patience} checks of "
            f"{rule.check_every} graphs"
        )


class Limit(ConvergenceCriterion):
    """No training converges before ``max_graphs``: members of equal length, to compare others with."""

    def converged(self, history: Sequence[tuple[int, float]], rule: Convergence) -> bool:  # noqa: ARG002 - never
        """Return False."""
        return False

    def reason(self, rule: Convergence) -> str:
        """Return the limit."""
        return f"Reached {rule.max_graphs} graphs"


def criterion_of(rule: Convergence) -> ConvergenceCriterion:
    """Return the criterion that ``rule`` names.

    Raises
    ------
    ConfigError
        When the criterion is not installed.
    """
    choice = PolicyChoice(rule.criterion, rule.options)
    return make_policy(CRITERIA, choice, ConvergenceCriterion)


def judge(history: Sequence[tuple[int, float]], graphs: int, rule: Convergence) -> TrainingStatus:
    """Judge a run at constant learning rate.

    Parameters
    ----------
    history
        (graphs seen, objective) of the checks so far, oldest first.
    graphs
        Graphs seen in the model's life.
    rule
        The rule of convergence; a run that converges exactly at ``max_graphs`` counts as converged.
    """
    if criterion_of(rule).converged(history, rule):
        return TrainingStatus.PLATEAU
    return TrainingStatus.LIMIT if graphs >= rule.max_graphs else TrainingStatus.IMPROVING
