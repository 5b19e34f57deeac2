"""Named test sets: read as their source is, never learned from, and compared with what models learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ingest_cases import run_read

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import (
    AssembleResult,
    AssembleSpec,
    Duplicates,
    EnergyUnit,
    SourceSettings,
    Split,
    learned,
)
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.errors import DataError, WorkflowError
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_source, resolve_sources

WORKFLOW = """\
name: c
data:
  sources:
    x:
      {source}
      test_sets:
        {sets}
search: {{candidates: 4, space: {{algorithm: [SchNet]}}}}
"""
SOURCE = "{reader: ase, files: train.xyz, energy_unit: Ha, group_key: '@record', max_force: 3, licence: CC0-1.0}"
REFERENCES = {"C": -10.0, "O": -12.0, "H": -2.0, "N": -11.0}


def frames(name: str, numbers: range) -> list[Atoms]:
    made = []
    for k in numbers:
        atoms = molecule(name)
        if len(atoms) > 1:
            atoms.rattle(0.05, seed=k)
        energy = sum(REFERENCES[s] for s in atoms.symbols) + (0.001 * k if len(atoms) > 1 else 0.0)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
        made.append(atoms)
    return made


def sources_of(folder: Path, sets: str, source: str = SOURCE) -> tuple[SourceSettings, ...]:
    path = folder / "w.yaml"
    lines = source.strip("{}").replace(", ", "\n      ")
    path.write_text(WORKFLOW.format(source=lines, sets=sets.replace("; ", "\n        ")))
    return resolve_sources(load_workflow(path, ()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    lone = [one for symbol in "COH" for one in frames(symbol, range(1))]
    write(place / "train.xyz", [*frames("CH3OH", range(20)), *frames("H2O", range(10)), *lone])
    write(place / "hot.xyz", [*frames("CH3OH", range(100, 106)), *frames("CH3OH", range(100, 101)), *lone[:1]])
    return place


def joined(folder: Path, source: SourceSettings, others: tuple[str, ...] = (), limit: float = 0.5) -> AssembleResult:
    shards = tuple(result.output for result in run_read(folder / f"read-{source.name}", source))
    output = str(folder / f"dataset-{source.name}")
    return assemble_program(AssembleSpec(source, shards, 0.2, 0.2, limit, 3, output, others=others), Task(folder))


@pytest.fixture(scope="module")
def trained(folder: Path) -> AssembleResult:
    return joined(folder, replace(sources_of(folder, "hot: hot.xyz")[0], energy_unit=EnergyUnit.EV))


def judged(folder: Path, trained: AssembleResult, name: str, structures: list[Atoms], limit: float = 0.5):
    write(folder / f"{name}.xyz", structures)
    source = replace(sources_of(folder, f"{name}: {name}.xyz")[1], energy_unit=EnergyUnit.EV)
    return joined(folder, source, (trained.output,), limit)


def test_a_test_set_is_read_as_its_source_is_and_keeps_all_records(folder: Path) -> None:
    text = "hot: hot.xyz; other: {files: [hot.xyz], energy_unit: eV, group_key: null}"
    trained, hot, other = sources_of(folder, text)
    assert learned((trained, hot, other)) == (trained,)
    assert (hot.name, hot.test_of, hot.reader, hot.licence) == ("x@hot", "x", "ase", "CC0-1.0")
    assert (hot.energy_unit, hot.group_key, hot.files) == ("Ha", "@record", (str(folder / "hot.xyz"),))
    assert (hot.max_force, hot.duplicates) == (None, Duplicates.KEEP)  # filters are those of the training data
    assert (other.energy_unit, other.group_key) == ("eV", None)
    assert resolve_source(load_workflow(folder / "w.yaml", ()), "x@hot") == hot


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("hot: missing.xyz", "w.yaml:12: There is no file"),
        ("hot: {reader: ase}", "test_sets.hot"),
        ("a@b: hot.xyz", "test_sets"),
        ("hot: {reader: emt-alloys, files: hot.xyz}", "makes its own data"),
    ],
)
def test_a_wrong_test_set_is_refused_with_its_line(folder: Path, sets: str, words: str) -> None:
    with pytest.raises(WorkflowError) as refused:
        sources_of(folder, sets)
    assert words in str(refused.value)


def test_all_records_are_test_structures_with_the_references_of_training(folder: Path, trained: AssembleResult) -> None:
    result = judged(folder, trained, "hot", [*frames("CH3OH", range(100, 106)), *frames("CH3OH", range(100, 101)),
                                             *frames("C", range(1))])  # fmt: skip
    facts = result.statistics
    assert facts.n_structures == {"trainset": 0, "valset": 0, "testset": 7}
    assert facts.reference == {s: trained.statistics.reference[s] for s in facts.elements}
    assert facts.n_quarantined == 0
    assert not any("training data" in sentence for sentence in facts.warnings)
    dataset = Dataset.open(Path(result.output))
    assert len(dataset.columns(Split.TEST)) == 7
    assert list(dataset.blocks(Split.TRAIN)) == []
    assert "1 isolated atoms" in (Path(result.output) / "ingest_report.md").read_text()


def test_structures_that_models_learn_from_are_counted_and_named(folder: Path, trained: AssembleResult) -> None:
    repeated = frames("CH3OH", range(20))
    result = judged(folder, trained, "leaky", [*frames("CH3OH", range(200, 203)), *repeated])
    counts = trained.statistics.n_structures
    learned_from = [s for s in result.statistics.warnings if "are in the training data of x, too" in s]
    assert len(learned_from) == 1
    n = int(learned_from[0].split(" of 23 ")[0])
    assert 20 - sum(counts[s] for s in ("valset", "testset")) <= n <= 20
    assert "(leaky.xyz, record " in learned_from[0]
    assert all("record 0;" not in s for s in learned_from)  # the first three are new


def test_records_of_elements_without_training_data_are_quarantined(folder: Path, trained: AssembleResult) -> None:
    mixed = [*frames("CH3OH", range(300, 304)), *frames("NH3", range(2))]
    result = judged(folder, trained, "nitrogen", mixed)
    assert result.statistics.n_structures["testset"] == 4
    assert result.statistics.reasons == {"element not in training": 2}
    assert "x has no structure with N" in (Path(result.output) / "quarantine.jsonl").read_text()
    with pytest.raises(DataError, match=r"2 of 6 records were set aside.*element not in training"):
        judged(folder, trained, "strict", mixed, limit=0.05)
    with pytest.raises(DataError, match="holds isolated atoms alone"):
        judged(folder, trained, "atoms", frames("C", range(1)))


def test_energies_of_another_kind_are_said(folder: Path, trained: AssembleResult) -> None:
    shifted = frames("CH3OH", range(400, 404))
    for atoms in shifted:
        atoms.calc.results["energy"] += 8.0 * len(atoms)
    warnings = judged(folder, trained, "other", shifted).statistics.warnings
    assert any("eV/atom above those of the training data of x" in sentence for sentence in warnings)


def test_the_preview_of_a_test_set_shows_one_split_and_no_references(folder: Path) -> None:
    source = sources_of(folder, "hot: hot.xyz")[1]
    found = preview(PreviewSpec(source, seed=1))
    assert [(one.split, one.records) for one in found.splits] == [("testset", 8)]
    assert found.references is None
    assert found.failure is None
    assert set(found.elements) == {"C", "H", "O"}
