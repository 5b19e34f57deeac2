"""Targets in the workflow file: names of registered targets, and declarations of new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer

from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.target_checks import check_target, describe_target
from gfm_pipeline.core.contracts.targets import (
    DEFAULT,
    ENERGY,
    FORCES,
    TARGETS,
    Constraint,
    Level,
    Rank,
    Reference,
    Target,
    is_default,
    order_of,
)
from gfm_pipeline.core.contracts.units import label_unit
from gfm_pipeline.core.errors import ConfigError, Refused
from gfm_pipeline.core.strenum import StrEnum
from gfm_pipeline.core.strict import Strict, within

EXAMPLE = "{level: graph, rank: scalar, unit: eV}"
_FREE = frozenset(("weight", "keys", "text", "shown_unit", "shown_factor"))  # a workflow may set these for any target
_FORCE_WEIGHT = "force_weight"  # of the search space


class TargetModel(Strict):
    """A predicted property; a registered one (docs/add-a-target.md lists them) needs no keys."""

    weight: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="Weight of its loss relative to the energy, whose weight is 1; "
            "to search the weight of forces, use search.space.force_weight."
    )  # fmt: skip
    level: Level | None = Field(default=None, description="One value per graph (a structure), or per atom.")
    rank: Rank | None = Field(default=None, description="Scalar, vector or symmetric tensor; null: scalar.")
    unit: str | None = Field(default=None, description="Unit in datasets and predictions; null: a number without unit.")
    extensive: bool | None = Field(
        default=None, description="true: the values of two structures far apart add up; null: they do not."
    )
    reference: Reference | None = Field(
        default=None,
        description="Reference that is fitted on the training split and subtracted before learning: one value "
        "per element, or the mean; null: none.",
    )
    constraint: Constraint | None = Field(
        default=None, description="Constraint on the predictions of all atoms of a structure."
    )
    keys: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = Field(
        default=None, description="Names of the label in data, the preferred one first; null: its own name."
    )
    text: str | None = Field(default=None, description="Description in one line, for reports.")
    shown_unit: str | None = Field(default=None, description="Unit that reports print errors in; null: unit itself.")
    shown_factor: Annotated[float, Field(gt=0, le=1e12)] | None = Field(
        default=None, description="Factor from unit to shown_unit."
    )

    def written(self) -> dict[str, Any]:
        """Return the keys in the file, as fields of a `Target`."""
        found = {name: value for name, value in self if value is not None}
        return found | ({"keys": tuple(self.keys)} if self.keys else {})


def _target(name: str, given: TargetModel) -> Target:
    settings = given.written()
    if name not in TARGETS.names():
        if given.level is None:
            hint = f"{suggestion(name, TARGETS.names())} Or declare it, e.g. {name}: {EXAMPLE}."
            raise Refused(f"names {name!r}, which is not a known target", hint)
        return check_target(Target(**{"name": name, "unit": "", "text": name.replace("_", " "), **settings}))
    try:
        registered = describe_target(name)
    except ConfigError as error:
        why = f"{error.message[0].lower()}{error.message[1:].rstrip('.')}"
        raise Refused(f"cannot be read: {why}", error.hint) from error
    for field, value in settings.items():
        known = getattr(registered, field)
        if field not in _FREE and value != known:
            shown = known if isinstance(known, StrEnum) else repr(known)
            hint = "Leave it out, or choose another name for this target."
            if field == "unit":
                hint = f"Leave it out, and say of each source what its label is in: label_units: {{{name}: {value}}}."
            raise Refused(f"is {value}, and the registered target {name} has {shown}", hint, (field,))
    changed = {f.name: settings.get(f.name, getattr(registered, f.name)) for f in fields(Target)}
    return check_target(Target(**changed))


def _declared(given: Mapping[str, TargetModel | None]) -> tuple[Target, ...]:
    """Return the targets that a workflow names, in an order that does not depend on the file's."""
    found = []
    for name, model in given.items():
        with within(name):
            found.append(_target(name, model or TargetModel()))
    if ENERGY.name not in given:
        raise Refused("has no energy, which every model predicts", f"Add {ENERGY.name}: {{}}.")
    energy = given[ENERGY.name]
    if energy is not None and energy.weight not in (None, ENERGY.weight):
        raise Refused("must be 1: the other weights are relative to it", "Leave it out.", (ENERGY.name, "weight"))
    return tuple(sorted(found, key=order_of))


def _written(targets: tuple[Target, ...]) -> dict[str, dict[str, Any]]:
    """Return targets in the form of a workflow file; unregistered targets in full."""
    found = {}
    for target in targets:
        known = TARGETS.built_in.get(target.name) or Target(target.name, "", "")
        names = [name for name in TargetModel.model_fields if getattr(target, name) != getattr(known, name)]
        names += ["level"] if target.name not in TARGETS.names() and "level" not in names else []
        found[target.name] = {
            name: list(value) if isinstance(value := getattr(target, name), tuple) else value for name in names
        }
    return found


if TYPE_CHECKING:
    Targets = tuple[Target, ...]
else:
    Targets = Annotated[
        dict[str, TargetModel | None], AfterValidator(_declared), PlainSerializer(_written, return_type=dict[str, Any])
    ]


def with_force_weight(plain: Any) -> Any:
    """Return a workflow with the weight of forces in the search space, if ``targets`` sets one.

    Raises
    ------
    Refused
        When the search space sets a different weight.
    """
    try:
        weight = plain["targets"][FORCES.name]["weight"]
        space = plain["search"]["space"]
        searched = space.get(_FORCE_WEIGHT, weight)
    except (KeyError, TypeError, AttributeError):
        return plain  # other code refuses an invalid form, with its place
    if weight is None:
        return plain
    if searched != weight:
        raise Refused(
            f"is {weight}, and search.space.{_FORCE_WEIGHT} is {searched}",
            "Leave one of them out.",
            ("targets", FORCES.name, "weight"),
        )
    return {**plain, "search": {**plain["search"], "space": {**space, _FORCE_WEIGHT: weight}}}


def check_labels(
    targets: tuple[Target, ...], labels: Mapping[str, str] | None, units: Mapping[str, str] | None
) -> None:
    """Refuse labels of a source that no target uses, and units that cannot be converted to those of targets.

    Raises
    ------
    Refused
        With the location of the fault, which begins with ``labels`` or ``label_units``.
    """
    known = {target.name: target for target in targets}
    for key, given, own in (("labels", labels, "{}_key"), ("label_units", units, "{}_unit")):
        for name, value in (given or {}).items():
            if name in {one.name for one in DEFAULT}:
                instead = "energy_unit and length_unit" if key == "label_units" else own.format(name)
                raise Refused(f"names {name}, which has a key of its own", f"Use {instead}.", (key, name))
            if name not in known:
                hint = f"Add it to targets. {suggestion(name, known)}"
                raise Refused(f"names {name}, which is not in targets", hint, (key, name))
            if key == "label_units":
                with within(key, name):
                    label_unit(value, known[name])


def read_targets(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """Return the targets to read in addition to energy and forces; without weights, which change no dataset."""
    return tuple(Target(**{**_fields(t), "weight": 1.0}) for t in targets if not is_default(t))


def _fields(target: Target) -> dict[str, Any]:
    return {f.name: getattr(target, f.name) for f in fields(Target)}
