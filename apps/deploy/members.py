"""The members of an ensemble, and what they give for a batch of structures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfm_pipeline.apps.calibrate.differences import separation
from gfm_pipeline.apps.calibrate.domain import recorded_features
from gfm_pipeline.apps.calibrate.uncertainty import MemberEvidence, recorded_last_layer
from gfm_pipeline.apps.deploy.intervals import Distances
from gfm_pipeline.core.contracts.evaluation import DomainCalibration
from gfm_pipeline.core.contracts.targets import ENERGY, Level, Target
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import Potential
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.potential import part_name

ENERGIES = replace(ENERGY, name="energies", level=Level.ATOM)  # the contributions of atoms to the energy


@dataclass(frozen=True)
class WeightedMember:
    """A model of an ensemble, its head of the dataset, and its share in the mean."""

    potential: Potential
    head: int
    weight: float

    def run(self, batch: Batch, *, stress: bool, edges: bool, last_layer: bool) -> MemberOutput:
        """Predict a batch, with the derivatives by ``edges`` and the inputs of the ``last_layer`` if requested."""
        potential = self.potential
        with (
            recorded_features(potential) as features,
            _last_layer(potential, wanted=last_layer) as inputs,
            _recorded_atomic_energies(potential) as energies,
        ):
            of_head = replace(batch, dataset=torch.full_like(batch.dataset, self.head))
            found = potential(of_head, stress=stress, spreads=True, edges=edges)
        values = {**found.values, **dict(zip([ENERGIES.name], energies, strict=False))}
        by_edge = None if found.by_edge is None else found.by_edge.double().cpu().numpy()
        return MemberOutput(values, found.spreads, features, inputs, by_edge)


@dataclass(frozen=True)
class MemberOutput:
    """What one member gives for a batch.

    Attributes
    ----------
    values, spreads
        By target, without references; the spreads are those of a shallow ensemble.
    features
        Scalar features [N, H] of the atoms; empty for a model that gives energies only.
    inputs
        Inputs of the last layer of energies [N, H], if requested.
    by_edge
        Derivative of the energy with respect to the vectors of the edges [E, 3], if requested, eV/Angstrom.
    """

    values: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor]
    features: Sequence[NDArray[np.float64]]
    inputs: Sequence[NDArray[np.float64]]
    by_edge: NDArray[np.float64] | None


@dataclass(frozen=True)
class MemberValues:
    """Results of K members for structures.

    Attributes
    ----------
    values
        By target, without references [K, G, ...] or [K, N, ...].
    features
        Mean features of structures [G, H] of the first member.
    distances
        Distance of each atom to the training data [N]; None when not known.
    pooled
        Mean features of structures [G, H] of each member.
    rigidity
        Rigidity of the last layer of energies per structure [K, G], if the measure of uncertainty needs it.
    within
        Spread of shallow ensembles [K, G, ...] or [K, N, ...], of the targets for which every member has one.
    by_edge
        Mean derivative of the energies with respect to the vectors of all edges [E, 3], if requested, eV/Angstrom.
    """

    values: Mapping[str, NDArray[np.float64]]
    features: NDArray[np.float64]
    distances: NDArray[np.float64] | None = None
    pooled: tuple[NDArray[np.float64], ...] = ()
    rigidity: NDArray[np.float64] | None = None
    within: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    by_edge: NDArray[np.float64] | None = None

    def evidence(self, target: Target, weights: NDArray[np.float64], number: int, of_atoms: slice) -> MemberEvidence:
        """Return what the members give for a target of one structure, by its number and its atoms."""
        row = of_atoms if target.level is Level.ATOM else number
        size = of_atoms.stop - of_atoms.start if target.per_atom else 1
        rigid = None if self.rigidity is None or target.level is Level.ATOM else size * self.rigidity[:, number]
        within = self.within[target.name][:, row] if target.name in self.within else None
        return MemberEvidence(target, self.values[target.name][:, row], weights, rigid, within)

    def far(self, domain: DomainCalibration | None, of_atoms: slice) -> Distances | None:
        """Return the distances of the structure with some of the atoms; None when not known."""
        return None if domain is None or self.distances is None else Distances.of(domain, self.distances[of_atoms])

    def apart(self, weights: NDArray[np.float64]) -> float | None:
        """Return the distance between two structures; None when not known."""
        if self.distances is None:
            return None
        first = np.zeros(1, dtype=np.int64)
        return float(separation(self.pooled, weights, first, first + 1)[0])


def stacked(found: Sequence[Mapping[str, Tensor]], targets: Sequence[Target]) -> dict[str, NDArray[np.float64]]:
    """Return the values of K members by target [K, ...]."""
    return {t.name: np.stack([one[t.name].double().cpu().numpy() for one in found]) for t in targets}


def _last_layer(potential: Potential, *, wanted: bool) -> AbstractContextManager[list[NDArray[np.float64]]]:
    return recorded_last_layer(potential) if wanted else nullcontext([])


@contextmanager
def _recorded_atomic_energies(potential: Potential) -> Iterator[list[Tensor]]:
    """Collect the energies of atoms [N] (eV, relative to the references) of each batch that a model predicts.

    Each is the output of the energy's head, and the repulsion where there is one. Nothing is collected of a model
    without energies.
    """
    found: list[Tensor] = []
    if ENERGY not in potential.spec.targets:
        yield found
        return
    scale = potential.spec.scale(ENERGY)

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        found.append(output.detach() * scale)

    def add(_module: Any, _inputs: Any, output: Tensor) -> None:
        found[-1] = torch.add(found[-1], output.detach())  # the head comes before the repulsion

    with ExitStack() as hooks:
        hooks.callback(potential.get_submodule(part_name(ENERGY)).register_forward_hook(keep).remove)
        if potential.repulsion is not None:
            hooks.callback(potential.repulsion.register_forward_hook(add).remove)
        yield found


def device_of(name: str) -> torch.device:
    """Return a device of torch.

    Raises
    ------
    ModelError
        When it is not there.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # some devices of torch hold no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"The device {name!r} is not there.", "Use cpu, or a torch built for the device.") from error
    return device
