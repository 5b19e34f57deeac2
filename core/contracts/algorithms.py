"""The message passing algorithms there are: those that come along, and those that other installed packages add.

A package adds an algorithm by an entry point of the group ``gfm_pipeline.algorithms``, whose name is the one users
write in ``search.space.algorithm`` and whose value names an `AlgorithmDescription`. The engine imports the module it is
in, so that module should not import torch; the class itself is imported where models are built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gfm_pipeline.core.contracts.extensions import Extensions
from gfm_pipeline.core.contracts.hyperparameters import Hyperparameter, Kind, complete, find
from gfm_pipeline.core.contracts.training import ForceHead

ENTRY_POINTS = "gfm_pipeline.algorithms"
PREFIX = "options."  # of an algorithm's own hyperparameters in a search space and in a candidate
_MODELS = "gfm_pipeline.models"


@dataclass(frozen=True)
class AlgorithmDescription:
    """What is known of an algorithm without importing it.

    Parameters
    ----------
    module
        ``module:class``, a subclass of `gfm_pipeline.models.registry.MessagePassing`.
    summary
        What it is, in one line.
    paper
        Where it was published.
    options
        Its own hyperparameters.
    vectors
        Whether it returns vectors [atoms, 3, channels] beside scalars, which a direct force head then reads. An
        algorithm without gets vectors from a layer of edge directions after it.
    force_heads
        The force heads it can serve.
    """

    module: str
    summary: str
    paper: str
    options: tuple[Hyperparameter, ...] = ()
    vectors: bool = False
    force_heads: tuple[ForceHead, ...] = tuple(ForceHead)

    def option(self, algorithm: str, name: str) -> Hyperparameter:
        """Return an option by name.

        Raises
        ------
        Refused
            When there is none of that name.
        """
        return find(self.options, algorithm, name)

    def complete(self, algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of every option: the given one, checked, or the default.

        Raises
        ------
        Refused
            When a name is unknown, or a value is of the wrong type or out of bounds.
        """
        return complete(self.options, algorithm, given)


BUILT_IN: dict[str, AlgorithmDescription] = {
    "SchNet": AlgorithmDescription(
        f"{_MODELS}.schnet:SchNet",
        "continuous-filter convolutions",
        "Schuett et al., J. Chem. Phys. 148, 241722 (2018)",
        (
            Hyperparameter(
                "filter_hidden",
                Kind.WHOLE,
                0,
                "Width of the two-layer filter network; 0: filters are linear in the radial basis.",
                low=0,
                high=16384,
            ),
        ),
    ),
    "EGNN": AlgorithmDescription(
        f"{_MODELS}.egnn:EGNN",
        "messages from both end points and the distance, with vector channels",
        "Satorras, Hoogeboom, Welling, ICML (2021)",
        (
            Hyperparameter(
                "vector_channels", Kind.WHOLE, 8, "Velocities of a node, whose lengths feed scalars.", low=1, high=16384
            ),
        ),
    ),
    "PaiNN": AlgorithmDescription(
        f"{_MODELS}.painn:PaiNN",
        "equivariant messages with scalar and vector features",
        "Schuett, Unke, Gastegger, ICML (2021)",
        vectors=True,
    ),
    "PNA": AlgorithmDescription(
        f"{_MODELS}.pna:PNA",
        "several aggregators and degree scalers, made smooth",
        "Corso et al., NeurIPS (2020)",
        (
            Hyperparameter(
                "sharpness",
                Kind.REAL,
                4.0,
                "How near the smooth maximum and minimum come to the hard ones.",
                low=0,
                high=30,
                open_low=True,
            ),
        ),
    ),
}

ALGORITHMS = Extensions("algorithm", ENTRY_POINTS, AlgorithmDescription, BUILT_IN)
