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

from gfm_pipeline.apps.calibrate.ensemble import Ensemble, load_ensemble
from gfm_pipeline.apps.deploy.batches import attribute_of
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.ensemble_files import find_ensemble


class GFMCalculator(Calculator):  # type: ignore[misc]  # ASE is not typed
    """Weighted ensemble mean, spread and calibrated intervals, for any number of atoms and any periodicity.

    Besides the mean ``energy``, ``free_energy`` (eV) and ``forces`` [N, 3] (eV/Angstrom), ``results`` holds
    ``energy_std`` (eV) and ``forces_std`` [N, 3], the raw spread of the members, and ``energy_interval`` (eV, of
    the total energy) and ``forces_interval`` [N, 3], calibrated half-widths at the ensemble's level: the label lies
    within value +- interval with that probability, for structures like those of the dataset. ``energies`` [N] are the
    shares of the atoms in the energy.

    ``stress`` (six numbers in the order of Voigt, eV/Angstrom^3) is the derivative of the energy by a strain where ASE
    asks for it and all directions are periodic, so that cells relax and barostats work; its accuracy is not measured
    unless stress is a target.

    ``results`` holds every other target of the models by its name, with ``NAME_std`` and, if calibrated,
    ``NAME_interval``. Targets that ASE knows (``dipole``, ``charges``, ``magmoms``) are also ASE's results.

    The energy interval is calibrated per atom. Its dependence on the number of atoms is calibrated on the sizes in the
    dataset. It applies to the total energy; differences between two structures are more certain. If the dataset does
    not determine the reference energy of a composition, its total energies carry the error of a guess. Then
    ``energy_interval`` is infinite, ``results["warnings"]`` contains a warning, and Python warns once. Energy
    differences at that composition, and forces, are not affected. Each member has one weight, the same for energy and
    forces, so forces are minus the gradient of the energy if every member's are (``conservative``). Members without
    weight are not computed.

    Parameters
    ----------
    ensemble
        A loaded ensemble, a file from ``gfm-pipeline export``, the folder of an ensemble, or the folder of a campaign
        (its newest ensemble).
    dataset
        The dataset head, which determines the level of theory. Optional with a single head.
    dtype
        ``float64`` (smooth enough for tight relaxations) or ``float32``.
    device
        Device of torch.
    on_out_of_domain
        Action for a structure unlike the training data, whose ``in_domain`` is false: ``answer``, ``warn`` (once), or
        ``refuse``, which raises ModelError.

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
        """Load the newest published ensemble of a campaign; ``path`` may also be the folder of an ensemble.

        Raises
        ------
        IntegrityError
            When there is no ensemble, or a file changed after publication.
        """
        return cls.from_ensemble(find_ensemble(Path(path)), dataset, **options)

    @classmethod
    def from_ensemble(cls, path: Path | str, dataset: str | None = None, **options: Any) -> GFMCalculator:
        """Load the ensemble in folder ``path`` and check every file against the manifest.

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
        """Fill ``results``; ASE calls this.

        Raises
        ------
        ModelError
            Without atoms, or with elements outside the dataset.
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
        """Return the changes since the last calculation, including graph attributes; ASE calls this."""
        changed: list[str] = super().check_state(atoms, tol=tol)
        known = self.atoms
        if known is not None:
            inputs = self.predictor.attributes
            changed += [one.name for one in inputs if attribute_of(known, one) != attribute_of(atoms, one)]
        return changed

    def predict(self, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
        """Return the results of several structures, computed together, as `Predictor.predict` does."""
        return self.predictor.predict(structures)

    def energy_difference(self, first: Atoms, second: Atoms) -> dict[str, float]:
        """Return E1 - N1/N2 E2 with its own interval, as `Predictor.energy_difference` does."""
        return self.predictor.energy_difference(first, second)
