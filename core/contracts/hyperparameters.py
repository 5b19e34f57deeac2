"""Declared hyperparameters, and how values in a search space are read and checked.

The hyperparameters themselves are the fields of `gfm_pipeline.core.contracts.training.ModelSettings` and of
`gfm_pipeline.core.contracts.optimisation.settings.OptimiserSettings`, and the options of an algorithm
(`gfm_pipeline.core.contracts.algorithms`).
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gfm_pipeline.core.contracts.extensions import Extensions, suggestion
from gfm_pipeline.core.errors import ConfigError, Refused
from gfm_pipeline.core.strenum import StrEnum

MAX_CHOICES = 1000  # values in a list: more are a range


class ValueKind(StrEnum):
    """What values a hyperparameter has."""

    WHOLE = "whole number"
    REAL = "number"
    NAME = "name"
    SWITCH = "true or false"


class Group(StrEnum):
    """The part of a training to which a hyperparameter belongs."""

    MODEL = "model"
    OPTIMISER = "optimiser"
    SCHEDULE = "schedule"
    LOSS = "loss"


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter, or one option of an algorithm.

    Parameters
    ----------
    name
        Its key in ``search.space`` (options: below ``per_algorithm``, as ``options.NAME``), and in a candidate.
    kind
        The kind of its values.
    default
        The value when none is given: in a candidate of an older journal, or with a search space without the key.
    help
        Its meaning in one sentence.
    group
        The part of a training to which it belongs.
    low, high
        Bounds; None: without bound. Numbers only.
    open_low, open_high
        Whether the bound itself is refused.
    choices
        The allowed names; for names only.
    registry
        The extensions that the names refer to, when other packages may add names; ``choices`` is then empty.
    search
        The values that ``search.space`` searches without the key: a list, ``(low, high)`` or a value. None: none; the
        default applies, and the settings of a campaign do not contain the key.
    log
        Whether the ``search`` range has a logarithmic scale.
    former
        The values that earlier versions searched without the key; campaigns that began with them keep them.
    """

    name: str
    kind: ValueKind
    default: Any
    help: str
    group: Group = Group.MODEL
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    search: Any = None
    log: bool = False
    former: tuple[Any, ...] = ()
    registry: Extensions[Any] | None = None

    def __post_init__(self) -> None:
        """Refuse a default outside of its own bounds."""
        self.one(self.default)

    @property
    def names(self) -> tuple[str, ...]:
        """The allowed names, including those of other packages; empty: any."""
        return self.choices if self.registry is None else tuple(self.registry.names())

    @property
    def range_text(self) -> str:
        """The allowed values, as the middle of a sentence: ``a whole number from 1 to 64``."""
        if self.kind is ValueKind.NAME:
            return f"one of {', '.join(self.names)}" if self.names else "a name"
        if self.kind is ValueKind.SWITCH:
            return "true or false"
        what = "a whole number" if self.kind is ValueKind.WHOLE else "a number"
        low = None if self.low is None else f"{'above' if self.open_low else 'from'} {_shown(self.low)}"
        high = None if self.high is None else f"{'below' if self.open_high else 'to'} {_shown(self.high)}"
        if self.high is None and low is not None and not self.open_low:
            low = f"of at least {_shown(self.low)}"
        return " ".join(part for part in (what, low, high) if part is not None)

    @property
    def default_space(self) -> Any:
        """The `search` entry as a user would write it; None where nothing is searched."""
        return self._written(self.search)

    @property
    def former_spaces(self) -> list[Any]:
        """The `former` entries as a user would write them."""
        return [self._written(value) for value in self.former]

    def _written(self, search: Any) -> Any:
        if isinstance(search, tuple):
            low, high = search
            return {"low": low, "high": high, "scale": "log" if self.log else "linear"}
        return search

    def one(self, value: Any, at: tuple[str | int, ...] = ()) -> Any:
        """Return a single value, in its own type.

        Raises
        ------
        Refused
            When it is of the wrong type or out of bounds.
        """
        if self.kind in (ValueKind.NAME, ValueKind.SWITCH):
            if self.kind is ValueKind.SWITCH and isinstance(value, bool):
                return value
            if self.kind is ValueKind.NAME and isinstance(value, str) and self._is_name(value, at):
                return str(value)
            near = suggestion(str(value), self.names)
            hint = near if near.startswith("Did") else f"Write {self.range_text}."
            raise Refused(f"must be {self.range_text}, not {_shown(value)}", hint, at)
        number = _number(value, whole=self.kind is ValueKind.WHOLE)
        if number is None or not self._within(number):
            raise Refused(f"must be {self.range_text}, not {_shown(value)}", self._example(), at)
        return number

    def _is_name(self, value: str, at: tuple[str | int, ...]) -> bool:
        if self.registry is None or value not in self.registry.names():
            return self.registry is None and (not self.choices or value in self.choices)
        try:
            self.registry.describe(value)
        except ConfigError as error:  # a broken extension of another package
            why = f"{error.message[0].lower()}{error.message[1:].rstrip('.')}"
            raise Refused(f"cannot be {value}: {why}", error.hint, at) from error
        return True

    def _within(self, number: float) -> bool:
        low = self.low is None or number > self.low or (number == self.low and not self.open_low)
        return low and (self.high is None or number < self.high or (number == self.high and not self.open_high))

    def _example(self) -> str:
        return f"Write for instance {self.name}: {_shown(self.default)}."

    def read(self, value: Any) -> Any:
        """Return the checked entry of a search space: a value, a list of values, or a range as a mapping.

        Raises
        ------
        Refused
            With the keys from ``value`` to the fault.
        """
        if isinstance(value, Mapping):
            return self._range(value)
        if isinstance(value, list | tuple):
            return self._list(list(value))
        return self.one(value)

    def _list(self, values: list[Any]) -> list[Any]:
        if not 0 < len(values) <= MAX_CHOICES:
            count = "is an empty list" if not values else f"lists {len(values):,} values"
            raise Refused(count, f"List 1 to {MAX_CHOICES} values, each {self.range_text}.")
        read = [self.one(value, (index,)) for index, value in enumerate(values)]
        for index, value in enumerate(read):
            if value in read[:index]:
                raise Refused(f"lists {_shown(value)} twice", "Leave one out.", (index,))
        return read

    def _range(self, given: Mapping[str, Any]) -> dict[str, Any]:
        example = f"Write {{low: ..., high: ...}} or {{low: ..., high: ..., scale: log}}, each end {self.range_text}."
        if self.kind not in (ValueKind.WHOLE, ValueKind.REAL):
            raise Refused("cannot be a range", f"Write {self.range_text}, or a list of such.")
        for key in given:
            if key not in ("low", "high", "scale"):
                near = difflib.get_close_matches(str(key), ("low", "high", "scale"), n=1)
                raise Refused(f"has no key {str(key)!r}", f"Did you mean {near[0]!r}?" if near else example, (key,))
        for key in ("low", "high"):
            if key not in given:
                raise Refused(f"is a range without {key}", example)
        low, high = self.one(given["low"], ("low",)), self.one(given["high"], ("high",))
        scale = given.get("scale", "linear")
        if scale not in ("linear", "log"):
            raise Refused(f"cannot have the scale {_shown(scale)}", "Choose linear or log.", ("scale",))
        if not low < high:
            raise Refused(f"has low ({low}), which must be below high ({high})", "Exchange or correct them.", ("low",))
        if scale == "log" and low <= 0:
            raise Refused(f"has a log scale, which needs low above 0, not {low}", "Raise low.", ("low",))
        return {"low": low, "high": high, "scale": str(scale)}

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values that `read` accepts."""
        one: dict[str, Any] = {"type": {ValueKind.WHOLE: "integer", ValueKind.REAL: "number"}.get(self.kind, "string")}
        if self.kind is ValueKind.SWITCH:
            one = {"type": "boolean"}
        if self.choices:
            one["enum"] = list(self.choices)
        if self.registry is not None:  # the schema covers this package only, whatever other packages are installed
            one["examples"] = list(self.registry.built_in)
        if self.low is not None:
            one["exclusiveMinimum" if self.open_low else "minimum"] = self.low
        if self.high is not None:
            one["exclusiveMaximum" if self.open_high else "maximum"] = self.high
        forms = [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CHOICES}]
        if self.kind in (ValueKind.WHOLE, ValueKind.REAL):
            properties = {"low": one, "high": one, "scale": {"enum": ["linear", "log"], "default": "linear"}}
            forms.append(
                {
                    "type": "object",
                    "properties": properties,
                    "required": ["low", "high"],
                    "additionalProperties": False,
                }
            )
        return {"description": self.help, "anyOf": forms}


_DECLARED = "hyperparameter"  # key of a field's metadata


def declared(kind: ValueKind, text: str, group: Group = Group.MODEL, **rules: Any) -> dict[str, Any]:
    """Return the metadata that makes a field a hyperparameter; its name and default are the field's."""
    return {_DECLARED: (kind, text, group, rules)}


