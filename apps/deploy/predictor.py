"""Predictions of an ensemble for several structures at once: mean, spread and calibrated intervals of every target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import mean_and_spread
from gfm_pipeline.apps.calibrate.differences import composition, difference_interval
from gfm_pipeline.apps.calibrate.domain import pooled
from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.calibrate.uncertainty import MemberEvidence, UncertaintyMeasure, rigidity
from gfm_pipeline.apps.deploy.batches import Neighbours, batch_of, near_edges
from gfm_pipeline.apps.deploy.caveats import assumed_attributes, check_attributes, guessed_reference, unheard_attributes
from gfm_pipeline.apps.deploy.intervals import Distances, interval
from gfm_pipeline.apps.deploy.members import ENERGIES, MemberValues, WeightedMember, device_of, stacked
from gfm_pipeline.core.contracts.deploy import OutOfDomain
from gfm_pipeline.core.contracts.policies import UNCERTAINTIES, make_policy
from gfm_pipeline.core.contracts.properties.attributes import known_attributes
from gfm_pipeline.core.contracts.targets import ENERGY, OF_MEAN, STRESS, Level, Target
from gfm_pipeline.core.errors import ModelError

_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Predictor:
    """The weighted ensemble of one dataset head.

    Parameters
    ----------
    ensemble
        A loaded ensemble.
    dataset
        The dataset head, which determines the level of theory. Optional with a single head.
    dtype
        ``float64`` or ``float32``.
    device
        Device of torch.
    on_out_of_domain
        Action for structures unlike the training data: ``answer``, ``warn`` or ``refuse``.

    Raises
    ------
    ModelError
        For an unknown dataset or dtype, a missing device, a missing choice between several datasets, or ``refuse`` with
        an ensemble that cannot detect unfamiliar structures.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        dataset: str | None = None,
        *,
        dtype: str = "float64",
        device: str = "cpu",
        on_out_of_domain: str = OutOfDomain.ANSWER,
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
        self._dtype, self._device = _DTYPES[dtype], device_of(device)
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
        self._cards = [m.card for m in self._members]
        self._assumed = assumed_attributes(self._cards, chosen)
        self.attributes = known_attributes(self._cards[0].spec.attributes)
        self._cutoffs = sorted({m.card.spec.cutoff for m in self._members})
        names = [name for name, weight in zip(ensemble.calibration.members, weights, strict=True) if weight > 0.0]
        domains = [ensemble.domains.get((name, chosen)) for name in names]
        self._domains = [domain for domain in domains if domain is not None]
        self._domain = self._calibration.domain if len(self._domains) == len(names) else None
        self._on_out_of_domain = self._policy(on_out_of_domain)
        self._measure = make_policy(UNCERTAINTIES, ensemble.calibration.uncertainty, UncertaintyMeasure)

    def _policy(self, name: str) -> OutOfDomain:
        if name not in set(OutOfDomain):
            raise ModelError(f"on_out_of_domain is {name!r}.", f"Use one of: {', '.join(OutOfDomain)}.")
        if name != OutOfDomain.ANSWER and self._domain is None:
            raise ModelError(
                "The ensemble knows no distance to its training data, so it cannot tell what is unlike them.",
                "Calibrate it with this version, or leave on_out_of_domain out.",
            )
        return OutOfDomain(name)

    @property
    def members(self) -> tuple[WeightedMember, ...]:
        """The members that count, in the dtype and on the device of this predictor."""
        return tuple(map(WeightedMember, self._potentials, self._heads, map(float, self._weights)))

    @property
    def energy_references(self) -> dict[str, float]:
        """What is added to energies for each atom (eV), of the elements that have an answer."""
        return {symbol: self._references[ENERGY.name][symbol] for symbol in sorted(self._known)}

    @property
    def tells_domain(self) -> bool:
        """Whether results include if a structure is like the training data."""
        return self._domain is not None

    @property
    def outside(self) -> str:
        """The warning for a structure unlike the training data."""
        return (
            f"The structure is unlike the training data of {self.dataset} (`in_domain` is false), so its intervals "
            "carry no promise."
        )

    @property
    def conservative(self) -> bool:
        """Whether forces are exactly minus the gradient of the energy."""
        return all(m.card.model.force_head == "conservative" for m in self._members)

    @property
    def cutoff(self) -> float:
        """The largest cutoff of the members, Angstrom."""
        return self._cutoffs[-1]

    @property
    def level(self) -> float:
        """The nominal coverage of the intervals."""
        return self.ensemble.calibration.level

    @property
    def levels(self) -> dict[str, Level]:
        """The object that has one value, by name of a result."""
        suffixes = ("", "_std", "_interval")
        found = {f"{target.name}{suffix}": target.level for target in self.targets for suffix in suffixes}
        if "energy" in found:
            found |= {"free_energy": Level.GRAPH, ENERGIES.name: Level.ATOM, f"{ENERGIES.name}_std": Level.ATOM}
        if self._domain is not None:
            found |= {"distance": Level.GRAPH, "in_domain": Level.GRAPH, "distances": Level.ATOM}
        return found

    def check(self, atoms: Atoms) -> None:
        """Refuse a structure that cannot be predicted.

        Raises
        ------
        ModelError
            Without atoms, with numbers that are not finite, coinciding atoms, a cell without volume, elements outside
            the dataset, or without an attribute that the models need.
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
        check_attributes(atoms, self._cards, self.dataset)

    def predict(
        self,
        structures: Sequence[Atoms],
        *,
        stress: bool = False,
        features: bool = False,
        neighbours: Sequence[Neighbours] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the results of each structure, by name.

        Every target has its mean ``NAME``, its spread ``NAME_std`` and, if calibrated, the half-width
        ``NAME_interval``: a number, or an array [..., 3] or [N, ...] by rank and level. ``free_energy`` equals the
        energy, and ``energies`` [N] are the contributions of atoms, which sum to it. ``distances`` [N] are the
        distances of atoms to the training data, in units of the distance that structures like those of the dataset
        exceed with a stated probability (``DomainCalibration``). ``distance`` is the largest of them, or the mean in
        units of its own limit if that is more, and ``in_domain`` whether it is 1 or less. Beyond it, intervals are
        wider in proportion. With ``stress``, the results include ``stress`` [3, 3] (eV/Angstrom^3, positive under
        tension) even if it is not a target: the derivative of the energy with respect to strain, NaN without three
        periodic directions. With ``features``, ``features`` [H] are the scalar features of the first member after its
        last layer, averaged over the atoms. With ``neighbours``, the edges of each structure within the largest cutoff,
        ``by_edge`` [E, 3] is the derivative of the energy with respect to their vectors (eV/Angstrom). ``warnings`` are
        sentences. If they include that a reference energy is a guess, the energy's interval is infinite.

        Raises
        ------
        ModelError
            As `check`; for a structure unlike the training data if such structures are refused.
        """
        if not structures:
            return []
        targets = [*self.targets, *([STRESS] if stress and STRESS.name not in self._names else [])]
        if ENERGY.name in self._names:
            targets.append(ENERGIES)
        given = self._members_values(structures, targets, stress=stress, neighbours=neighbours)
        ends = np.cumsum([len(atoms) for atoms in structures])
        last = np.cumsum([len(edges.src) for edges in neighbours or ()])
        results = []
        for number, atoms in enumerate(structures):
            of_atoms = slice(ends[number] - len(atoms), ends[number])
            parts = [given.evidence(target, self._weights, number, of_atoms) for target in targets]
            results.append(self._result(atoms, parts, given.far(self._domain, of_atoms)))
            if features:
                results[-1]["features"] = given.features[number]
            if neighbours is not None and given.by_edge is not None:
                results[-1]["by_edge"] = given.by_edge[last[number] - len(neighbours[number].src) : last[number]]
            self._refuse(results[-1].get("distance", 0.0))
        return results

    def _refuse(self, distance: float) -> None:
        """Refuse a structure that is beyond the threshold, if requested."""
        if self._on_out_of_domain is OutOfDomain.REFUSE and distance > 1.0:
            raise ModelError(self.outside, f"It is {distance:.3g} times as far as the threshold.")

    def _members_values(
        self,
        structures: Sequence[Atoms],
        targets: Sequence[Target],
        *,
        stress: bool,
        neighbours: Sequence[Neighbours] | None = None,
    ) -> MemberValues:
        """Return the results of the members for structures."""
        for atoms in structures:
            self.check(atoms)
        near = {cutoff: near_edges(structures, neighbours, cutoff) for cutoff in self._cutoffs}
        batches = {
            cutoff: batch_of(structures, cutoff, self._dtype, self._device, self._assumed, self.attributes, edges)
            for cutoff, (edges, _) in near.items()
        }
        outputs, by_edge = [], np.zeros((0 if neighbours is None else sum(len(one.src) for one in neighbours), 3))
        for member, weighted in zip(self._members, self.members, strict=True):
            cutoff, rigid = member.card.spec.cutoff, self._measure.needs_rigidity
            edges = neighbours is not None
            outputs.append(weighted.run(batches[cutoff], stress=stress, edges=edges, last_layer=rigid))
            if outputs[-1].by_edge is not None:
                by_edge[near[cutoff][1]] += weighted.weight * outputs[-1].by_edge
        values = stacked([one.values for one in outputs], targets)
        spreads = [one.spreads for one in outputs]
        within = stacked(spreads, [t for t in targets if all(t.name in one for one in spreads)])
        numbers, natoms = np.concatenate([a.numbers for a in structures]), np.array([len(a) for a in structures])
        features = [x for one in outputs for x in one.features]
        averaged = pooled(features[0], natoms) if features else np.zeros((len(natoms), 0))
        given = MemberValues(values, averaged, within=within, by_edge=None if neighbours is None else by_edge)
        if self._domain is None:
            return given
        white = [d.whitened(numbers, x) for d, x in zip(self._domains, features, strict=True)]
        distances = self._weights @ np.stack([np.linalg.norm(x, axis=1) for x in white])
        both = zip(self._domains, (x for one in outputs for x in one.inputs), strict=False)  # only if needed
        rigid_ones = [rigidity(d.rigidity, pooled(x, natoms)) for d, x in both if d.rigidity is not None]
        complete = self._measure.needs_rigidity and len(rigid_ones) == len(self._weights)
        known = np.stack(rigid_ones) if complete else None
        whole = tuple(pooled(x, natoms) for x in white)
        return replace(given, distances=distances, pooled=whole, rigidity=known)

    def energy_difference(self, first: Atoms, second: Atoms) -> dict[str, float]:
        """Return E1 - N1/N2 E2 of two structures of proportional compositions, eV, e.g. a vacancy and its crystal.

        The result holds ``energy_difference``, its spread ``energy_difference_std`` and, if calibrated, the half-width
        ``energy_difference_interval``. This is not the sum of two half-widths, because errors common to both structures
        cancel.

        Raises
        ------
        ModelError
            As `predict`; for compositions that are not proportional, or a model without energies.
        """
        if composition(first.numbers) != composition(second.numbers) or "energy" not in self._names:
            raise ModelError(
                f"There is no difference of the energies of {first.get_chemical_formula()} and "
                f"{second.get_chemical_formula()}.",
                "Give structures of proportional compositions, and a model of energies.",
            )
        given = self._members_values([first, second], [t for t in self.targets if t.name == "energy"], stress=False)
        apart = given.apart(self._weights)
        both = (given.far(self._domain, of_atoms) for of_atoms in (slice(len(first)), slice(len(first), None)))
        outside = max((far.structure for far in both if far is not None), default=0.0)
        self._refuse(outside)
        per_atom = given.values["energy"] / np.array([len(first), len(second)])
        mean, spread = (float(x) for x in mean_and_spread(per_atom[:, 0] - per_atom[:, 1], self._weights))
        size = len(first)
        result = {"energy_difference": size * mean, "energy_difference_std": size * spread}
        calibration = self._calibration.difference
        if calibration is not None:
            result["energy_difference_interval"] = difference_interval(calibration, spread, mean, size, apart, outside)
        return result

    def _result(
        self,
        atoms: Atoms,
        parts: Sequence[MemberEvidence],
        distances: Distances | None,
    ) -> dict[str, Any]:
        """Return the results of one structure from the values of the members."""
        guess = guessed_reference(atoms, self._calibration.elements, self._undetermined, self.dataset)
        unheard = unheard_attributes(atoms, [member.card for member in self._members], self.dataset)
        sentences = (*(() if guess is None else (guess,)), *unheard)
        result: dict[str, Any] = {"warnings": sentences}
        for evidence in parts:
            target = evidence.target
            mean, _ = mean_and_spread(evidence.members, self._weights)
            spread = self._measure.spread(evidence)
            entries = {target.name: mean + self.reference(target, atoms), f"{target.name}_std": spread}
            calibration = self._calibration.of(target.name)
            if calibration is not None:
                finite = interval(calibration, target, atoms, (mean, spread), distances)
                unknown = guess is not None and target.name == "energy"
                entries[f"{target.name}_interval"] = np.full_like(finite, math.inf) if unknown else finite
            result |= {key: value if np.ndim(value) else float(value) for key, value in entries.items()}
        if "energy" in result:
            result["free_energy"] = result["energy"]
        if distances is not None:
            far = distances.structure
            result |= {"distance": far, "in_domain": far <= 1.0, "distances": distances.atoms}
            if far > 1.0 and self._on_out_of_domain is OutOfDomain.WARN:
                result["warnings"] = (*sentences, self.outside)
        return result

    def reference(self, target: Target, atoms: Atoms) -> NDArray[np.float64] | float:
        """Return the reference to add to predictions of a target, per structure or per atom."""
        reference = self._references.get(ENERGY.name if target is ENERGIES else target.name)
        if not reference:
            return 0.0
        if OF_MEAN in reference:
            return reference[OF_MEAN]
        of_atoms = np.array([reference[symbol] for symbol in atoms.symbols])
        return of_atoms if target.level is Level.ATOM else float(of_atoms.sum())
