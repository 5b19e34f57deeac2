"""Policies in the workflow file: a name, or a name and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from gfm_pipeline.core.contracts.extensions import Extensions
from gfm_pipeline.core.contracts.policies import (
    CRITERIA,
    PROPOSALS,
    SELECTIONS,
    STOPPING,
    UNCERTAINTIES,
    PolicyChoice,
    PolicyDescription,
)
from gfm_pipeline.core.errors import ConfigError, Refused
from gfm_pipeline.core.explain import suggestion
from gfm_pipeline.search.pareto import OBJECTIVES

NAME = "name"


def _reads(known: Extensions[PolicyDescription]) -> Callable[[Any], PolicyChoice]:
    """Return a function that converts a value of the file to a policy with all of its options, or refuses it."""

    def read(given: Any) -> PolicyChoice:
        if isinstance(given, PolicyChoice):
            return given
        name, options = (given.get(NAME), dict(given)) if isinstance(given, Mapping) else (given, {})
        options.pop(NAME, None)
        if not isinstance(name, str):
            choices = ", ".join(known.names())
            raise Refused(f"must name a {known.what}, not {given!r}", f"Choose from: {choices}.")
        at = (NAME,) if isinstance(given, Mapping) else ()
        try:
            description = known.describe(name)
        except ConfigError as error:
            what = f"cannot be {name!r}: {error.message[0].lower()}{error.message[1:].rstrip('.')}"
            raise Refused(what, error.hint, at) from error
        return PolicyChoice(name, description.complete(f"{known.what} {name}", options))

    return read


def _schema(known: Extensions[PolicyDescription]) -> dict[str, Any]:
    named = {"type": "string", "examples": list(known.built_in)}
    return {"anyOf": [named, {"type": "object", "properties": {NAME: named}, "required": [NAME]}]}


def _written(choice: PolicyChoice) -> Any:
    """Return a policy in the form of a workflow file."""
    return {NAME: choice.name, **choice.options} if choice.options else choice.name


def read_objectives(given: Any) -> list[str]:
    """Return the names of objectives, the error first; one name needs no list."""
    names = given if isinstance(given, list) else [given]
    for index, name in enumerate(names):
        at = (index,) if isinstance(given, list) else ()
        if not isinstance(name, str) or name not in OBJECTIVES:
            hint = f"{suggestion(str(name), list(OBJECTIVES))}Choose from: {', '.join(OBJECTIVES)}."
            raise Refused(f"holds {name!r}, which is no objective", hint, at)
        if name in names[:index]:
            raise Refused(f"lists {name} twice", "Leave one out.", at)
    if "error" not in names:
        raise Refused("lacks error, without which the cheapest model wins", "Write for instance [error, kwh].")
    return ["error", *(name for name in names if name != "error")]


Objectives = Annotated[
    list[str],
    BeforeValidator(read_objectives),
    WithJsonSchema({"type": "array", "items": {"enum": list(OBJECTIVES)}, "minItems": 1}),
]
StoppingChoice = Annotated[
    PolicyChoice, BeforeValidator(_reads(STOPPING)), PlainSerializer(_written), WithJsonSchema(_schema(STOPPING))
]
ProposalChoice = Annotated[
    PolicyChoice, BeforeValidator(_reads(PROPOSALS)), PlainSerializer(_written), WithJsonSchema(_schema(PROPOSALS))
]
SelectionChoice = Annotated[
    PolicyChoice, BeforeValidator(_reads(SELECTIONS)), PlainSerializer(_written), WithJsonSchema(_schema(SELECTIONS))
]
CriterionChoice = Annotated[
    PolicyChoice, BeforeValidator(_reads(CRITERIA)), PlainSerializer(_written), WithJsonSchema(_schema(CRITERIA))
]
UncertaintyChoice = Annotated[
    PolicyChoice,
    BeforeValidator(_reads(UNCERTAINTIES)),
    PlainSerializer(_written),
    WithJsonSchema(_schema(UNCERTAINTIES)),
]
