"""Units of labels: the values are ASE's, and what is none is refused."""

import pytest
from ase import units

from gfm_pipeline.core.contracts.units import unit_factor, unit_of
from gfm_pipeline.core.errors import Refused


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("Debye", "e*Angstrom", units.Debye),
        ("kbar", "eV/Angstrom^3", units.GPa / 10),
        ("GPa", "eV/Angstrom^3", units.GPa),
        ("kcal/mol", "eV", units.kcal / units.mol),
        ("Ha/Bohr^3", "eV/Angstrom^3", units.Hartree / units.Bohr**3),
        ("e Bohr", "e*Angstrom", units.Bohr),
        ("ry", "eV", units.Rydberg),
        ("1/nm", "Angstrom^-1", 0.1),
        ("C*m", "e*Angstrom", units.C * 1e10),
        ("", "", 1.0),
    ],
)
def test_values_are_those_of_ase(text, wanted, value):
    assert unit_factor(text, wanted) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"), [("Debbye", "Did you mean Debye?"), ("eV//Angstrom", "products"), ("eV^x", "products")]
)
def test_what_is_no_unit_is_refused(text, words):
    with pytest.raises(Refused) as error:
        unit_of(text)
    assert words in (error.value.hint or "")


def test_units_of_different_things_are_refused():
    with pytest.raises(Refused, match="measures energy"):
        unit_factor("Ha", "e*Angstrom")
