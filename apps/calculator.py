"""The ASE calculator of a calibrated ensemble: energies and forces with intervals that hold."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import mean_and_spread
from gfm_pipeline.apps.calibrate.ensemble import Ensemble, find_ensemble, load_ensemble
from gfm_pipeline.apps.dataset import neighbour_list
from gfm_pipeline.core.contracts.evaluation import QuantityCalibration
from gfm_pipeline.core.contracts.targets import OF_MEAN, Level, Target
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch

_DETERMINED = 1e-6  # share of a composition that rounding may leave in undetermined directions
_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class GFMCalculator(Calculator):  # type: ignore[misc]  # ASE is not typed
    """Weighted ensemble mean, spread and calibrated intervals, for any number of atoms and any periodicity.

    Besides the mean ``energy``, ``free_energy`` (eV) and ``forces`` [N, 3] (eV/Angstrom), ``results`` holds
    ``energy_std`` (eV) and ``forces_std`` [N, 3], the raw spread of the members, and ``energy_interval`` (eV, of
    the total energy) and ``forces_interval`` [N, 3], calibrated half-widths at the ensemble's level: the label lies
    within value +- interval with that probability, for structures like those of the dataset.

    Every other target of the models is there by its name, with ``NAME_std`` and, where it was calibrated,
    ``NAME_interval``; those that ASE knows (``dipole``, ``charges``, ``magmoms``) are ASE's results too.

    The energy interval was calibrated per atom on the dataset's sizes, and is scaled with the number of atoms.
    Where the dataset does not determine the reference energy of a composition, total energies of it carry the error of
    a guess: then ``energy_interval`` is infinite, ``results["warnings"]`` says so, and Python warns once. Energy
    differences at that composition, and forces, are not concerned.
    Each member has one weight, the same for energy and forces, so forces are minus the gradient of the energy if
    every member's are (``conservative``). Members without weight are not computed.

    Parameters
    ----------
    ensemble
        A loaded ensemble; `from_campaign` and `from_ensemble` take folders.
    dataset
        The dataset head: whose level of theory to predict. May be left out when there is one.
    dtype
        ``float64`` (smooth enough for tight relaxations) or ``float32``.
    device
        Where torch computes.

    Raises
    ------
    ModelError
        For an unknown dataset or dtype, or when the dataset must be named.
    """

    implemented_properties: list[str]  # those of the ensemble's targets

    def __init__(
        self, ensemble: Ensemble, dataset: str | None = None, *, dtype: str = "float64", device: str = "cpu"
    ) -> None:
        super().__init__()
        names = ensemble.members[0].datasets
        if dataset is None and len(names) > 1:
            raise ModelError(
                f"The ensemble has {len(names)} datasets: {', '.join(names)}.", "Say which one to use: dataset=NAME."
            )
        chosen = names[0] if dataset is None else dataset
        if chosen not in names:
            raise ModelError(f"The ensemble has no dataset {chosen!r}.", f"Use one of: {', '.join(names)}.")
        if dtype not in _DTYPES:
            raise ModelError(f"The dtype {dtype!r} is not known.", f"Use one of: {', '.join(_DTYPES)}.")
        self.ensemble = ensemble
        self.dataset = chosen
        self._dtype, self._device = _DTYPES[dtype], torch.device(device)
        self._calibration = ensemble.calibration.datasets[chosen]
        self._references = ensemble.members[0].card.references_of(chosen)
        directions = np.array(self._calibration.undetermined, dtype=np.float64)
        self._undetermined = directions.reshape(-1, len(self._calibration.elements))
        self._warned: set[str] = set()
        self._known = set(self._calibration.elements) & set(ensemble.members[0].references[chosen])
        weights = ensemble.weights(chosen)
        self._members = [m for m, weight in zip(ensemble.members, weights, strict=True) if weight > 0.0]
        self._weights = weights[weights > 0.0]
        self._potentials = [deepcopy(m.potential).to(dtype=self._dtype, device=self._device) for m in self._members]
        self._heads = [m.datasets.index(chosen) for m in self._members]
        self._cutoffs = sorted({m.card.spec.cutoff for m in self._members})
        self.targets = ensemble.members[0].targets
        self.implemented_properties = list(_properties(self.targets))

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
        return all(m.card.model.force_head == "conservative" for m in self._members)

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
        structure: Atoms = self.atoms
        self._check(structure)
        batches = {cutoff: self._batch(structure, cutoff) for cutoff in self._cutoffs}
        predictions = [
            potential(_for_head(batches[member.card.spec.cutoff], head)).values
            for member, potential, head in zip(self._members, self._potentials, self._heads, strict=True)
        ]
        warned = self._said_of_composition(structure)
        self.results: dict[str, Any] = {"warnings": warned}
        for target in self.targets:
            members = np.stack([values[target.name].double().cpu().numpy() for values in predictions])
            if target.level is Level.GRAPH:
                members = members[:, 0]
            self._add(target, members, structure, bool(warned))
        if "energy" in self.results:
            self.results["free_energy"] = self.results["energy"]

    def _add(self, target: Target, members: NDArray[np.float64], atoms: Atoms, guessed: bool) -> None:
        """Add mean, spread and interval of a target to ``results``, from the values of the members [K, ...]."""
        name, found = target.name, self._calibration.of(target.name)
        mean, spread = mean_and_spread(members, self._weights)
        mean = mean + self._reference(target, atoms)
        size = len(atoms) if target.per_atom else 1
        entries = {name: mean, f"{name}_std": spread}
        if found is not None:
            finite = size * _halfwidth(found, spread / size)
            entries[f"{name}_interval"] = np.full_like(finite, math.inf) if guessed and name == "energy" else finite
        self.results |= {key: value if np.ndim(value) else float(value) for key, value in entries.items()}

    def _reference(self, target: Target, atoms: Atoms) -> NDArray[np.float64] | float:
        """Return what is added to predictions of a target: the reference of the structure, or of each atom."""
        reference = self._references.get(target.name)
        if not reference:
            return 0.0
        if OF_MEAN in reference:
            return reference[OF_MEAN]
        of_atoms = np.array([reference[symbol] for symbol in atoms.symbols])
        return of_atoms if target.level is Level.ATOM else float(of_atoms.sum())

    def _check(self, atoms: Atoms) -> None:
        if len(atoms) == 0:
            raise ModelError("There are no atoms to calculate.")
        if unknown := [s for s in dict.fromkeys(atoms.symbols) if s not in self._known]:
            raise ModelError(
                f"The dataset {self.dataset} holds no {', '.join(unknown)}, so the ensemble cannot predict it.",
                f"It knows {', '.join(sorted(self._known))}.",
            )

    def _said_of_composition(self, atoms: Atoms) -> tuple[str, ...]:
        """Return the warning that the reference energy of this composition is a guess, and give it once."""
        counted = np.array([np.count_nonzero(atoms.numbers == atomic_numbers[s]) for s in self._calibration.elements])
        share = float(np.linalg.norm(self._undetermined @ counted)) / float(np.linalg.norm(counted))
        if share < _DETERMINED:
            return ()
        formula = atoms.get_chemical_formula()
        said = (
            f"The dataset {self.dataset} does not determine the reference energy of {formula}, whose composition is no "
            "combination of those it has: the total energy may be several eV off, and has no interval."
        )
        if formula not in self._warned:
            self._warned.add(formula)
            warnings.warn(said, stacklevel=4)
        return (said,)

    def _batch(self, atoms: Atoms, cutoff: float) -> Batch:
        cell = np.asarray(atoms.cell.array, dtype=np.float64)
        src, dst, image = neighbour_list(atoms.positions, cell, atoms.pbc, cutoff)

        def tensor(values: NDArray[Any], dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.as_tensor(values, dtype=dtype, device=self._device)

        return Batch(
            z=tensor(atoms.numbers),
            pos=tensor(atoms.positions, self._dtype),
            edge_src=tensor(src),
            edge_dst=tensor(dst),
            edge_shift=tensor(image @ cell, self._dtype),
            graph=tensor(np.zeros(len(atoms))),
            natoms=tensor(np.array([len(atoms)])),
            dataset=tensor(np.zeros(1)),
        )


def _properties(targets: Sequence[Target]) -> Iterator[str]:
    """Yield the names of results."""
    for target in targets:
        yield from (target.name, f"{target.name}_std", f"{target.name}_interval")
        if target.name == "energy":
            yield "free_energy"


def _for_head(batch: Batch, head: int) -> Batch:
    return replace(batch, dataset=torch.full_like(batch.dataset, head))


def _halfwidth(calibration: QuantityCalibration, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = np.hypot(calibration.scale * spread, calibration.floor)
    return np.asarray(calibration.quantile * deviation, dtype=np.float64)
