"""Predictions of an ensemble for several structures at once: mean, spread and calibrated intervals of every target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import mean_and_spread
from gfm_pipeline.apps.calibrate.domain import recorded_features
from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.dataset import neighbour_list
from gfm_pipeline.core.contracts.evaluation import QuantityCalibration
from gfm_pipeline.core.contracts.targets import ATTRIBUTE_NAMES, ATTRIBUTES, OF_MEAN, STRESS, Level, Target
from gfm_pipeline.core.errors import DataError, ModelError
from gfm_pipeline.models.batch import Batch

COINCIDENT = 1e-3  # Angstrom: atoms closer than this are one atom given twice
_DETERMINED = 1e-6  # share of a composition that rounding may leave in undetermined directions
_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Predictor:
    """The weighted ensemble of one dataset head.

    Parameters
    ----------
    ensemble
        A loaded ensemble.
    dataset
        The dataset head: whose level of theory to predict. May be left out when there is one.
    dtype
        ``float64`` or ``float32``.
    device
        Where torch computes.

    Raises
    ------
    ModelError
        For an unknown dataset or dtype, a device that is not there, or when the dataset must be named.
    """

    def __init__(
        self, ensemble: Ensemble, dataset: str | None = None, *, dtype: str = "float64", device: str = "cpu"
    ) -> None:
        heads = ensemble.members[0].datasets
        if dataset is None and len(heads) > 1:
            raise ModelError(
                f"The ensemble has {len(heads)} datasets: {', '.join(heads)}.", "Say which one to use: dataset=NAME."
            )
        chosen = heads[0] if dataset is None else dataset
        if chosen not in heads:
            raise ModelError(f"The ensemble has no dataset {chosen!r}.", f"Use one of: {', '.join(heads)}.")
        if dtype not in _DTYPES:
            raise ModelError(f"The dtype {dtype!r} is not known.", f"Use one of: {', '.join(_DTYPES)}.")
        self.ensemble, self.dataset = ensemble, chosen
        self.targets = ensemble.members[0].targets
        self._names = {target.name for target in self.targets}
        self._dtype, self._device = _DTYPES[dtype], _device(device)
        self._calibration = ensemble.calibration.datasets[chosen]
        self._references = ensemble.members[0].card.references_of(chosen)
        directions = np.array(self._calibration.undetermined, dtype=np.float64)
        self._undetermined = directions.reshape(-1, len(self._calibration.elements))
        self._known = set(self._calibration.elements) & set(ensemble.members[0].references[chosen])
        weights = ensemble.weights(chosen)
        self._members = [m for m, weight in zip(ensemble.members, weights, strict=True) if weight > 0.0]
        self._weights = weights[weights > 0.0]
        self._potentials = [deepcopy(m.potential).to(dtype=self._dtype, device=self._device) for m in self._members]
        self._heads = [m.datasets.index(chosen) for m in self._members]
        self._cutoffs = sorted({m.card.spec.cutoff for m in self._members})
        names = [name for name, weight in zip(ensemble.calibration.members, weights, strict=True) if weight > 0.0]
        domains = [ensemble.domains.get((name, chosen)) for name in names]
        self._domains = [domain for domain in domains if domain is not None]
        known = self._calibration.domain if len(self._domains) == len(names) else None
        self._threshold = None if known is None else known.threshold

    @property
    def conservative(self) -> bool:
        """Whether forces are exactly minus the gradient of the energy."""
        return all(m.card.model.force_head == "conservative" for m in self._members)

    @property
    def levels(self) -> dict[str, Level]:
        """What has one value of each result, by name."""
        suffixes = ("", "_std", "_interval")
        found = {f"{target.name}{suffix}": target.level for target in self.targets for suffix in suffixes}
        found |= {"free_energy": Level.GRAPH} if "energy" in found else {}
        if self._threshold is not None:
            found |= {"distance": Level.GRAPH, "in_domain": Level.GRAPH, "distances": Level.ATOM}
        return found

    def check(self, atoms: Atoms) -> None:
        """Refuse a structure that has no answer.

        Raises
        ------
        ModelError
            Without atoms, with numbers that are not finite, atoms at one place, a cell without volume, or elements
            that the dataset does not hold.
        """
        if len(atoms) == 0:
            raise ModelError("There are no atoms to calculate.")
        if unknown := [symbol for symbol in dict.fromkeys(atoms.symbols) if symbol not in self._known]:
            raise ModelError(
                f"The dataset {self.dataset} holds no {', '.join(unknown)}, so the ensemble cannot predict it.",
                f"It knows {', '.join(sorted(self._known))}.",
            )
        finite = np.isfinite(atoms.positions).all(1)
        if not finite.all():
            raise ModelError(f"The position of atom {int(np.argmin(finite))} is not finite.", "Correct the structure.")
        if not np.isfinite(atoms.cell.array).all():
            raise ModelError("The cell is not finite.", "Correct the structure.")

    def predict(self, structures: Sequence[Atoms], *, stress: bool = False) -> list[dict[str, Any]]:
        """Return the results of each structure, by name.

        Of every target there is its mean ``NAME``, its spread ``NAME_std`` and, where it was calibrated, the half-width
        ``NAME_interval``: a number, or an array [..., 3] or [N, ...] by rank and level. ``free_energy`` is the energy.
        ``distances`` [N] say how far each atom is from the training data, in units of the distance that structures like
        those of the dataset exceed with a stated probability (``DomainCalibration``); ``distance`` is the largest, and
        ``in_domain`` whether it is 1 or less. Beyond it, intervals are wider in proportion.
        With ``stress``, ``stress`` [3, 3] (eV/Angstrom^3, positive under tension) is given even if not a target:
        the derivative of the energy by a strain, NaN of what is not periodic in three directions.
        ``warnings`` are sentences: with the one that a reference energy is a guess, the energy's interval is infinite.

        Raises
        ------
        ModelError
            As `check`.
        """
        if not structures:
            return []
        for atoms in structures:
            self.check(atoms)
        batches = {cutoff: self._batch(structures, cutoff) for cutoff in self._cutoffs}
        found, features = [], []
        for member, potential, head in zip(self._members, self._potentials, self._heads, strict=True):
            with recorded_features(potential) as recorded:
                batch = _for_head(batches[member.card.spec.cutoff], head)
                found.append(potential(batch, stress=stress).values)
            features += recorded
        distances = self._distances(np.concatenate([atoms.numbers for atoms in structures]), features)
        targets = (*self.targets, STRESS) if stress and "stress" not in self._names else self.targets
        values = {t.name: np.stack([one[t.name].double().cpu().numpy() for one in found]) for t in targets}
        ends = np.cumsum([len(atoms) for atoms in structures])
        results = []
        for number, atoms in enumerate(structures):
            of_atoms = slice(ends[number] - len(atoms), ends[number])
            parts = {t: values[t.name][:, number if t.level is Level.GRAPH else of_atoms] for t in targets}
            results.append(self._result(atoms, parts, None if distances is None else distances[of_atoms]))
        return results

    def _distances(self, numbers: NDArray[Any], features: Sequence[NDArray[np.float64]]) -> NDArray[np.float64] | None:
        """Return how far each atom is from the training data [N], in units of the threshold; None where not known."""
        if self._threshold is None:
            return None
        found = [d.distance(numbers, x) for d, x in zip(self._domains, features, strict=True)]
        return np.asarray(self._weights @ np.stack(found) / self._threshold, dtype=np.float64)

    def _result(
        self, atoms: Atoms, parts: dict[Target, NDArray[np.float64]], distances: NDArray[np.float64] | None
    ) -> dict[str, Any]:
        """Return the results of one structure from the values of the members [K, ...]."""
        guess = self._guess(atoms)
        wider = 1.0 if distances is None else max(1.0, float(distances.max()))
        sentences = (*(() if guess is None else (guess,)), *self._unheard(atoms))
        result: dict[str, Any] = {"warnings": sentences}
        for target, members in parts.items():
            mean, spread = mean_and_spread(members, self._weights)
            entries = {target.name: mean + self._reference(target, atoms), f"{target.name}_std": spread}
            calibration = self._calibration.of(target.name)
            if calibration is not None:
                size = len(atoms) if target.per_atom else 1
                finite = wider * size * _halfwidth(calibration, spread / size)
                unknown = guess is not None and target.name == "energy"
                entries[f"{target.name}_interval"] = np.full_like(finite, math.inf) if unknown else finite
            result |= {key: value if np.ndim(value) else float(value) for key, value in entries.items()}
        if "energy" in result:
            result["free_energy"] = result["energy"]
        if distances is not None:
            farthest = float(distances.max())
            result |= {"distance": farthest, "in_domain": farthest <= 1.0, "distances": distances}
        return result

    def _reference(self, target: Target, atoms: Atoms) -> NDArray[np.float64] | float:
        """Return what is added to predictions of a target: the reference of the structure, or of each atom."""
        reference = self._references.get(target.name)
        if not reference:
            return 0.0
        if OF_MEAN in reference:
            return reference[OF_MEAN]
        of_atoms = np.array([reference[symbol] for symbol in atoms.symbols])
        return of_atoms if target.level is Level.ATOM else float(of_atoms.sum())

    def _guess(self, atoms: Atoms) -> str | None:
        """Return the warning that the reference energy of this composition is a guess, or None."""
        counted = np.array([np.count_nonzero(atoms.numbers == atomic_numbers[s]) for s in self._calibration.elements])
        share = float(np.linalg.norm(self._undetermined @ counted)) / float(np.linalg.norm(counted))
        if share < _DETERMINED:
            return None
        return (
            f"The dataset {self.dataset} does not determine the reference energy of {atoms.get_chemical_formula()}, "
            "whose composition is not a combination of the known ones: the total energy may be several eV off, and "
            "has no interval."
        )

    def _unheard(self, atoms: Atoms) -> Iterator[str]:
        """Yield a sentence for a total charge or multiplicity that the members were not told of, or not trained on."""
        cards = [member.card for member in self._members]
        for name in ATTRIBUTES:
            value = attribute_of(atoms, name)
            ranges = [card.attributes.get(self.dataset, {}).get(name, (0.0, 0.0)) for card in cards if card.attributes]
            if not value or not ranges:
                continue
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            conditioned = all(name in card.spec.condition_on.attributes for card in cards)
            if not low <= value <= high:
                held = f"{low:g}" if low == high else f"{low:g} to {high:g}"
                yield f"The dataset {self.dataset} has structures of {name} {held}, and this one has {value:g}."
            elif low != high and not conditioned:
                yield f"The models were not told of the {name} of structures: {value:g} is not in their energies."

    def _batch(self, structures: Sequence[Atoms], cutoff: float) -> Batch:
        ends: list[NDArray[np.int64]] = []
        shifts: list[NDArray[np.float64]] = []
        first = 0
        for atoms in structures:
            cell = np.asarray(atoms.cell.array, dtype=np.float64)
            try:
                src, dst, image = neighbour_list(atoms.positions, cell, atoms.pbc, cutoff)
            except DataError as error:
                raise ModelError(error.message, error.hint) from error
            shift = image @ cell
            distance = np.linalg.norm(atoms.positions[dst] - atoms.positions[src] + shift, axis=1)
            if len(distance) and distance.min() < COINCIDENT:
                pair = int(distance.argmin())
                raise ModelError(
                    f"Atoms {int(src[pair])} and {int(dst[pair])} are at one place.", "Remove one, or correct the cell."
                )
            ends.append(np.stack([src, dst]) + first)
            shifts.append(shift)
            first += len(atoms)
        natoms = np.array([len(atoms) for atoms in structures])
        both = np.concatenate(ends, axis=1)

        def tensor(values: NDArray[Any], dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.as_tensor(values, dtype=dtype, device=self._device)

        return Batch(
            z=tensor(np.concatenate([atoms.numbers for atoms in structures])),
            pos=tensor(np.concatenate([atoms.positions for atoms in structures]), self._dtype),
            edge_src=tensor(both[0]),
            edge_dst=tensor(both[1]),
            edge_shift=tensor(np.concatenate(shifts), self._dtype),
            graph=tensor(np.repeat(np.arange(len(natoms)), natoms)),
            natoms=tensor(natoms),
            dataset=tensor(np.zeros(len(natoms))),
            cell=tensor(np.stack([atoms.cell.array * atoms.pbc[:, None] for atoms in structures]), self._dtype),
            attributes={
                name: tensor(np.array([attribute_of(atoms, name) for atoms in structures]), self._dtype)
                for name in ATTRIBUTES
            },
        )


def attribute_of(atoms: Atoms, name: str) -> float:
    """Return the total charge or spin multiplicity that ``atoms.info`` states; 0 where it states none.

    Raises
    ------
    ModelError
        When it is not a finite number.
    """
    for key in ATTRIBUTE_NAMES[name]:
        if key in atoms.info:
            try:
                value = float(atoms.info[key])
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise ModelError(f"atoms.info[{key!r}] is {atoms.info[key]!r}, which is not a number.", "Correct it.")
            return value
    return 0.0


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"The device {name!r} is not there.", "Use cpu, or a torch built for the device.") from error
    return device


def _for_head(batch: Batch, head: int) -> Batch:
    return replace(batch, dataset=torch.full_like(batch.dataset, head))


def _halfwidth(calibration: QuantityCalibration, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = np.hypot(calibration.scale * spread, calibration.floor)
    return np.asarray(calibration.quantile * deviation, dtype=np.float64)
