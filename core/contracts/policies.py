"""Policies of a campaign that users may replace.

Policies decide when candidates stop, how to propose new ones, which candidates become members of the ensemble, when a
member has converged, and how to compute the raw uncertainty of predictions. A `PolicyDescription` declares each policy;
the login node reads it without importing the policy. A package adds a policy by an entry point of its group: users
write the name of the entry point, and its value names the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from gfm_pipeline.core.contracts.extensions import Extensions
from gfm_pipeline.core.contracts.hyperparameters import Hyperparameter, ValueKind, complete
from gfm_pipeline.core.errors import ConfigError

P = TypeVar("P")


@dataclass(frozen=True)
class PolicyDescription:
    """Facts about a policy, available without importing it.

    Parameters
    ----------
    target
        ``module:class``; the class takes the options by name.
    summary
        Its action in one line.
    paper
        Its publication.
    options
        Its settings.
    """

    target: str
    summary: str
    paper: str = ""
    options: tuple[Hyperparameter, ...] = ()

    def complete(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of every option: the given value, checked, or the default.

        Raises
        ------
        Refused
            When a name is unknown, or a value is of the wrong type or out of bounds.
        """
        return complete(self.options, name, given)


@dataclass(frozen=True)
class PolicyChoice:
    """A policy as a workflow names it: its name, and the value of every option."""

    name: str
    options: Mapping[str, Any]


_SEARCH, _TRAIN = "gfm_pipeline.search", "gfm_pipeline.apps.train"

