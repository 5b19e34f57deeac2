"""Graph attributes: known numbers of whole structures that are inputs of models, such as total charge or pressure.

An attribute is one declared record. Ingest, datasets, batches, conditioning and calculators loop over attributes. All
workflows have total charge and spin multiplicity; a workflow declares others under ``attributes``, or names those of
other packages there (entry points of the group ``gfm_pipeline.attributes``, whose values name an `Attribute`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gfm_pipeline.core.contracts.extensions import Extensions, suggestion
from gfm_pipeline.core.contracts.targets import RESERVED, TARGETS, Target
from gfm_pipeline.core.contracts.units import unit_of
from gfm_pipeline.core.errors import ConfigError, Refused

ENTRY_POINTS = "gfm_pipeline.attributes"
NONE, JOINT = "none", "_and_"  # of ``condition_on``: no attribute, and the word between several


@dataclass(frozen=True)
class Attribute:
    """A number or category of a whole structure, an input of models that are told of it.

    Parameters
    ----------
    name
        Its name in workflows, datasets and reports: letters, digits and underscores.
    unit
        Unit of its values in datasets and in ``atoms.info``; empty for numbers without unit.
    text
        The attribute in one line.
    neutral
        The value that leaves a model as without conditioning; of categories, the position of one.
    extensive
        Whether the values of two structures far apart add up; models then read the value per atom.
    categories
        The possible values as text, for an attribute that is a category; datasets hold positions in this list.
    keys
        Its names in data and in ``atoms.info``, the preferred one first; empty: ``name``.
    unknown
        A value in data that means that the attribute is not known; its absence then always differs from all values.
    """

    name: str
    unit: str = ""
    text: str = ""
    neutral: float = 0.0
    extensive: bool = False
    categories: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    unknown: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its names in data, the preferred one first."""
        return self.keys or (self.name,)

    @property
    def column(self) -> Target:
        """The column of datasets that holds its values: a scalar of structures, NaN where not known."""
        return Target(self.name, self.unit, self.text, keys=self.keys)

    def number(self, value: Any) -> float:
        """Return a value as a number: of categories, the position of one.

        Raises
        ------
        ValueError
            With the rest of a sentence that begins with the value.
        """
        if hasattr(value, "tolist"):  # of NumPy
            value = value.tolist()
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if self.categories:
            text = value_text(value)
            if text not in self.categories:
                raise ValueError(f"is none of its categories: {', '.join(self.categories)}")
            return float(self.categories.index(text))
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError("is not a number")
        return number

    def value(self, number: float) -> float | str:
        """Return the value that `number` turned into a number."""
        return self.categories[int(number)] if self.categories else number

    def shown(self, number: float) -> str:
        """Return a number of `number` as users write it, with its unit."""
        if self.categories:
            return self.categories[int(number)]
        return f"{number:g} {self.unit}".strip()


def value_text(value: Any) -> str:
    """Return a category as text: whole numbers without a decimal point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.12g}"


CHARGE = Attribute("charge", "e", "total charge", extensive=True, keys=("charge", "total_charge"))
SPIN = Attribute(  # OMol25 uses ``charge`` and ``spin``
    "spin",
    text="spin multiplicity",
    neutral=1.0,
    extensive=True,
    keys=("spin", "spin_multiplicity", "multiplicity"),
    unknown=0.0,
)
BUILT_IN = (CHARGE, SPIN)  # every dataset has a column for each
ATTRIBUTES = Extensions("attribute", ENTRY_POINTS, Attribute, {one.name: one for one in BUILT_IN})


def check_attribute(attribute: Attribute) -> Attribute:
    """Return an attribute after a check that its declaration is consistent.

    Raises
    ------
    Refused
        When it is not; ``at`` names the field at fault.
    """
    name = attribute.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or JOINT in name or name == NONE:
        hint = f"Names are letters, digits and underscores, a letter first, without {JOINT}; none is no attribute."
        raise Refused(f"names {name!r}", hint)
    if name in RESERVED:
        raise Refused(f"names {name!r}, which a column of datasets has for its name", "Choose another name.")
    if name in TARGETS.names():
        raise Refused(
            f"names {name!r}, which is a target: models predict it, and are not told of it", "Choose another name."
        )
    try:
        unit_of(attribute.unit)
    except Refused as error:
        raise Refused(error.message, error.hint, ("unit",)) from error
    if not math.isfinite(attribute.neutral):
        raise Refused("is not a finite number", "Write for instance neutral: 0.", ("neutral",))
    if attribute.categories:
        _check_categories(attribute)
    return attribute


def _check_categories(attribute: Attribute) -> None:
    twice = next((one for one in attribute.categories if attribute.categories.count(one) > 1), None)
    if twice is not None:
        raise Refused(f"lists {twice} twice", "Leave one out.", ("categories",))
    if len(attribute.categories) < 2:
        raise Refused("lists one category, which tells a model nothing", "List two or more.", ("categories",))
    for field, word in (("unit", "unit"), ("extensive", "sum")):
        if getattr(attribute, field):
            raise Refused(f"is given, and categories have no {word}", "Leave it out.", (field,))
    if not 0 <= attribute.neutral < len(attribute.categories):
        raise Refused("is none of the categories", f"Write one of {', '.join(attribute.categories)}.", ("neutral",))


def describe_attribute(name: str) -> Attribute:
    """Return the registered attribute of a name.

    Raises
    ------
    ConfigError
        When no attribute has that name, a package's declaration cannot be imported, or it contradicts itself.
    """
    attribute = ATTRIBUTES.declared(name)
    try:
        return check_attribute(attribute)
    except Refused as error:
        raise ConfigError(f"Attribute {name!r}: {'.'.join(map(str, error.at))} {error.message}.", error.hint) from error


def known_attributes(declared: Iterable[Attribute]) -> tuple[Attribute, ...]:
    """Return the built-in attributes and the declared ones."""
    return (*BUILT_IN, *declared)


def names_in(condition_on: str) -> tuple[str, ...]:
    """Return the names of attributes in a value of ``condition_on``: ``none``, ``charge``, ``charge_and_spin``."""
    return () if condition_on == NONE else tuple(condition_on.split(JOINT))


def conditioned(condition_on: str, declared: Sequence[Attribute] = ()) -> tuple[Attribute, ...]:
    """Return the attributes that a value of ``condition_on`` names.

    Raises
    ------
    Refused
        When one is not declared, or is named twice.
    """
    known = {one.name: one for one in known_attributes(declared)}
    names = names_in(condition_on)
    for name in names:
        if name not in known:
            hint = f"{suggestion(name, [*known, NONE])} Declare others under attributes of the workflow."
            raise Refused(f"names {name!r}, which is no attribute here", hint)
        if names.count(name) > 1:
            raise Refused(f"names {name} twice", "Leave one out.")
    return tuple(known[name] for name in names)