def table_of(settings: type[Any]) -> dict[str, Hyperparameter]:
    """Return the hyperparameters that the fields of a dataclass declare, by name."""
    found = {}
    for each in fields(settings):
        if _DECLARED in each.metadata:
            kind, text, group, rules = each.metadata[_DECLARED]
            found[each.name] = Hyperparameter(each.name, kind, each.default, text, group, **rules)
    return found


def find(declared: Iterable[Hyperparameter], owner: str, name: str) -> Hyperparameter:
    """Return the option ``name`` of ``owner``, which may be an algorithm or a policy.

    Raises
    ------
    Refused
        When no option has that name.
    """
    known = {option.name: option for option in declared}
    if name not in known:
        raise Refused(f"is not an option of {owner}", suggestion(name, known), (name,))
    return known[name]


def complete(declared: Sequence[Hyperparameter], owner: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every option of ``owner``: the given value, checked, or the default.

    Raises
    ------
    Refused
        When a name is unknown, or a value is of the wrong type or out of bounds.
    """
    checked = {name: find(declared, owner, name).one(value, (name,)) for name, value in given.items()}
    return {option.name: option.default for option in declared} | checked


def _number(value: Any, *, whole: bool) -> int | float | None:
    """Return a finite number that is not a boolean, as written; whole numbers as ``int``; None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        if not math.isfinite(value):
            return None
    except OverflowError:  # more digits than a float holds
        return None
    if not whole:
        return int(value) if isinstance(value, int) else float(value)
    return int(value) if value == int(value) else None


def _shown(value: Any) -> str:
    """Return a value as text for a message: short, in YAML's notation."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    if isinstance(value, int) and abs(value) < 10**15:
        return str(value)
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a number of hundreds of digits"
    if isinstance(value, int | float):
        return f"{value:g}"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) < 60 else f"{text[:57]}..."
