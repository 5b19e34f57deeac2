"""Labels of targets beside energy and forces: from files to datasets, whatever the file calls them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.io import write
from ingest_cases import all_columns, labelled, only_shard, run_all

from gfm_pipeline.apps.dataset import BpFile, Dataset, read_columns
from gfm_pipeline.apps.dataset.batching.graph_source import DiskSource, InMemorySource, read_table
from gfm_pipeline.apps.dataset.inspect import info
from gfm_pipeline.apps.dataset.store.hydragnn_export import export
from gfm_pipeline.apps.ingest.checks.filters import Conversion, clean
from gfm_pipeline.apps.ingest.checks.label_shapes import as_declared
from gfm_pipeline.apps.ingest.files.record_batches import Packer, Unpacker
from gfm_pipeline.apps.ingest.records import Record, RefusedError
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings, Split
from gfm_pipeline.core.contracts.layout import HydragnnExport
from gfm_pipeline.core.contracts.targets import (
    BAND_GAP,
    CHARGES,
    DIPOLE,
    STRESS,
    Constraint,
    Level,
    Rank,
    Reference,
    Target,
)

SPIN = Target("spin_density", "", "spin of atoms", Level.ATOM, keys=("spin_density", "atomic_spin"))
ENTHALPY = Target("enthalpy", "eV", "enthalpy", extensive=True, reference=Reference.ELEMENTS)
OF_ELEMENTS = replace(CHARGES, constraint=Constraint.NONE, reference=Reference.ELEMENTS)
TARGETS = (BAND_GAP, OF_ELEMENTS, DIPOLE, ENTHALPY)


def with_labels(n: int = 24) -> list[Atoms]:
    """Return frames of which every third lacks its dipole, and every fourth its gap and its charges."""
    rng = np.random.default_rng(1)
    frames = labelled(n)
    for k, atoms in enumerate(frames):
        atoms.info["run"] = f"run{k % 5}"
        of_atoms = np.where(atoms.numbers == 1, 0.1, -0.3)
        if k % 4:
            atoms.info["gap"] = 5.0 + rng.normal()
            atoms.arrays["hirshfeld_charges"] = of_atoms + 0.01 * rng.normal(size=len(atoms))
        if k % 3:
            atoms.info["REF_dipole"] = rng.normal(size=3)
        atoms.info["enthalpy"] = 1e6 * len(atoms) + atoms.get_potential_energy()
    return frames


def source_of(tmp_path: Path, frames: list[Atoms], **changes) -> SourceSettings:
    write(tmp_path / "frames.extxyz", frames)
    settings = SourceSettings("frames", "ase", (str(tmp_path / "frames.extxyz"),), group_key="run", targets=TARGETS)
    return replace(settings, **changes)


def by_place(frames: list[Atoms], key: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.array([atoms.info.get(key, np.full(shape, np.nan)) for atoms in frames])


def test_labels_go_from_extended_xyz_to_the_dataset(tmp_path: Path) -> None:
    frames = with_labels()
    result = run_all(tmp_path, source_of(tmp_path, frames))
    columns = all_columns(result)
    order = columns.origin
    np.testing.assert_allclose(columns.graph_labels["band_gap"], by_place(frames, "gap", ())[order], rtol=1e-6)
    np.testing.assert_allclose(columns.graph_labels["dipole"], by_place(frames, "REF_dipole", (3,))[order], rtol=1e-6)
    np.testing.assert_array_equal(columns.graph_labels["enthalpy"], by_place(frames, "enthalpy", ())[order])
    missing = [np.full(len(a), np.nan) for a in frames]
    charges = [frames[k].arrays.get("hirshfeld_charges", missing[k]) for k in order]
    np.testing.assert_allclose(columns.atom_labels["charges"], np.concatenate(charges), rtol=1e-6)
    facts = result.statistics.targets
    assert list(facts) == ["band_gap", "charges", "dipole", "enthalpy"]
    assert sum(facts["band_gap"].known.values()) == 18
    assert sum(facts["dipole"].known.values()) == 16
    assert sum(facts["charges"].known.values()) == sum(len(a) for k, a in enumerate(frames) if k % 4)
    report = (Path(result.output) / "ingest_report.md").read_text()
    assert "## Further targets" in report
    assert "| dipole | e*Å/atom |" in report


def test_references_and_scales_are_those_of_the_training_split(tmp_path: Path) -> None:
    result = run_all(tmp_path, source_of(tmp_path, with_labels()))
    dataset, facts = Dataset.open(Path(result.output)), result.statistics.targets
    train = dataset.columns(Split.TRAIN)
    gaps = train.graph_labels["band_gap"]
    mean = np.nanmean(gaps)
    assert facts["band_gap"].reference == {"mean": pytest.approx(mean)}
    assert facts["band_gap"].scale == pytest.approx(np.sqrt(np.nanmean((gaps - mean) ** 2)), rel=1e-6)
    charges = train.atom_labels["charges"]
    for symbol, number in (("H", 1), ("O", 8)):
        assert facts["charges"].reference[symbol] == pytest.approx(np.nanmean(charges[train.numbers == number]))
    per_atom = train.graph_labels["dipole"] / train.natoms[:, None]
    assert facts["dipole"].reference == {}
    assert facts["dipole"].scale == pytest.approx(np.sqrt(np.nanmean(per_atom**2)), rel=1e-6)
    test = dataset.columns(Split.TEST)
    assert facts["band_gap"].null["testset"] == pytest.approx(np.nanmean(np.abs(test.graph_labels["band_gap"] - mean)))
    assert facts["enthalpy"].scale < 2.0  # of a million eV/atom: the fit explains nearly all


def test_tables_and_indexes_know_the_labels_of_every_structure(tmp_path: Path) -> None:
    result = run_all(tmp_path, source_of(tmp_path, with_labels()))
    dataset = Dataset.open(Path(result.output))
    references = result.statistics.references
    table = read_table(dataset, Split.TRAIN, 3.0, 0, references)
    assert abs(np.nanmean(table.graph_labels["band_gap"])) < 1e-5
    assert np.abs(table.graph_labels["enthalpy"]).max() < 100
    index = dataset.index(Split.TRAIN)
    assert index is not None
    disk, held = DiskSource(dataset, Split.TRAIN, index, 3.0, 0, references, 0), InMemorySource(table)
    graphs = np.arange(len(table))
    for target in ("energy", "forces", *result.statistics.targets):
        np.testing.assert_array_equal(disk.facts(graphs).known[target], held.facts(graphs).known[target])
    picked = np.array([1, 3])
    np.testing.assert_array_equal(disk.table(picked)[0].graph_labels["dipole"], table.graph_labels["dipole"][picked])
    disk.close()


def test_a_source_names_its_labels_and_their_units(tmp_path: Path) -> None:
    frames = with_labels(6)
    for atoms in frames:
        atoms.info["mu_pbe"] = np.array([1.0, 2.0, 3.0])
    settings = source_of(
        tmp_path, frames, targets=(DIPOLE,), labels={"dipole": "mu_pbe"}, label_units={"dipole": "Debye"}
    )
    shard, bad = only_shard(tmp_path, settings)
    assert not bad
    np.testing.assert_allclose(shard.graph_labels["dipole"], np.tile([1.0, 2.0, 3.0], (6, 1)) * units.Debye)
    assert Conversion.of(settings).sentences[-1].startswith("dipole was converted from Debye to e*Angstrom")


def test_names_that_could_be_meant_too_are_said(tmp_path: Path) -> None:
    frames = with_labels(4)
    for atoms in frames:
        atoms.arrays["mulliken_charges"] = np.zeros(len(atoms))
        atoms.arrays["hirshfeld_charges"] = np.ones(len(atoms))
    result = run_all(tmp_path, source_of(tmp_path, frames * 4, targets=(CHARGES,), duplicates="keep"))
    assert any("mulliken_charges could be meant too" in text for text in result.statistics.warnings)
    assert (all_columns(result).atom_labels["charges"] == 1).all()


def a_record(**labels) -> Record:
    return Record(
        numbers=np.array([1, 8]),
        pos=np.array([[0.0, 0, 0], [0, 0, 1]]),
        forces=np.zeros((2, 3)),
        energy=1.0,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        group="a",
        file="f",
        file_index=0,
        index=3,
        labels={name: np.asarray(value, dtype=float) for name, value in labels.items()},
    )


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"dipole": [1.0, 2.0]}, "wrong shape of dipole: 2, where three numbers for the structure are needed"),
        ({"dipole": [1.0, np.nan, 2.0]}, "dipole is not finite numbers"),
        ({"charges": [1.0]}, "wrong shape of charges: 1, where one number for each of 2 atoms are needed"),
        ({"charges": [[1.0, 2.0, 3.0]] * 2}, "wrong shape of charges: 2x3"),
        ({"stress": np.arange(9.0)}, "stress is not symmetric"),
        ({"stress": np.arange(7.0)}, "wrong shape of stress: 7, where six or nine numbers"),
        ({"band_gap": [1.0, 2.0]}, "wrong shape of band_gap"),
    ],
)
def test_labels_of_a_wrong_shape_or_value_cost_their_record(labels, reason) -> None:
    source = SourceSettings("s", "ase", targets=(BAND_GAP, CHARGES, DIPOLE, STRESS))
    found = clean(a_record(**labels), source, Conversion.of(source))
    assert isinstance(found, BadRecord)
    assert found.reason.startswith(reason)
    assert found.index == 3


def test_a_text_that_is_no_number_costs_its_record(tmp_path: Path) -> None:
    frames = with_labels(6)
    frames[2].info["gap"] = "wide"
    settings = source_of(tmp_path, frames, targets=(BAND_GAP,), labels={"band_gap": "gap"})
    shard, bad = only_shard(tmp_path, settings)
    assert len(shard) == 5
    assert [(one.index, one.reason) for one in bad] == [
        (2, "band_gap is neither a number nor an array of numbers: 'wide'")
    ]


@pytest.mark.parametrize("written", ["nine", "matrix", "voigt"])
def test_a_symmetric_tensor_has_three_spellings(written: str) -> None:
    matrix = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    values = {"nine": matrix.ravel(), "matrix": matrix, "voigt": np.arange(1.0, 7)}[written]
    np.testing.assert_array_equal(as_declared(STRESS, values, 5), matrix)
    of_atoms = replace(STRESS, level=Level.ATOM)
    np.testing.assert_array_equal(as_declared(of_atoms, np.stack([values] * 5), 5), np.stack([matrix] * 5))
    with pytest.raises(RefusedError):
        as_declared(of_atoms, np.stack([values] * 4), 5)


def test_records_keep_their_labels_between_processes() -> None:
    records = [
        a_record(dipole=[1.0, 2, 3], band_gap=2.0),
        a_record(),
        a_record(charges=[0.5, -0.5], stress=np.eye(3), dipole=[4.0, 5, 6]),
    ]
    found = list(Unpacker().unpack(Packer().pack(records)))
    for record, other in zip(records, found, strict=True):
        assert isinstance(other, Record)
        assert list(other.labels) == list(record.labels)
        for name, values in record.labels.items():
            np.testing.assert_array_equal(other.labels[name], values)
            assert other.labels[name].shape == values.shape


def test_a_rank_that_files_do_not_know_is_declared_like_any_other(tmp_path: Path) -> None:
    quadrupole = Target("quadrupole", "e*Angstrom^2", "quadrupole", Level.GRAPH, Rank.TENSOR)
    frames = labelled(12)
    for atoms in frames:
        atoms.info["quadrupole"] = np.diag([1.0, 2, 3]).ravel()
        atoms.arrays["atomic_spin"] = np.arange(float(len(atoms)))
    columns = all_columns(run_all(tmp_path, source_of(tmp_path, frames, targets=(quadrupole, SPIN))))
    assert columns.graph_labels["quadrupole"].shape == (12, 3, 3)
    np.testing.assert_array_equal(columns.graph_labels["quadrupole"][5], np.diag([1.0, 2, 3]))
    first = columns.atom_labels["spin_density"][: columns.natoms[0]]
    np.testing.assert_array_equal(first, np.arange(float(columns.natoms[0])))


@pytest.mark.parametrize("written", ["traj", "db", "json", "npz", "bp"])
def test_every_reader_finds_labels_by_the_same_names(tmp_path: Path, written: str) -> None:
    frames = labelled(12)
    if written == "npz":  # which holds one molecule
        frames = [atoms for atoms in labelled(36) if len(atoms) == 3]
    for k, atoms in enumerate(frames):
        atoms.calc.results["dipole"] = np.array([1.0, 2.0, k])
    path, options, reader = tmp_path / f"frames.{written}", {}, "ase"
    if written in ("traj", "db"):
        write(path, frames)
    elif written == "json":
        reader = "json-table"
        rows = [
            {
                "positions": atoms.positions.tolist(),
                "numbers": atoms.numbers.tolist(),
                "energy": atoms.calc.results["energy"],
                "forces": atoms.calc.results["forces"].tolist(),
                "dipole_moment": atoms.calc.results["dipole"].tolist(),
            }
            for atoms in frames
        ]
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif written == "npz":
        reader = "npz"
        np.savez(
            path,
            z=frames[0].numbers,
            R=np.array([atoms.positions for atoms in frames]),
            E=np.array([atoms.calc.results["energy"] for atoms in frames]),
            F=np.array([atoms.calc.results["forces"] for atoms in frames]),
            dipole=np.array([atoms.calc.results["dipole"] for atoms in frames]),
        )
    else:
        for atoms in frames:
            atoms.info["dipole"] = atoms.calc.results.pop("dipole")
        first = run_all(tmp_path, source_of(tmp_path, frames, targets=(DIPOLE,)))
        reader, path = "hydragnn", Path(first.output) / "frames.bp"
    settings = SourceSettings(
        "again", reader, (str(path),), options, group_key="@record", duplicates="keep", targets=(DIPOLE,)
    )
    shard, bad = only_shard(tmp_path, settings)
    assert not bad
    last = np.sort(shard.graph_labels["dipole"][:, 2])
    np.testing.assert_allclose(last, np.arange(len(frames)), atol=1e-6)
    np.testing.assert_allclose(shard.graph_labels["dipole"][:, :2], np.tile([1.0, 2.0], (len(frames), 1)))


def test_generators_give_labels_that_are_asked_for(tmp_path: Path) -> None:
    options = {"molecules": ["H2O"], "temperatures": [300.0], "replicas": 2, "frames": 2}
    source = SourceSettings("xtb", "xtb-md", options=options, targets=(BAND_GAP, CHARGES, DIPOLE))
    shard, bad = only_shard(tmp_path, source)
    assert not bad
    assert (shard.graph_labels["band_gap"] > 5).all()
    np.testing.assert_allclose(shard.atom_labels["charges"].reshape(-1, 3).sum(axis=1), 0, atol=1e-6)
    lengths = np.linalg.norm(shard.graph_labels["dipole"], axis=1)
    assert ((lengths > 0.2) & (lengths < 0.8)).all()


def test_stress_of_a_generator_is_the_strain_derivative_of_its_energy(tmp_path: Path) -> None:
    from ase.calculators.emt import EMT

    options = {"parents": 1, "children": 1, "sizes": [4]}
    shard, _ = only_shard(tmp_path, SourceSettings("emt", "emt-alloys", options=options, targets=(STRESS,)))
    energies = []
    for strain in (1e-4, -1e-4):
        atoms = Atoms(shard.numbers, shard.pos, cell=shard.cell[0], pbc=True, calculator=EMT())
        atoms.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
        energies.append(atoms.get_potential_energy())
    pressure = (energies[0] - energies[1]) / 2e-4 / (3 * atoms.get_volume())
    assert np.trace(shard.graph_labels["stress"][0]) / 3 == pytest.approx(pressure, rel=1e-3)


def test_an_export_carries_the_labels(tmp_path: Path) -> None:
    frames = with_labels()
    first = Dataset.open(Path(run_all(tmp_path, source_of(tmp_path, frames)).output))
    export(first, tmp_path / "out.bp", HydragnnExport(radius=3.0))
    with BpFile(tmp_path / "out.bp") as file:
        ours, theirs = first.columns(Split.TRAIN), read_columns(file, Split.TRAIN)
    np.testing.assert_array_equal(theirs.graph_labels["dipole"], ours.graph_labels["dipole"])
    np.testing.assert_allclose(theirs.atom_labels["charges"], ours.atom_labels["charges"], rtol=1e-6)
    found = info(first)
    assert found.targets["dipole"].known == first.statistics.targets["dipole"].known
