"""What a potential is built from: plain numbers and names, so that it survives JSON and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.contracts.training import ForceHead, ModelSettings

__all__ = ["ForceHead", "ModelSpec"]


@dataclass(frozen=True)
class ModelSpec(ModelSettings):
    """Everything `Potential` needs: the settings of a model, and facts of its training data. All fields are JSON-able.

    Parameters
    ----------
    n_datasets
        Number of dataset heads of the readout.
    avg_neighbours
        Mean number of neighbours an atom has in the training data; sums are divided by its square root.
    avg_log_degree
        Mean of log(1 + number of neighbours), the degree unit of PNA.
    force_rms
        Force unit of the readout in eV/Angstrom: E = force_rms * (1 Angstrom) * sum of node outputs.
    """

    n_datasets: int = 1
    avg_neighbours: float = 12.0
    avg_log_degree: float = 2.5
    force_rms: float = 1.0
