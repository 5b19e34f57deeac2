"""Simulations in torch-sim with a calibrated ensemble: many systems at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor
from torch_sim.models.interface import ModelInterface

from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.deploy.batches import info_of
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.contracts.targets import Level
from gfm_pipeline.core.errors import ModelError


class GFMTorchSimModel(ModelInterface):  # type: ignore[misc]  # torch-sim is not seen by mypy
    """The weighted mean of an ensemble as a model of torch-sim.

    Besides ``energy`` [S], ``forces`` [N, 3] and ``stress`` [S, 3, 3] (NaN of systems that are not periodic in all
    directions) it gives every result of `Predictor.predict` that is a number, of systems [S, ...] or atoms [N, ...]:
    ``energy_std``, ``energy_interval``, ``forces_std``, ``distance``, and so on.

    Parameters
    ----------
    model
        A loaded ensemble, a file that was exported, the folder of an ensemble, or a campaign.
    dataset
        As of `Predictor`.
    dtype, device
        Of the results, and of the computation: torch.float64 or torch.float32.
    compute_stress
        Whether the stress is computed.
    attributes
        Graph attributes of every system by name, e.g. ``{"charge": 1}``.

    Raises
    ------
    ModelError
        For a model without energies and forces, or as `Predictor`.
    """

    def __init__(
        self,
        model: Ensemble | Path | str,
        dataset: str | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        compute_stress: bool = True,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        ensemble = open_ensemble(model) if isinstance(model, (str, Path)) else model
        kind = str(dtype).removeprefix("torch.")
        self.predictor = Predictor(ensemble, dataset, dtype=kind, device=str(device))
        if not {"energy", "forces"} <= self.predictor.levels.keys():
            raise ModelError("The model predicts no energies and forces.", "Give a model that does.")
        self._info = info_of(attributes, self.predictor.attributes)
        self._dtype, self._device = dtype, torch.device(device)
        self._compute_stress, self._compute_forces = compute_stress, True

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Return energies, forces, and what else the ensemble says of a ``SimState`` of torch-sim.

        Raises
        ------
        ModelError
            For a system that has no answer, as `Predictor.check`.
        """
        systems = _systems(state, self._info)
        found = self.predictor.predict(systems, stress=self._compute_stress)
        levels = self.predictor.levels | ({"stress": Level.GRAPH} if self._compute_stress else {})
        results = {}
        for name, level in levels.items():
            if all(name in one for one in found):
                join = np.stack if level is Level.GRAPH else np.concatenate
                results[name] = self._tensor(join([np.asarray(one[name]) for one in found]))
        return results

    def _tensor(self, values: Any) -> Tensor:
        kind = torch.bool if values.dtype == bool else self._dtype
        return torch.as_tensor(values, dtype=kind, device=self._device)


def _systems(state: Any, info: Mapping[str, Any]) -> list[Atoms]:
    """Return the systems of a state, each with this ``info``; its cells have lattice vectors as columns."""

    def of(name: str) -> Any:
        return state[name] if isinstance(state, dict) else getattr(state, name)

    names = ("atomic_numbers", "positions", "system_idx", "cell")
    numbers, positions, system, cells = (of(name).detach().cpu().numpy() for name in names)
    pbc = np.broadcast_to(torch.as_tensor(of("pbc")).cpu().numpy(), (3,))
    ends = np.cumsum(np.bincount(system, minlength=len(cells)))[:-1]
    parts = zip(np.split(numbers, ends), np.split(positions, ends), cells, strict=True)
    return [Atoms(numbers=z, positions=x, cell=cell.T, pbc=pbc, info=dict(info)) for z, x, cell in parts]
