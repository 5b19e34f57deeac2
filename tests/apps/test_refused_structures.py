"""Structures that no model can answer: refused by name in the calculator, in batches and in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from deploy_cases import EMT_BUNDLE

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.dataset import neighbour_list
from gfm_pipeline.apps.deploy.bundle import export
from gfm_pipeline.apps.deploy.predict import PredictFilesSpec, predict_files
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.errors import ConfigError, DataError, ModelError


def copper(change: Callable[[Atoms], None] | None = None) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    if change is not None:
        change(atoms)
    return atoms


def put(place: tuple[int, int], value: float) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        atoms.positions[place] = value

    return change


def on_an_image(atoms: Atoms) -> None:
    atoms.positions[2] = atoms.positions[1] + 2 * atoms.cell[0] - atoms.cell[2]


def without_a_number(atoms: Atoms) -> None:
    atoms.cell.array[1, 1] = np.nan


def flat(atoms: Atoms) -> None:
    atoms.cell.array[2] = atoms.cell.array[1]


def of_iron(atoms: Atoms) -> None:
    atoms.numbers[3] = 26


FAULTS: dict[str, tuple[Callable[[Atoms], None], str]] = {
    "NaN": (put((2, 1), np.nan), "The position of atom 2 is not finite"),
    "infinite": (put((1, 0), -np.inf), "The position of atom 1 is not finite"),
    "cell": (without_a_number, "The cell is not finite"),
    "beyond all cells": (put((0, 2), 1e30), "too large to say where in its cell it is.$"),
    "no volume": (flat, "volume"),
    "coincident": (lambda atoms: atoms.positions.__setitem__(3, atoms.positions[1]), "Atoms . and . are at one place"),
    "coincident with an image": (on_an_image, "Atoms . and . are at one place"),
    "unseen element": (of_iron, "holds no Fe"),
    "no atoms": (lambda atoms: atoms.__delitem__(slice(None)), "no atoms"),
}


@pytest.fixture(scope="module")
def calculator() -> GFMCalculator:
    return GFMCalculator(EMT_BUNDLE)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_structure_without_an_answer_is_refused_wherever_a_model_answers(
    fault: str, calculator: GFMCalculator
) -> None:
    change, words = FAULTS[fault]
    atoms = copper(change)
    with pytest.raises(ModelError, match=words):
        calculator.get_property("energy", atoms)
    with pytest.raises(ModelError, match=words):
        calculator.predict([copper(), atoms, copper()])
    other_composition = fault in ("unseen element", "no atoms")
    with pytest.raises(ModelError, match="no difference" if other_composition else words):
        calculator.energy_difference(copper(), atoms)
    assert np.isfinite(calculator.get_property("energy", copper()))  # it answers on


def test_in_files_they_cost_themselves_only(tmp_path: Path) -> None:
    faults = ["coincident", "unseen element", "no volume", "beyond all cells"]  # a reader refuses the others
    structures = [copper(), *(copper(FAULTS[fault][0]) for fault in faults), copper()]
    write(tmp_path / "in.extxyz", structures)
    source = SourceSettings("in", "ase", (str(tmp_path / "in.extxyz"),))
    facts = predict_files(PredictFilesSpec(model=str(EMT_BUNDLE), source=source))
    assert (facts.structures, facts.n_refused) == (2, 4)
    assert not any("None" in reason for reason in facts.refused)
    for fault, reason in zip(faults, sorted(facts.refused), strict=True):
        assert "in.extxyz" in reason, fault


def test_a_key_that_no_record_has_is_named(tmp_path: Path) -> None:
    structures = [copper(), copper()]
    for atoms in structures:
        atoms.calc = EMT()
        atoms.get_forces()
    write(tmp_path / "in.extxyz", structures)
    source = SourceSettings("in", "ase", (str(tmp_path / "in.extxyz"),), group_key="config_typ")
    facts = predict_files(PredictFilesSpec(model=str(EMT_BUNDLE), source=source, evaluate=True, by_group=True))
    assert facts.warnings["without the key 'config_typ', and in no group"] == 2


def test_an_exported_file_is_not_exported_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is an exported file already"):
        export(EMT_BUNDLE, tmp_path / "again.gfm")


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False)])
def test_a_cell_much_too_small_is_refused_before_its_images_are_listed(pbc: tuple[bool, bool, bool]) -> None:
    """As of a cell in metres: its list of pairs would take all memory, and hours."""
    cell = np.diag([1e-4, 1e-4, 1e-4])
    with pytest.raises(DataError, match=r"The cell is too small: each atom has .* images"):
        neighbour_list(np.zeros((1, 3)), cell, np.array(pbc), 5.0)
    src, _, _ = neighbour_list(np.zeros((1, 3)), cell * 2.5e4, np.array(pbc), 5.0)
    assert len(src) > 0