STOPPING = Extensions(
    "stopping policy",
    "gfm_pipeline.stopping_policies",
    PolicyDescription,
    {
        "asha": PolicyDescription(
            f"{_SEARCH}.stopping:SuccessiveHalving",
            "one in `search.reduction` of all candidates that finished a rung trains on, the best ones",
            "Jamieson and Talwalkar, AISTATS (2016); Li et al., MLSys (2020)",
        ),
        "median": PolicyDescription(
            f"{_SEARCH}.curves:MedianStopping",
            "who is no worse than the median of all that finished the rung trains on",
            "Golovin et al., KDD (2017)",
        ),
        "fixed": PolicyDescription(
            f"{_SEARCH}.curves:FixedBudget",
            "the best one in `keep` after the first rung train to the last one",
            "Egele et al., arXiv:2404.04111 (2024)",
            options=(
                Hyperparameter("keep", ValueKind.REAL, 9.0, "One in so many goes on.", low=1, high=1e6, open_low=True),
            ),
        ),
        "extrapolation": PolicyDescription(
            f"{_SEARCH}.curves:ExtrapolatedCurves",
            "as asha, by what a power law through the rungs so far says of the last one",
        ),
        "gain": PolicyDescription(
            f"{_SEARCH}.curves:GainPerCost",
            "as asha, by what the next rung is expected to gain for the seconds it takes",
        ),
        "none": PolicyDescription(f"{_SEARCH}.stopping:NoStopping", "every candidate trains to the last rung"),
    },
)
_EXPLORATION = (
    Hyperparameter(
        "exploration",
        ValueKind.REAL,
        2.0,
        "Mean of the exploration weights, which are distributed exponentially.",
        low=0,
        open_low=True,
        high=100,
    ),
)
PROPOSALS = Extensions(
    "proposal method",
    "gfm_pipeline.proposal_methods",
    PolicyDescription,
    {
        "batch-ucb": PolicyDescription(
            f"{_SEARCH}.batch:BatchUCB",
            "Bayesian optimisation of batches of any width: every point of a batch has an exploration weight and a "
            "slice of the candidates of its own, on a quadratic trend and DeepHyper's extra trees",
            "Egele et al., arXiv:2207.00479 (2022)",
            options=_EXPLORATION,
        ),
        "batch-gp": PolicyDescription(
            f"{_SEARCH}.gaussian:BatchGP",
            "as batch-ucb, with a Gaussian process up to 256 results, and with less exploration after 1,024",
            "Egele et al., arXiv:2207.00479 (2022)",
            options=_EXPLORATION,
        ),
        "batch-local-gp": PolicyDescription(
            f"{_SEARCH}.gaussian:BatchLocalGP",
            "as batch-gp, with a Gaussian process of the best region, and with less exploration, beyond 256 results",
            "Egele et al., arXiv:2207.00479 (2022)",
            options=_EXPLORATION,
        ),
        "deephyper": PolicyDescription(
            f"{_SEARCH}.proposer:DeepHyperCBO",
            "Bayesian optimisation by DeepHyper, with extra trees and constant liars; 32 candidates at a time, the "
            "rest of a wave is sampled",
            "Egele et al., arXiv:2207.00479 (2022)",
        ),
        "random": PolicyDescription(f"{_SEARCH}.proposer:RandomSampling", "a stratified sample of the search space"),
    },
)
SELECTIONS = Extensions(
    "ensemble selection",
    "gfm_pipeline.selections",
    PolicyDescription,
    {
        "best": PolicyDescription(
            f"{_SEARCH}.selection:Best", "the best of the highest rung, with a cap on each algorithm"
        ),
        "greedy": PolicyDescription(
            f"{_SEARCH}.greedy:Greedy",
            "those that together have the largest calibrated likelihood on stored validation errors; who adds nothing "
            "is not trained on",
            "Caruana et al., ICML (2004)",
            options=(
                Hyperparameter("pool", ValueKind.WHOLE, 32, "Candidates that are considered.", low=1, high=10_000),
            ),
        ),
        "diverse": PolicyDescription(
            f"{_SEARCH}.selection:Diverse", "the algorithms in turn, of each the best of the highest rung"
        ),
    },
)
CRITERIA = Extensions(
    "convergence criterion",
    "gfm_pipeline.convergence_criteria",
    PolicyDescription,
    {
        "plateau": PolicyDescription(
            f"{_TRAIN}.convergence:Plateau",
            "the best of the last `converge.patience` validations improves by less than `converge.min_delta`",
        ),
        "limit": PolicyDescription(f"{_TRAIN}.convergence:Limit", "every member trains to `converge.max_graphs`"),
    },
)
UNCERTAINTIES = Extensions(
    "measure of uncertainty",
    "gfm_pipeline.uncertainties",
    PolicyDescription,
    {
        "ensemble": PolicyDescription(
            "gfm_pipeline.apps.calibrate.uncertainty:EnsembleSpread", "the standard deviation of the members"
        ),
        "llpr": PolicyDescription(
            "gfm_pipeline.apps.calibrate.uncertainty:LastLayerRigidity",
            "last-layer prediction rigidity of energies, which one member has (`converge.members: 1`); forces have the "
            "distance to the training data and their length",
            "Bigi et al., Mach. Learn.: Sci. Technol. 5, 045010 (2024)",
        ),
    },
)
ENSEMBLE = PolicyChoice("ensemble", {})

# The policies of a stage whose settings name none: those of the first version. A campaign that began with them keeps
# them, even if new campaigns have other defaults now.
UNSAID = {"stopping": "asha", "proposals": "deephyper", "selection": "best", "criterion": "plateau"}


def default_choice(group: Extensions[PolicyDescription], name: str) -> PolicyChoice:
    """Return a built-in policy with the defaults of its options."""
    return PolicyChoice(name, group.built_in[name].complete(name, {}))


def make_policy(group: Extensions[PolicyDescription], choice: PolicyChoice, base: type[P]) -> P:
    """Construct a policy.

    Raises
    ------
    ConfigError
        When no policy has that name, its module cannot be imported, or it is not a ``base``.
    """
    description = group.describe(choice.name)
    module, _, attribute = description.target.partition(":")
    whose = f"{group.what.capitalize()} {choice.name!r}"
    try:
        made = getattr(import_module(module), attribute)(**choice.options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{whose}: {description.target} cannot be used: {error}.", "Install what it needs, or correct it."
        ) from error
    if not isinstance(made, base):
        raise ConfigError(
            f"{whose}: {description.target} is not of type {base.__name__}.", "Let it inherit from that class."
        )
    return made
