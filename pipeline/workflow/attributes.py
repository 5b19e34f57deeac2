"""Graph attributes in the workflow file: names of registered attributes, and declarations of new ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, StrictFloat, StrictInt, StrictStr

from gfm_pipeline.core.contracts.properties.attributes import (
    ATTRIBUTES,
    BUILT_IN,
    Attribute,
    check_attribute,
    conditioned,
    describe_attribute,
    value_text,
)
from gfm_pipeline.core.errors import ConfigError, Refused
from gfm_pipeline.core.strict import Strict, within

Value = StrictStr | StrictInt | StrictFloat
Key = Annotated[str, Field(min_length=1)]
EXAMPLE = "{keys: [pressure_GPa], unit: GPa}"


class AttributeModel(Strict):
    """A known number or category of structures, for models that are told of it (`search.space.condition_on`)."""

    unit: str | None = Field(default=None, description="Unit in datasets and in atoms.info; null: a number without.")
    neutral: Value | None = Field(
        default=None,
        description="Value that leaves a model as without conditioning; null: 0, or the first of the categories.",
    )
    extensive: bool | None = Field(
        default=None,
        description="true: the values of two structures far apart add up, and models read it per atom; null: false.",
    )
    categories: Annotated[list[Value], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Possible values, of an attribute that is a category; null: it is a number."
    )
    keys: Annotated[list[Key], Field(min_length=1)] | None = Field(
        default=None, description="Names in data and in atoms.info, the preferred one first; null: its own name."
    )
    text: str | None = Field(default=None, description="Description in one line, for reports.")

    def declared(self, name: str) -> Attribute:
        """Return the attribute."""
        categories = tuple(value_text(one) for one in self.categories or ())
        with within("neutral"):
            neutral = _neutral(self.neutral, categories)
        return Attribute(
            name=name,
            unit=self.unit or "",
            text=self.text or name.replace("_", " "),
            neutral=neutral,
            extensive=bool(self.extensive),
            categories=categories,
            keys=tuple(self.keys or ()),
        )


def _neutral(given: Value | None, categories: tuple[str, ...]) -> float:
    if given is None:
        return 0.0
    if categories:
        text = value_text(given)
        if text not in categories:
            raise Refused(f"is {text}, which is none of the categories", f"Write one of {', '.join(categories)}.")
        return float(categories.index(text))
    if isinstance(given, str):
        raise Refused(f"is {given!r}, which is not a number", "Write a number, or list categories.")
    return float(given)


def _attribute(name: str, given: AttributeModel | None) -> Attribute:
    if name in {one.name for one in BUILT_IN}:
        raise Refused(
            f"names {name}, which all workflows have", f"Leave it out; search.space.condition_on: {name} needs no more."
        )
    written = {} if given is None else {key for key, value in given if value is not None}
    if name in ATTRIBUTES.names():
        if written:
            raise Refused(
                f"declares {name}, which is registered", f"Write {name}: {{}}, or choose another name.", (min(written),)
            )
        try:
            return describe_attribute(name)
        except ConfigError as error:
            why = f"{error.message[0].lower()}{error.message[1:].rstrip('.')}"
            raise Refused(f"cannot be read: {why}", error.hint) from error
    return check_attribute((given or AttributeModel()).declared(name))


def _declared(given: Mapping[str, AttributeModel | None]) -> tuple[Attribute, ...]:
    """Return the attributes that a workflow names, in an order that does not depend on the file's."""
    found: list[Attribute] = []
    for name, model in sorted(given.items()):
        with within(name):
            found.append(_attribute(name, model))
    taken: dict[str, str] = {key.lower(): one.name for one in BUILT_IN for key in one.names}
    for one in found:
        for key in one.names:
            other = taken.setdefault(key.lower(), one.name)
            if other != one.name:
                raise Refused(
                    f"reads {key}, which {other} reads", "Give each attribute keys of its own.", (one.name, "keys")
                )
    return tuple(found)


def _written(attributes: tuple[Attribute, ...]) -> dict[str, dict[str, Any]]:
    """Return attributes in the form of a workflow file."""
    found: dict[str, dict[str, Any]] = {}
    for one in attributes:
        if one.name in ATTRIBUTES.names():
            found[one.name] = {}
            continue
        neutral: Any = one.categories[int(one.neutral)] if one.categories else one.neutral
        plain = {
            "unit": one.unit or None,
            "neutral": neutral,
            "extensive": one.extensive or None,
            "categories": list(one.categories) or None,
            "keys": list(one.keys) or None,
            "text": one.text,
        }
        found[one.name] = {key: value for key, value in plain.items() if value is not None}
    return found


if TYPE_CHECKING:
    Attributes = tuple[Attribute, ...]
else:
    Attributes = Annotated[
        dict[str, AttributeModel | None],
        AfterValidator(_declared),
        PlainSerializer(_written, return_type=dict[str, Any]),
    ]


def check_attribute_names(attributes: Sequence[Attribute], targets: Collection[str]) -> None:
    """Refuse attributes that have the name of a target; raises `Refused` with its place."""
    for one in attributes:
        if one.name in targets:
            raise Refused(
                f"names {one.name}, which is a target: a model predicts it, and is not told of it",
                "Leave one out.",
                ("attributes", one.name),
            )


def check_values(attributes: Sequence[Attribute], values: Mapping[str, Value] | None) -> None:
    """Refuse values of a source that no attribute can have; raises `Refused` with its place."""
    known = {one.name: one for one in attributes}
    for name, value in (values or {}).items():
        with within("attributes", name):
            if name in {one.name for one in BUILT_IN}:
                raise Refused(f"names {name}, which has a key of its own", f"Use {name}: {value} of the source.")
            if name not in known:
                hint = f"Declare it under attributes of the workflow, e.g. {name}: {EXAMPLE}."
                raise Refused(f"names {name}, which is no declared attribute", hint)
            try:
                known[name].number(value)
            except ValueError as error:
                raise Refused(f"is {value!r}, which {error}", "Correct it.") from error


def check_conditioning(condition_on: Any, attributes: Sequence[Attribute], at: tuple[str | int, ...]) -> None:
    """Refuse a value, or list of values, of ``condition_on`` with an attribute that nothing declares.

    Raises
    ------
    Refused
        With its place: ``at``, and the index in a list.
    """
    values = condition_on if isinstance(condition_on, list) else [condition_on]
    for index, value in enumerate(values):
        with within(*at, *((index,) if isinstance(condition_on, list) else ())):
            conditioned(str(value), attributes)


def values_of(attributes: Sequence[Attribute], values: Mapping[str, Value] | None) -> dict[str, float] | None:
    """Return the values of a source as numbers."""
    known = {one.name: one for one in attributes}
    return {name: known[name].number(value) for name, value in sorted(values.items())} if values else None
