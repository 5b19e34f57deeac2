"""Message passing algorithms by name: the code that builds a model imports the class of a description."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from math import isfinite
from typing import Any

from torch import Tensor, nn

from gfm_pipeline.core.contracts.algorithms import ALGORITHMS, AlgorithmDescription
from gfm_pipeline.core.contracts.hyperparameters import Group
from gfm_pipeline.core.contracts.training import HYPERPARAMETERS, ForceHead
from gfm_pipeline.core.errors import ConfigError, ModelError, Refused
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import MAX_Z
from gfm_pipeline.models.spec import ModelSpec


class MessagePassing(nn.Module):
    """Base of every algorithm: node features from species and edge vectors, never from absolute positions.

    Parameters
    ----------
    spec
        Description of the model.
    options
        The value of every option that the algorithm's description declares.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.options = dict(options)

    @abstractmethod
    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return scalars [N, H] and, if the algorithm has vectors and ``spec.reads_vectors``, vectors [N, 3, H].

        Parameters
        ----------
        z
            Atomic numbers [N].
        vec
            Edge vectors from ``src`` to ``dst`` [E, 3], Angstrom; E may be zero.
        src, dst
            Atom indices [E]; messages are summed at ``dst``.
        """

    def features(self, batch: Batch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the result of `forward` for a batch and its edge vectors [E, 3]."""
        found: tuple[Tensor, Tensor | None] = self(batch.z, vec, batch.edge_src, batch.edge_dst)
        return found

    def energy_head(self) -> nn.Module | None:
        """Return the head that computes energies from scalars; None: the common head of all algorithms."""
        return None


def algorithms() -> list[str]:
    """Return the sorted names of all algorithms, including those of other packages."""
    return ALGORITHMS.names()


def describe(name: str) -> AlgorithmDescription:
    """Return the description of an algorithm.

    Raises
    ------
    ModelError
        When no algorithm has that name (the hint names the nearest one), or its package cannot be imported.
    """
    try:
        return ALGORITHMS.describe(name)
    except ConfigError as error:
        raise ModelError(error.message, error.hint) from error


def algorithm(name: str) -> type[MessagePassing]:
    """Return the class of an algorithm.

    Raises
    ------
    ModelError
        When no algorithm has that name, or its class cannot be imported or is not a `MessagePassing`.
    """
    where = describe(name).module
    module, _, attribute = where.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # a module of another package: any error of its import is that package's fault
        message = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"Algorithm {name!r}: {where} cannot be imported: {message}.",
            "Install what it needs on the compute nodes, or correct its description.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, MessagePassing)):
        raise ModelError(f"Algorithm {name!r}: {where} is not a MessagePassing.", "Correct its description.")
    return found


def _check_facts(spec: ModelSpec) -> None:
    """Refuse facts of training data that cannot be; raises `ModelError`."""
    positive = {name: getattr(spec, name) for name in ("n_datasets", "avg_neighbours", "avg_log_degree", "force_rms")}
    positive |= {f"attribute_scales of {name}": scale for name, scale in spec.attribute_scales.items()}
    for name, value in positive.items():
        if not (isfinite(value) and value > 0):
            raise ModelError(f"A model needs {name} > 0, not {value}.")
    units = {name: (scale,) for name, scale in spec.target_scales.items()}
    for name, values in (*units.items(), *spec.dataset_units.items()):
        if not all(map(isfinite, values)):
            raise ModelError(f"The scales of {name} are not finite numbers: {', '.join(map(str, values))}.")
    if not isinstance(spec.n_datasets, int):
        raise ModelError(f"A model needs a whole number of datasets, not {spec.n_datasets}.")
    for name, values in spec.dataset_units.items():
        if len(values) != spec.n_datasets:
            raise ModelError(f"A model of {spec.n_datasets} datasets has {len(values)} dataset_units of {name}.")
    if strange := [number for number in spec.elements if not 1 <= number <= MAX_Z]:
        raise ModelError(f"Atomic number {strange[0]} is no element.", f"Atomic numbers are 1 to {MAX_Z}.")


def build(spec: ModelSpec) -> MessagePassing:
    """Build the message passing part of ``spec``.

    Raises
    ------
    ModelError
        For an unknown algorithm or option, a value out of its declared bounds, or a scale that is not positive.
    """
    about = describe(spec.algorithm)
    if not isinstance(spec.options, Mapping):
        raise ModelError(f"options must map names to values, not {spec.options!r}.")
    try:
        options = about.complete(spec.algorithm, spec.options)
        for declared in HYPERPARAMETERS.values():
            if declared.group is Group.MODEL:
                declared.one(getattr(spec, declared.name), (declared.name,))
    except Refused as error:
        raise ModelError(f"Of the model, {error.at[0]} {error}.", error.hint) from error
    _check_facts(spec)
    if spec.force_head not in about.force_heads:
        served = ", ".join(about.force_heads)
        raise ModelError(f"{spec.algorithm} has no {spec.force_head} force head.", f"It serves {served}.")
    if spec.repulsion and spec.force_head is not ForceHead.CONSERVATIVE:
        raise ModelError("Repulsion needs conservative forces.", "Write force_head: conservative, or no repulsion.")
    return algorithm(spec.algorithm)(spec, options)
