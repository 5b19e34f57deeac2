"""The one registry of message passing algorithms."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.spec import ModelSpec


class MessagePassing(nn.Module):
    """Base of every algorithm: node features from species and edge vectors, never from absolute positions.

    Attributes
    ----------
    default_options
        The algorithm's own hyperparameters and their defaults.
    has_vectors
        Whether vectors [N, 3, H] are returned when the force head is direct.
    """

    default_options: ClassVar[Mapping[str, Any]] = {}
    has_vectors: ClassVar[bool] = False

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.options = dict(options)

    @abstractmethod
    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return scalars [N, H] and, where the algorithm has them, vectors [N, 3, H].

        Parameters
        ----------
        z
            Atomic numbers [N].
        vec
            Edge vectors from ``src`` to ``dst`` [E, 3], Angstrom; E may be zero.
        src, dst
            Atom indices [E]; messages are summed at ``dst``.
        """


_ALGORITHMS: dict[str, type[MessagePassing]] = {}


def register(name: str) -> Callable[[type[MessagePassing]], type[MessagePassing]]:
    """Return a class decorator that files an algorithm under ``name``."""

    def file(cls: type[MessagePassing]) -> type[MessagePassing]:
        _ALGORITHMS[name] = cls
        return cls

    return file


def algorithms() -> list[str]:
    """Return the names of all algorithms, sorted."""
    return sorted(_ALGORITHMS)


def _unknown(kind: str, name: str, known: list[str]) -> ModelError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known) or 'none'}."
    return ModelError(f"There is no {kind} {name!r}.", hint)


def algorithm(name: str) -> type[MessagePassing]:
    """Return the class filed under ``name``; raises `ModelError` with the nearest name."""
    try:
        return _ALGORITHMS[name]
    except KeyError:
        raise _unknown("message passing algorithm", name, algorithms()) from None


def build(spec: ModelSpec) -> MessagePassing:
    """Build the message passing part of ``spec``.

    Raises
    ------
    ModelError
        For an unknown algorithm, an unknown option or a size that is not positive.
    """
    cls = algorithm(spec.algorithm)
    for name in spec.options:
        if name not in cls.default_options:
            raise _unknown(f"option of {spec.algorithm}", name, sorted(cls.default_options))
    for name in ("hidden", "layers", "n_radial", "n_datasets", "cutoff", "avg_neighbours", "force_rms"):
        if not getattr(spec, name) > 0:
            raise ModelError(f"A model needs {name} > 0, not {getattr(spec, name)}.")
    return cls(spec, {**cls.default_options, **spec.options})
