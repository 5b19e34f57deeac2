"""Units of labels in units of their targets: a factor, and a volume for stresses given as virials."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.contracts.targets import Origin, Target
from gfm_pipeline.core.contracts.units import signed, unit_factor, unit_of
from gfm_pipeline.core.errors import Refused


@dataclass(frozen=True)
class LabelUnit:
    """From a label to its target.

    Attributes
    ----------
    factor
        What the label is multiplied by; negative where its sign is opposite.
    per_volume
        Whether it is divided by the volume of the cell too: the label is a virial.
    text
        The unit as it was written.
    """

    factor: float
    per_volume: bool
    text: str


def label_unit(text: str, target: Target) -> LabelUnit:
    """Return what a unit says of the labels of a target.

    A minus sign turns the label: ``-kbar`` is a stress that is positive under compression. A stress in a unit of energy
    is a virial, which is the stress times the volume of the cell, and mostly of opposite sign: ``-eV``.

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
