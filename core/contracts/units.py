"""Units of labels: products and quotients of known units, such as ``e*Angstrom`` or ``eV/Angstrom^3``.

Values are CODATA 2014, as in ASE, in eV, Angstrom, elementary charge, Bohr magneton, atomic mass unit, fs, K and
radian.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import lru_cache

from gfm_pipeline.core.contracts.targets import Origin, Target
from gfm_pipeline.core.errors import Refused

_CHARGE, _AVOGADRO, _LIGHT = 1.6021766208e-19, 6.022140857e23, 299792458.0
_HARTREE, _BOHR, _DALTON = 27.211386024367243, 0.5291772105638411, 1.660539040e-27
_JOULE, _METRE, _SECOND = 1.0 / _CHARGE, 1e10, 1e15
_PASCAL = _JOULE / _METRE**3
_BASE = ("energy", "length", "charge", "magnetic moment", "mass", "time", "temperature", "angle")
_ENERGY, _LENGTH, _E, _MOMENT, _MASS, _TIME, _KELVIN, _ANGLE = (
    tuple(int(k == at) for k in range(len(_BASE))) for at in range(len(_BASE))
)
_NUMBER = (0,) * len(_BASE)
_PRESSURE = tuple(a - 3 * b for a, b in zip(_ENERGY, _LENGTH, strict=True))
_VOLT = tuple(a - b for a, b in zip(_ENERGY, _E, strict=True))
_DIPOLE = tuple(a + b for a, b in zip(_E, _LENGTH, strict=True))

_TERM = re.compile(r"^([A-Za-zÅå_]+|1)(?:\^?(-?\d))?$")


@dataclass(frozen=True)
class Unit:
    """A unit: its value in the units above, and the exponents of its dimensions."""

    value: float
    dimension: tuple[int, ...]


_KNOWN = {
    name: Unit(value, dimension)
    for names, value, dimension in (
        ("1", 1.0, _NUMBER),
        ("eV", 1.0, _ENERGY),
        ("meV", 1e-3, _ENERGY),
        ("Ha Hartree", _HARTREE, _ENERGY),
        ("mHa", 1e-3 * _HARTREE, _ENERGY),
        ("Ry Rydberg", 0.5 * _HARTREE, _ENERGY),
        ("J", _JOULE, _ENERGY),
        ("kJ", 1e3 * _JOULE, _ENERGY),
        ("cal", 4.184 * _JOULE, _ENERGY),
        ("kcal", 4184.0 * _JOULE, _ENERGY),
        ("mol", _AVOGADRO, _NUMBER),
        ("Angstrom Ang A Å", 1.0, _LENGTH),
        ("Bohr", _BOHR, _LENGTH),
        ("nm", 10.0, _LENGTH),
        ("pm", 0.01, _LENGTH),
        ("cm", 1e8, _LENGTH),
        ("m", _METRE, _LENGTH),
        ("e", 1.0, _E),
        ("C Coulomb", 1.0 / _CHARGE, _E),
        ("Debye D", 1.0 / (1e11 * _CHARGE * _LIGHT), _DIPOLE),
        ("mu_B muB bohr_magneton", 1.0, _MOMENT),
        ("V", 1.0, _VOLT),
        ("Pa", _PASCAL, _PRESSURE),
        ("MPa", 1e6 * _PASCAL, _PRESSURE),
        ("GPa", 1e9 * _PASCAL, _PRESSURE),
        ("bar", 1e5 * _PASCAL, _PRESSURE),
        ("kbar", 1e8 * _PASCAL, _PRESSURE),
        ("amu u Da", 1.0, _MASS),
        ("kg", 1.0 / _DALTON, _MASS),
        ("fs", 1.0, _TIME),
        ("ps", 1e3, _TIME),
        ("s", _SECOND, _TIME),
        ("K Kelvin", 1.0, _KELVIN),
        ("rad radian", 1.0, _ANGLE),
        ("deg degree", math.pi / 180.0, _ANGLE),
    )
    for name in names.split()
}
# Names in lower case that belong to one unit only.
_ANY_CASE = {
    name.lower(): unit
    for name, unit in _KNOWN.items()
    if len({other for known, other in _KNOWN.items() if known.lower() == name.lower()}) == 1
}


def unit_names() -> list[str]:
    """Return the names from which units are built."""
    return list(_KNOWN)


@lru_cache(maxsize=256)
def unit_of(text: str) -> Unit:
    """Parse a unit; an empty text is a number without unit.

    Raises
    ------
    Refused
        When the text contains an unknown unit.
    """
    value, dimension = 1.0, _NUMBER
    compact = re.sub(r"\s*([*/^])\s*", r"\1", text.strip().replace("·", "*").replace("**", "^"))
    if not compact:
        return Unit(value, dimension)
    sign = 1
    for word in re.split(r"([*/ ])", compact):
        if word in ("*", "/", " "):
            sign = -1 if word == "/" else 1
            continue
        term = _TERM.match(word)
        found = None if term is None else _KNOWN.get(term[1], _ANY_CASE.get(term[1].lower()))
        if term is None or found is None:
            near = difflib.get_close_matches(word, unit_names(), n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise Refused(
                f"is {text!r}, and {word!r} in it is not a unit that is known here",
                f"{hint}Units are products and quotients such as e*Angstrom or eV/Angstrom^3, of: "
                f"{', '.join(unit_names()[1:])}.",
            )
        power = sign * int(term[2] or 1)
        value *= found.value**power
        dimension = tuple(a + power * b for a, b in zip(dimension, found.dimension, strict=True))
    return Unit(value, dimension)


def measures(unit: Unit) -> str:
    """Return what a unit measures, in words."""
    parts = [name if n == 1 else f"{name}^{n}" for name, n in zip(_BASE, unit.dimension, strict=True) if n]
    return " ".join(parts) or "a number"


def signed(text: str) -> tuple[float, str]:
    """Return the sign before a unit, and the unit: ``-kbar`` marks a label of opposite sign."""
    bare = text.strip()
    return (-1.0, bare[1:].strip()) if bare.startswith(("-", "−")) else (1.0, bare)


def unit_factor(text: str, wanted: str) -> float:
    """Return the factor from a unit to ``wanted``; negative when a minus sign precedes the unit.

    Raises
    ------
    Refused
        When one of them is unknown, or they measure different things.
    """
    sign, bare = signed(text)
    if sign < 0:
        return -unit_factor(bare, wanted)
    one, other = unit_of(text), unit_of(wanted)
    if one.dimension != other.dimension:
        raise Refused(
            f"is {text!r}, which measures {measures(one)}, where {wanted or 'a number without unit'} is needed",
            f"Name a unit of {measures(other)}." if wanted else "Leave it out.",
        )
    factor = one.value / other.value
    nearest = round(factor)
    return float(nearest) if nearest and math.isclose(factor, nearest, rel_tol=1e-12) else factor


@dataclass(frozen=True)
class LabelUnit:
    """Conversion of a label to its target.

    Attributes
    ----------
    factor
        Multiplier of the label; negative when its sign is opposite.
    per_volume
        Whether to divide by the volume of the cell as well: the label is a virial.
    text
        The unit as written.
    """

    factor: float
    per_volume: bool
    text: str


def label_unit(text: str, target: Target) -> LabelUnit:
    """Return the conversion that a unit implies for labels of a target.

    A minus sign reverses the label: ``-kbar`` is a stress that is positive under compression. A stress in a unit of
    energy is a virial, which is the stress times the volume of the cell, and usually has the opposite sign: ``-eV``.

    Raises
    ------
    Refused
        When the unit is unknown, or measures something else.
    """
    sign, bare = signed(text)
    if target.origin is Origin.STRAIN and unit_of(bare).dimension == unit_of("eV").dimension:
        volume = f"{target.unit}*Angstrom^3"
        return LabelUnit(sign * unit_factor(bare, volume), True, text)
    try:
        return LabelUnit(unit_factor(text, target.unit), False, text)
    except Refused as error:
        if target.origin is Origin.STRAIN:
            hint = f"{error.hint} Or, of a virial, a unit of energy. A minus sign before it turns the label."
            raise Refused(error.message, hint, error.at) from error
        raise
