"""Contradictions in a declared target, or between several targets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gfm_pipeline.core.contracts.targets import (
    ENERGY,
    RESERVED,
    TARGETS,
    Constraint,
    Level,
    Origin,
    Rank,
    Reference,
    Target,
)
from gfm_pipeline.core.contracts.units import unit_of
from gfm_pipeline.core.errors import ConfigError, Refused

_DERIVED = {Origin.GRADIENT: (Level.ATOM, Rank.VECTOR), Origin.STRAIN: (Level.GRAPH, Rank.TENSOR)}


def describe_target(name: str) -> Target:
    """Return the registered target of a name.

    Raises
    ------
    ConfigError
        When no target has that name, a package's declaration cannot be imported, or it contradicts itself.
    """
    target = TARGETS.declared(name)
    return _checked(target)


def check_target(target: Target) -> Target:
    """Return a target after a check that its declaration is consistent.

    Raises
    ------
    Refused
        When it is not; ``at`` names the field at fault.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", target.name):
        raise Refused(f"names {target.name!r}", "Names are letters, digits and underscores, a letter first.")
    if target.name in RESERVED:
        raise Refused(f"names {target.name!r}, which a column of datasets has for its name", "Choose another name.")
    try:
        unit_of(target.unit)
    except Refused as error:
        raise Refused(error.message, error.hint, ("unit",)) from error
    if target.reference is not Reference.NONE and target.rank is not Rank.SCALAR:
        raise Refused(
            f"is {target.reference}, and a {target.rank} has no reference: it would not turn with the structure",
            "Leave it out.",
            ("reference",),
        )
    if target.reference is Reference.ELEMENTS and target.level is Level.GRAPH and not target.extensive:
        raise Refused(
            "is elements, a sum over atoms, for values of structures that do not add up",
            "Write extensive: true, or reference: mean.",
            ("reference",),
        )
    if target.constraint is not Constraint.NONE and (target.level, target.rank) != (Level.ATOM, Rank.SCALAR):
        raise Refused(f"is {target.constraint}, which scalars of atoms obey", "Leave it out.", ("constraint",))
    if target.constraint is not Constraint.NONE and target.reference is not Reference.NONE:
        raise Refused(
            f"is {target.reference}, and values that are {target.constraint} are learned whole",
            "Leave it out.",
            ("reference",),
        )
    if target.origin in _DERIVED and (target.level, target.rank) != _DERIVED[target.origin]:
        level, rank = _DERIVED[target.origin]
        raise Refused(f"is {target.origin}, which gives one {rank} per {level}", "Correct level or rank.", ("origin",))
    return target


def _checked(target: Target) -> Target:
    """Return a target after a check that its declaration is consistent; raises `ConfigError`."""
    try:
        return check_target(target)
    except Refused as error:
        raise ConfigError(
            f"Target {target.name!r}: {'.'.join(map(str, error.at))} {error.message}.", error.hint
        ) from error


def check_together(targets: Sequence[Target], *, direct_forces: bool) -> None:
    """Refuse targets that one model cannot predict together.

    Parameters
    ----------
    targets
        The predicted targets.
    direct_forces
        Whether forces come from a separate head, not from the energy.

    Raises
    ------
    ConfigError
        Without any target, with two of one name, or with a derivative of an energy that is not a target.
    """
    for target in targets:
        _checked(target)
    names = [target.name for target in targets]
    if not names:
        raise ConfigError("A model predicts at least one target, and none is named.", "Name energy, for instance.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Target {twice[0]} is named twice.", "Leave one out.")
    for target in targets:
        derived = target.origin is Origin.STRAIN or (target.origin is Origin.GRADIENT and not direct_forces)
        if derived and ENERGY.name not in names:
            hint = ", or choose force_head: direct" if target.origin is Origin.GRADIENT else ""
            raise ConfigError(
                f"Target {target.name} is a derivative of the energy, which is not a target.",
                f"Name {ENERGY.name} among the targets{hint}.",
            )


def unlabelled_sentence(target: Target, of_what: str, attribute: bool = False) -> str:
    """Return the sentence that no record has a label of a target, or none a value of an attribute.

    ``target`` is the column of the attribute, and ``of_what`` names the examined data.
    """
    names = target.names
    called = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    values = f"or its value there, attributes: {{{target.name}: ...}}, " if attribute else ""
    return (
        f"No {of_what} {'states' if attribute else 'labels'} {target.name}: no record has a key called {called}. "
        f"Name the key in the source, labels: {{{target.name}: KEY}}, {values}"
        f"or leave {target.name} out of {'attributes' if attribute else 'targets'}."
    )
