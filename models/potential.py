"""The complete model: it maps a batch of structures to a value of every target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.properties.attributes import CHARGE
from gfm_pipeline.core.contracts.target_checks import check_together
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, STRESS, Constraint, Level, Origin, Rank, Target
from gfm_pipeline.core.errors import ConfigError, ModelError, Refused
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.checks import check_batch
from gfm_pipeline.models.composition_shift import CompositionShift, is_shifted, open_former
from gfm_pipeline.models.conditioning import AttributeFiLM
from gfm_pipeline.models.constraints import balanced, with_total
from gfm_pipeline.models.geometry import Geometry
from gfm_pipeline.models.geometry import spreads as shallow_spreads
from gfm_pipeline.models.global_attention import GlobalAttention
from gfm_pipeline.models.layers import scatter_sum
from gfm_pipeline.models.readout import DEVIATIONS, HEADS, EdgeTensors, EdgeVectors, Features, ScalarHead
from gfm_pipeline.models.registry import build, describe
from gfm_pipeline.models.repulsion import Repulsion
from gfm_pipeline.models.spec import ForceHead, ModelSpec

_PARTS = {ENERGY.name: "node_energy", FORCES.name: "force_head"}  # heads whose names are older than targets


@dataclass(frozen=True)
class Prediction:
    """Values by target, relative to their references: of structures [G, ...] or of atoms [N, ...].

    ``spreads`` are standard deviations over a shallow ensemble, by name of a target, if requested; the model has none
    for targets without an entry. ``by_edge`` is the derivative of the energies with respect to the vectors of edges
    [E, 3], eV/Angstrom, if requested.
    """

    values: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor] = field(default_factory=dict)
    by_edge: Tensor | None = None

    @property
    def energy(self) -> Tensor:
        """Energies relative to the references [G], eV."""
        return self.values["energy"]

    @property
    def forces(self) -> Tensor:
        """Forces [N, 3], eV/Angstrom."""
        return self.values["forces"]


class Potential(nn.Module):
    """Message passing, heads per dataset for targets that are no derivatives of the energy, and the derivatives.

    Parameters
    ----------
    spec
        Description of the model; kept as ``self.spec``.

    Raises
    ------
    ModelError
        For an unknown algorithm or option, or targets that one model cannot predict together.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_load_state_dict_pre_hook(open_former)  # type: ignore[no-untyped-call]
        try:
            check_together(spec.targets, direct_forces=spec.force_head is ForceHead.DIRECT)
        except ConfigError as error:
            raise ModelError(error.message, error.hint) from error
        self.representation = build(spec)
        self.conditioning = self._conditioning()
        self.attention = self._attention()
        for target in spec.targets:
            if spec.has_head(target):
                self.add_module(part_name(target), self._head(target))
                if units := spec.dataset_units.get(target.name):
                    self.register_buffer(_unit_name(target), torch.tensor(units), persistent=False)
        self.shifted = tuple(t for t in spec.targets if spec.has_head(t) and is_shifted(t))
        for target in self.shifted:
            self.add_module(shift_name(target), CompositionShift(spec.n_datasets))
        ranks = spec.ranks()
        own_vectors = describe(spec.algorithm).vectors
        self.vector_features = EdgeVectors(spec) if Rank.VECTOR in ranks and not own_vectors else None
        self.tensor_features = EdgeTensors(spec) if Rank.TENSOR in ranks else None
        self.repulsion = Repulsion(spec.cutoff) if spec.repulsion else None

    def _conditioning(self) -> AttributeFiLM | None:
        spec = self.spec
        try:
            attributes = spec.conditioned_on
        except Refused as error:
            raise ModelError(f"condition_on {error.message}.", error.hint) from error
        if attributes and self.representation.energy_head() is not None:
            raise ModelError(
                f"{spec.algorithm} gives energies, and no features that could be told of "
                f"{' and '.join(spec.condition_names)}.",
                "Leave condition_on out, or choose another algorithm.",
            )
        return AttributeFiLM(spec.hidden, attributes, spec.unstated, spec.attribute_scales) if attributes else None

    def _attention(self) -> GlobalAttention | None:
        if self.spec.global_attention and self.representation.energy_head() is not None:
            raise ModelError(
                f"{self.spec.algorithm} gives energies, and no features that atoms could attend to.",
                "Leave global_attention out, or choose another algorithm.",
            )
        return GlobalAttention(self.spec.hidden) if self.spec.global_attention else None

    def _head(self, target: Target) -> nn.Module:
        own = self.representation.energy_head()
        if own is not None and self.spec.shallow_ensemble > 1:
            raise ModelError(
                f"{self.spec.algorithm} gives energies, and no features for a shallow ensemble.",
                "Leave shallow_ensemble out, or choose another algorithm.",
            )
        if own is None and target == ENERGY:
            return ScalarHead(self.spec.hidden, self.spec.n_datasets, shallow=self.spec.shallow_ensemble)
        if own is None and target.constraint is Constraint.TOTAL_CHARGE:
            return ScalarHead(self.spec.hidden, self.spec.n_datasets, offset=False)
        if own is None:
            return HEADS[target.rank](self.spec.hidden, self.spec.n_datasets)
        if target != ENERGY:
            raise ModelError(
                f"{self.spec.algorithm} gives energies, and no features for a head of {target.name}.",
                "Leave the target out, or choose another algorithm.",
            )
        return own

    def forward(
        self,
        batch: Batch,
        training: bool = False,
        *,
        stress: bool = False,
        spreads: bool = False,
        edges: bool = False,
    ) -> Prediction:
        """Predict a batch.

        Parameters
        ----------
        batch
            Structures in the dtype of the model; labels are not read.
        training
            Keep the graph for a backward pass through all predictions. Otherwise the result is detached.
        stress
            Also predict the stress where it is not a target.
        spreads
            Also give the spreads of a shallow ensemble of K last layers, for K more backward passes; not in training.
        edges
            Also give the derivative of conservative energies by the vectors of edges; not in training.

        Raises
        ------
        ModelError
            When ``stress`` is requested from a model without energy. Unless ``training``, also as `check_batch`, and
            when the model has no head for a structure's dataset.
        """
        # batches in training come from datasets of the model, and looking at their numbers would wait for the device
        if not training and batch.dataset.numel() and int(batch.dataset.max()) >= self.spec.n_datasets:
            raise ModelError(
                f"The batch names dataset {int(batch.dataset.max())}, "
                f"the model has {self.spec.n_datasets} dataset heads."
            )
        derived = self.derived_targets()
        if stress and all(t.origin is not Origin.STRAIN for t in derived):
            if ENERGY not in self.spec.targets:
                raise ModelError("The model predicts no energy, and so no stress.", "Ask a model with energies.")
            derived = (*derived, STRESS)
        origins = {t.origin for t in derived}
        with torch.set_grad_enabled(training or bool(derived)):
            geometry = Geometry.of(batch, moved=Origin.GRADIENT in origins, strained=Origin.STRAIN in origins)
            if not training:  # ingest has already checked labelled structures
                check_batch(batch, geometry.vec.detach(), self.spec.elements)
            found: dict[str, Tensor] | None = {} if spreads and not training else None
            by_edge: list[Tensor] | None = [] if edges and not training else None
            values = self._values(batch, geometry, derived, create_graph=training, spreads=found, by_edge=by_edge)
        if training:
            return Prediction(values)
        detached = {name: value.detach() for name, value in values.items()}
        return Prediction(detached, found or {}, by_edge[0] if by_edge else None)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters; batches must have the same type."""
        return next(self.parameters()).dtype

    @torch.no_grad()
    def head_values(self, batch: Batch) -> dict[str, Tensor]:
        """Return the values of the targets other than derivatives, at a tenth of the cost of all targets."""
        return self._predict(batch, Geometry.of(batch, moved=False, strained=False))

    def shift(self, target: Target) -> CompositionShift:
        """Return the shift of the references of one of the targets ``shifted``."""
        found = self.get_submodule(shift_name(target))
        if not isinstance(found, CompositionShift):
            raise ModelError(f"The target {target.name} has no reference values of elements to correct.")
        return found

    def derived_targets(self) -> tuple[Target, ...]:
        """Return the targets that are derivatives of the energy."""
        return tuple(t for t in self.spec.targets if t.origin is not Origin.HEAD and not self.spec.has_head(t))

    def training_values(self, batch: Batch, pos: Tensor, strain: Tensor | None) -> dict[str, Tensor]:
        """Return the predictions of `forward` in training as a function of the `leaves` of a batch, for compilers.

        It checks nothing and does not wait for the device.
        """
        derived = self.derived_targets()
        moved = any(t.origin is Origin.GRADIENT for t in derived)
        return self._values(batch, Geometry.at(batch, pos, strain, moved=moved), derived, create_graph=True)

    def _values(
        self,
        batch: Batch,
        geometry: Geometry,
        derived: tuple[Target, ...],
        *,
        create_graph: bool,
        spreads: dict[str, Tensor] | None = None,
        by_edge: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the values of all targets: first those of heads, then derivatives; fill lists that are given."""
        values = self._predict(batch, geometry, learning=create_graph)
        if spreads is not None and DEVIATIONS in values:
            spreads |= shallow_spreads(values[DEVIATIONS], geometry, batch, derived)
        if derived:
            energy = values[ENERGY.name].sum()
            found = geometry.derivatives(energy, batch, create_graph=create_graph, by_edge=by_edge)
            values |= {t.name: found[t.origin] for t in derived}
        return values

    def _predict(self, batch: Batch, geometry: Geometry, *, learning: bool = False) -> dict[str, Tensor]:
        """Return the values of all targets that have a head, and the deviations of a shallow ensemble.

        Deviations that are ``learning`` have no gradient to the trunk.
        """
        features, vec = self._features(batch, geometry)
        values = self._heads(batch, geometry, features, vec)
        if self.spec.shallow_ensemble > 1 and ENERGY.name in values:
            values[DEVIATIONS] = self._deviations(features, batch, learning=learning)
        return values

    def _deviations(self, features: Features, batch: Batch, *, learning: bool) -> Tensor:
        """Return the energies of the last layers of a shallow ensemble less their mean [G, K], eV."""
        head = self.get_submodule(part_name(ENERGY))
        of_atoms = head.deviations(features, batch.dataset.index_select(0, batch.graph), learning=learning)  # type: ignore[operator]
        of_structures = scatter_sum(of_atoms.to(batch.pos.dtype), batch.graph, batch.natoms.shape[0])
        unit = self._unit(ENERGY, batch.dataset)
        return of_structures * (unit.unsqueeze(1) if isinstance(unit, Tensor) else unit)

    def features_and_heads(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return features [N, H], vectors of edges [E, 3], and the values of heads, for a further head outside."""
        geometry = Geometry.of(batch, moved=False, strained=False)
        features, vec = self._features(batch, geometry)
        return features.scalars, vec, self._heads(batch, geometry, features, vec)

    def _features(self, batch: Batch, geometry: Geometry) -> tuple[Features, Tensor]:
        """Return the features, and the vectors of edges that the representation sees."""
        src, dst, vec = batch.edge_src, batch.edge_dst, geometry.vec
        if self.repulsion is not None:
            vec = self.repulsion.shown(batch.z, vec, src, dst)
        x, vectors = self.representation.features(batch, vec)
        if self.conditioning is not None:
            x = self.conditioning(x, batch)
        if self.attention is not None:
            x = self.attention(x, batch)
        return Features(x, vectors), vec

    def _heads(self, batch: Batch, geometry: Geometry, features: Features, vec: Tensor) -> dict[str, Tensor]:
        """Return the values of all targets that have a head."""
        x, src, dst = features.scalars, batch.edge_src, batch.edge_dst
        head = batch.dataset.index_select(0, batch.graph)
        values = {}
        for target in self.spec.targets:
            if not self.spec.has_head(target):
                continue
            # only when the first head reads them: this keeps the order of sums in backward passes of earlier versions
            if target.rank is Rank.VECTOR and features.vectors is None:
                features = replace(features, vectors=self._vectors(x, vec, src, dst))
            if target.rank is Rank.TENSOR and features.tensors is None and self.tensor_features is not None:
                features = replace(features, tensors=self.tensor_features(x, vec, src, dst))
            values[target.name] = self._value(target, features, head, batch)
        if self.repulsion is not None and ENERGY.name in values:
            of_atoms = self.repulsion(batch.z, geometry.vec, src, dst)
            values[ENERGY.name] = values[ENERGY.name] + scatter_sum(of_atoms, batch.graph, batch.natoms.shape[0])
        for target in self.shifted:
            shift = self.shift(target)(batch.z, head, batch.graph, batch.natoms.shape[0])
            values[target.name] = values[target.name] + shift
        return values

    def _vectors(self, x: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return vector features [N, 3, H] for an algorithm without vectors."""
        if self.vector_features is None:
            raise ModelError(
                f"{self.spec.algorithm} gave no vectors, though its description says that it has them.",
                "Correct the algorithm, or vectors=False in its description.",
            )
        found: Tensor = self.vector_features(x, vec, src, dst)
        return found

    def _unit(self, target: Target, dataset: Tensor) -> Tensor | float:
        """Return the unit of the readout of a target, for the dataset [G] or [N] of each of its values."""
        if target.name not in self.spec.dataset_units:
            return self.spec.scale(target)
        return self.get_buffer(_unit_name(target)).index_select(0, dataset).view(-1, *[1] * len(target.shape))

    def _value(self, target: Target, features: Features, head: Tensor, batch: Batch) -> Tensor:
        """Return the value of one target from its head."""
        value: Tensor = self.get_submodule(part_name(target))(features, head)
        value = value.to(batch.pos.dtype)  # sums over atoms are not in half precision
        if target.level is Level.GRAPH:
            value = scatter_sum(value, batch.graph, batch.natoms.shape[0])
            if not target.extensive:
                value = value / batch.natoms.to(value.dtype).view(-1, *[1] * len(target.shape))
        value = value * self._unit(target, batch.dataset if target.level is Level.GRAPH else head)
        if target.constraint is Constraint.TOTAL_CHARGE:
            charge = batch.attributes.get(CHARGE.name)
            total = value.new_zeros(batch.natoms.shape[0]) if charge is None else charge.nan_to_num().to(value.dtype)
            value = with_total(value, total, batch.graph, batch.natoms)
        if target.origin is Origin.GRADIENT and self.spec.balanced_forces:
            value = balanced(value, batch)
        return value


def _unit_name(target: Target) -> str:
    return f"unit_{target.name}"


def part_name(target: Target) -> str:
    """Return the name of the head of a target among the parts of a model, as in its state dict."""
    return _PARTS.get(target.name, f"head_{target.name}")


def shift_name(target: Target) -> str:
    """Return the name of the shift of a target among the parts of a model, as in its state dict."""
    return f"shift_{target.name}"
