"""What a potential is built from: plain numbers and names, so that it survives JSON and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gfm_pipeline.core.strenum import StrEnum


class ForceHead(StrEnum):
    """Where forces come from."""

    CONSERVATIVE = "conservative"  # minus the gradient of the energy
    DIRECT = "direct"  # an equivariant node head


@dataclass(frozen=True)
class ModelSpec:
    """Everything `Potential` needs; all fields are JSON-able.

    Parameters
    ----------
    algorithm
        Key of the message passing registry.
    hidden, layers
        Channels a node and number of message passing layers.
    cutoff
        Largest distance of a message, in Angstrom.
    n_radial
        Number of radial basis functions.
    options
        The algorithm's own hyperparameters; missing ones take the algorithm's defaults.
    n_datasets
        Number of branches of the readout.
    avg_neighbours
        Mean number of neighbours an atom has in the training data; sums are divided by its square root.
    avg_log_degree
        Mean of log(1 + number of neighbours), the degree unit of PNA.
    force_rms
        Force unit of the readout in eV/Angstrom: E = force_rms * (1 Angstrom) * sum of node outputs.
    """

    algorithm: str
    hidden: int
    layers: int
    cutoff: float
    n_radial: int = 8
    force_head: ForceHead = ForceHead.CONSERVATIVE
    options: dict[str, Any] = field(default_factory=dict)
    n_datasets: int = 1
    avg_neighbours: float = 12.0
    avg_log_degree: float = 2.5
    force_rms: float = 1.0
