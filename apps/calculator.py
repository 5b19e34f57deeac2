"""The ASE calculator of a calibrated ensemble: energies and forces with intervals that hold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from gfm_pipeline.apps.calibrate.ensemble import Ensemble, find_ensemble, load_ensemble
from gfm_pipeline.apps.deploy.batches import attribute_of
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.contracts.targets import ATTRIBUTES


class GFMCalculator(Calculator):  # type: ignore[misc]  # ASE is not typed
    """Weighted ensemble mean, spread and calibrated intervals, for any number of atoms and any periodicity.

    Besides the mean ``energy``, ``free_energy`` (eV) and ``forces`` [N, 3] (eV/Angstrom), ``results`` holds
    ``energy_std`` (eV) and ``forces_std`` [N, 3], the raw spread of the members, and ``energy_interval`` (eV, of
    the total energy) and ``forces_interval`` [N, 3], calibrated half-widths at the ensemble's level: the label lies
    within value +- interval with that probability, for structures like those of the dataset. ``energies`` [N] are the
    shares of the atoms in the energy.

    ``stress`` (six numbers in the order of Voigt, eV/Angstrom^3) is the derivative of the energy by a strain where ASE
    asks for it and all directions are periodic, so that cells relax and barostats work; how good it is was not measured
    where stress is not a target.

    Every other target of the models is there by its name, with ``NAME_std`` and, where it was calibrated,
    ``NAME_interval``; those that ASE knows (``dipole``, ``charges``, ``magmoms``) are ASE's results too.

    The energy interval was calibrated per atom, and how it depends on the number of atoms on the dataset's sizes. It
    is of the total energy: differences of two structures are known better than that.
    Where the dataset does not determine the reference energy of a composition, total energies of it carry the error of
    a guess: then ``energy_interval`` is infinite, ``results["warnings"]`` says so, and Python warns once. Energy
    differences at that composition, and forces, are not concerned.
    Each member has one weight, the same for energy and forces, so forces are minus the gradient of the energy if
    every member's are (``conservative``). Members without weight are not computed.

    Parameters
    ----------
    ensemble
        A loaded ensemble, a file that ``gfm-pipeline export`` wrote, the folder of an ensemble, or of a campaign: then
        its newest ensemble.
    dataset
        The dataset head: whose level of theory to predict. May be left out when there is one.
    dtype
        ``float64`` (smooth enough for tight relaxations) or ``float32``.
    device
        Where torch computes.
    on_out_of_domain
        What is done with a structure unlike the training data, whose ``in_domain`` is false: ``answer``, ``warn``
        (once), or ``refuse``, which raises ModelError.

    Raises
    ------
    ModelError
        For an unknown dataset or dtype, or when the dataset must be named.
    """

    implemented_properties: list[str]  # those of the ensemble's targets

    def __init__(
        self,
        ensemble: Ensemble | Path | str,
        dataset: str | None = None,
        *,
        dtype: str = "float64",
        device: str = "cpu",
        on_out_of_domain: str = "answer",
    ) -> None:
        super().__init__()
        self.ensemble = open_ensemble(ensemble) if isinstance(ensemble, (str, Path)) else ensemble
        self.predictor = Predictor(
            self.ensemble, dataset, dtype=dtype, device=device, on_out_of_domain=on_out_of_domain
        )
        self.dataset = self.predictor.dataset
        self.implemented_properties = list(dict.fromkeys((*self.predictor.levels, "stress")))
        self._warned: set[str] = set()

    @classmethod
    def from_campaign(cls, path: Path | str, dataset: str | None = None, **options: Any) -> GFMCalculator:
        """Load the newest published ensemble of a campaign; ``path`` may be an ensemble's folder too.

        Raises
        ------
        IntegrityError
            When there is none, or a file was changed after it was published.
        """
        return cls.from_ensemble(find_ensemble(Path(path)), dataset, **options)

    @classmethod
    def from_ensemble(cls, path: Path | str, dataset: str | None = None, **options: Any) -> GFMCalculator:
        """Load the ensemble in folder ``path``, every file checked against its manifest.

        Raises
        ------
        IntegrityError
            When it is not a published ensemble, or a file was changed.
        """
        return cls(load_ensemble(Path(path)), dataset, **options)

    @property
    def level(self) -> float:
        """Nominal coverage of the intervals."""
        return self.ensemble.calibration.level

    @property
    def conservative(self) -> bool:
        """Whether forces are exactly minus the gradient of the energy."""
        return self.predictor.conservative

    @property
    def weights(self) -> dict[str, float]:
        """Share of each member in the mean for this dataset, by name; they sum to one."""
        shares = self.ensemble.weights(self.dataset)
        return {name: float(w) for name, w in zip(self.ensemble.calibration.members, shares, strict=True)}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``; called by ASE.

        Raises
        ------
        ModelError
            Without atoms, or with elements the dataset does not hold.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        stressed = "stress" in properties and bool(np.all(self.atoms.pbc))
        (self.results,) = self.predictor.predict([self.atoms], stress=stressed)
        if "stress" in self.results:
            self.results["stress"] = full_3x3_to_voigt_6_stress(self.results["stress"])
        for sentence in self.results["warnings"]:
            if sentence not in self._warned:
                self._warned.add(sentence)
                warnings.warn(sentence, stacklevel=3)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, total charge and multiplicity included; called by ASE."""
        changed: list[str] = super().check_state(atoms, tol=tol)
        known = self.atoms
        if known is not None:
            changed += [name for name in ATTRIBUTES if attribute_of(known, name) != attribute_of(atoms, name)]
        return changed

    def predict(self, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
        """Return the results of several structures, computed together; as `Predictor.predict`."""
        return self.predictor.predict(structures)

    def energy_difference(self, first: Atoms, second: Atoms) -> dict[str, float]:
        """Return E1 - N1/N2 E2 with an interval of its own; as `Predictor.energy_difference`."""
        return self.predictor.energy_difference(first, second)
