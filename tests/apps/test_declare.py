"""Sources declared in full: filters, labels that do not belong together, streaming, shards, preview and export."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from gfm_pipeline.apps.contracts.data import (
    AssembleSpec,
    BadRecord,
    Duplicates,
    EnergyUnit,
    ForceSign,
    ReadShardSpec,
    SourceSettings,
    Split,
)
from gfm_pipeline.apps.contracts.layout import CHUNK, LAYOUT_FILE, DatasetInfo, InspectSpec, Layout
from gfm_pipeline.apps.contracts.preview import PreviewSpec
from gfm_pipeline.apps.dataset import BpFile, Columns, Dataset, neighbour_list, read_columns
from gfm_pipeline.apps.dataset.inspect import inspect
from gfm_pipeline.apps.ingest import survey as survey_module
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.clean import Conversion, _pairs, clean, faults
from gfm_pipeline.apps.ingest.fingerprints import fingerprint, order_keys
from gfm_pipeline.apps.ingest.labels import Collector, Evidence, findings
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.apps.ingest.references import solve_references
from gfm_pipeline.apps.ingest.shuffle import Buckets, plan_files
from gfm_pipeline.apps.ingest.splits import GroupSplits
from gfm_pipeline.apps.ingest.survey import Fit
from gfm_pipeline.apps.program import Task
from gfm_pipeline.common.errors import ConfigError, DataError, IntegrityError
from gfm_pipeline.common.publish import read_manifest
from gfm_pipeline.common.records import read_record

PLAIN = SourceSettings("x", "ase")


def record(**change: Any) -> Record:
    base = Record(
        numbers=np.array([8, 1, 1]),
        pos=np.array([[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]),
        forces=np.full((3, 3), 0.5),
        energy=-3.0,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        group="g",
        file="f",
        file_index=0,
        index=0,
    )
    return replace(base, **change)


def waters(path: Path, n: int, seed: int = 0) -> Path:
    """Write rattled molecules with harmonic labels, ten to a run."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = molecule(["H2O", "CH4", "NH3"][k // 10 % 3])
        rest = atoms.positions.copy()
        atoms.positions += rng.normal(scale=0.05, size=rest.shape)
        moved = atoms.positions - rest
        energy = -10.0 * len(atoms) + 5.0 * float((moved**2).sum())
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=-10.0 * moved)
        atoms.info["run"] = f"run{k // 10}"
        frames.append(atoms)
    write(path, frames)
    return path


def ingest(folder: Path, source: SourceSettings, **change: Any) -> Path:
    folder.mkdir(exist_ok=True)
    shards = tuple(str(folder / f"shard{k}") for k in range(source.shards))
    for k, shard in enumerate(shards):
        read_shard_program(ReadShardSpec(source, k, 3, shard), Task(folder))
    spec = AssembleSpec(source, shards, 0.2, 0.2, 0.5, 5, str(folder / source.name))
    return Path(assemble_program(replace(spec, **change), Task(folder)).output)


def joined(dataset: Dataset) -> Columns:
    return Columns.concatenate([dataset.columns(split) for split in Split])


# --- conversions and filters ---------------------------------------------------------------------------------


def test_gradients_and_energies_per_atom_are_turned_into_forces_and_totals() -> None:
    source = replace(PLAIN, forces_are=ForceSign.GRADIENTS, energy_per_atom=True, energy_unit=EnergyUnit.HARTREE)
    converted = Conversion.of(source).apply(record())
    assert converted.energy == pytest.approx(-9.0 * units.Hartree)
    np.testing.assert_allclose(converted.forces, -0.5 * units.Hartree)
    assert [s.split()[0] for s in Conversion.of(source).sentences] == ["Energies", "Forces", "Energies", "The"]


def test_a_record_that_says_its_charge_keeps_it() -> None:
    conversion = Conversion.of(replace(PLAIN, charge=1, spin=2))
    assert (conversion.apply(record()).charge, conversion.apply(record()).spin) == (1, 2)
    assert conversion.apply(record(charge=-1.0)).charge == -1.0


@pytest.mark.parametrize(
    ("source", "change", "reason"),
    [
        (
            {},
            {"pos": np.array([[0.0, 0, 0], [0.35, 0, 0], [0, 0.9, 0]])},
            "atoms overlap: 0 and 1|atoms overlap: 1 and 0",
        ),
        ({"overlap": 0.0}, {"pos": np.array([[0.0, 0, 0], [0.2, 0, 0], [0, 0.9, 0]])}, "atoms overlap"),
        ({"isolated_atoms": 4.0}, {"pos": np.array([[0.0, 0, 0], [0.9, 0, 0], [0, 9.0, 0]])}, "isolated atom: 2"),
        ({"max_force": 0.4}, {}, "force above the limit: 0.5"),
        ({}, {"pbc": np.array([True, False, False])}, "periodic cell has no volume"),
    ],
)
def test_each_filter_names_what_it_takes_out(source: dict[str, Any], change: dict[str, Any], reason: str) -> None:
    declared = replace(PLAIN, **source)
    found = clean(record(**change), declared, Conversion.of(declared))
    assert isinstance(found, BadRecord)
    assert any(found.reason.startswith(one) for one in reason.split("|"))
    assert isinstance(clean(record(), PLAIN, Conversion.of(PLAIN)), Record)


def test_every_filter_speaks_for_itself() -> None:
    source = replace(PLAIN, max_force=0.1, isolated_atoms=1.0)
    far = record(pos=np.array([[0.0, 0, 0], [0.2, 0, 0], [0, 9.0, 0]]))
    assert [reason.split(":")[0] for reason in faults(far, source)] == [
        "force above the limit",
        "atoms overlap",
        "isolated atom",
    ]


def test_all_distances_find_the_pairs_of_the_neighbour_list() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 17, 60):
        atoms = record(numbers=np.ones(n, dtype=int), pos=rng.uniform(0, 4, (n, 3)))
        fast, listed = _pairs(atoms, 1.5), neighbour_list(atoms.pos, atoms.cell, atoms.pbc, 1.5)
        assert set(zip(*(a.tolist() for a in fast[:2]), strict=True)) == set(
            zip(*(a.tolist() for a in listed[:2]), strict=True)
        )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 4e-5))
def test_rounded_fingerprints_know_permuted_copies(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    grid = rng.integers(-5000, 5000, (n, 3)) * 1e-3  # in the middle of a step, so that noise does not leave it
    one = record(numbers=rng.integers(1, 9, n), pos=grid, forces=np.zeros((n, 3)))
    order = rng.permutation(n)
    other = replace(one, numbers=one.numbers[order], pos=grid[order] + noise)
    assert fingerprint(one, Duplicates.ROUNDED) == fingerprint(other, Duplicates.ROUNDED)
    moved = replace(one, pos=grid + np.array([0.002, 0, 0]))
    assert fingerprint(one, Duplicates.ROUNDED) != fingerprint(moved, Duplicates.ROUNDED)
    assert fingerprint(one, Duplicates.EXACT) != fingerprint(replace(one, energy=-3.1), Duplicates.EXACT)


def test_duplicates_are_named_with_the_record_they_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "COMPARED_AT_ONCE", 20)  # several passes
    frames = read(waters(tmp_path / "w.xyz", 60), ":")
    write(tmp_path / "w.xyz", [*frames[:50], frames[3], *frames[50:], frames[3], frames[7]])
    source = SourceSettings("w", "ase", (str(tmp_path / "w.xyz"),), group_key="run", shards=3)
    out = ingest(tmp_path / "out", source)
    bad = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [b["index"] for b in bad] == [50, 61, 62]
    assert [b["reason"].split(" of ")[0] for b in bad] == [
        "duplicate: the same as record 3",
        "duplicate: the same as record 3",
        "duplicate: the same as record 7",
    ]
    assert Dataset.open(out).statistics.reasons == {"duplicate": 3}
    with pytest.raises(DataError, match=r"3 of 63 records were set aside, more than the 1 % allowed \(3 x duplicate\)"):
        ingest(tmp_path / "strict", source, max_quarantined=0.01)
    kept = ingest(tmp_path / "kept", replace(source, duplicates=Duplicates.KEEP))
    assert Dataset.open(kept).statistics.n_quarantined == 0


def test_energies_outside_the_window_are_taken_out_and_the_references_fitted_again(tmp_path: Path) -> None:
    frames = read(waters(tmp_path / "w.xyz", 90), ":")
    frames[5].calc.results["energy"] += 40.0 * len(frames[5])
    write(tmp_path / "w.xyz", frames)
    source = SourceSettings("w", "ase", (str(tmp_path / "w.xyz"),), group_key="run", energy_window=(-5.0, 5.0))
    dataset = Dataset.open(ingest(tmp_path / "out", source))
    (line,) = (dataset.path / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["index"] == 5
    assert json.loads(line)["reason"].startswith("energy outside the window")
    assert 5 not in joined(dataset).origin.tolist()
    assert dataset.statistics.energy_std < 0.5  # nothing of the outlier is left in the references


# --- labels --------------------------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(
    "GFM_REAL_DATA" not in os.environ, reason="GFM_REAL_DATA does not name a folder with real data sets"
)


def real_records(name: str) -> list[Record]:
    """Return records in eV and Angstrom; COMP6 ships gradients in Hartree (its README says so)."""
    root = Path(os.environ["GFM_REAL_DATA"])
    if name == "comp6":
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        found: list[Record] = []
        with h5py.File(root / "comp6" / "s66x8_wb97x6-31gd.h5") as file:

            def visit(group: str, node: Any) -> None:
                if not isinstance(node, h5py.Group) or "coordinates" not in node:
                    return
                numbers = np.array([atomic_numbers[s.decode()] for s in node["species"][:]])
                rows = zip(node["coordinates"][:], node["energies"][:], node["forces"][:], strict=True)
                for pos, energy, gradient in rows:
                    found.append(
                        record(
                            numbers=numbers,
                            pos=pos.astype(float),
                            energy=float(energy) * units.Hartree,
                            forces=-units.Hartree * gradient.astype(float),
                            group=group,
                        )
                    )

            file.visititems(visit)
        return found
    paths = {"3bpa": "3bpa/train_300K.xyz", "acac": "acac/train_300K.xyz", "Cu": "mlearn/Cu_train.xyz"}
    return [
        record(
            numbers=atoms.numbers,
            pos=atoms.positions,
            energy=atoms.calc.results["energy"],
            forces=atoms.calc.results.get("forces", atoms.arrays.get("force")),
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            group=str(atoms.info.get("group")),
        )
        for atoms in read(root / paths[name], ":")[:350]
    ]


def seen_in(records: list[Record], energy: float = 1.0, force: float = 1.0, length: float = 1.0) -> Evidence:
    """Collect evidence from records whose labels were scaled."""
    collector = Collector()
    for r in records:
        assert r.energy is not None
        assert r.forces is not None
        collector.add(
            replace(r, energy=r.energy * energy, forces=r.forces * force, pos=r.pos * length, cell=r.cell * length)
        )
    return collector.evidence()


def said(evidence: Evidence, energy: float = 1.0, force: float = 1.0) -> dict[str, str]:
    """Return look -> sentence of what does not pass; differences and work are linear in the labels."""
    scaled = replace(evidence, pairs=evidence.pairs * [1, force, energy, 1], bonds=evidence.bonds * [1, 1, force])
    return {f.look: f.sentence for f in findings(scaled) if f.passed is False}


WORK = "energy change against work of the forces"


@needs_data
@pytest.mark.parametrize("name", ["comp6", "3bpa", "acac", "Cu"])
def test_wrong_labels_of_real_data_are_found_and_right_ones_pass(name: str) -> None:
    records = real_records(name)
    right = seen_in(records)
    assert said(right) == {}
    assert "set forces_are: gradients" in said(seen_in(records, force=-1.0))[WORK]
    assert "energies were in Ha" in said(right, energy=1 / units.Hartree)[WORK]
    assert "forces were in Ha/Bohr" in said(right, force=units.Bohr / units.Hartree)[WORK]
    bohr = said(seen_in(records, length=1 / units.Bohr))
    assert "positions were in Bohr" in bohr[WORK]
    assert "as if positions were in Bohr" in bohr["distances of neighbours"]
    assert "called Bohr" in said(seen_in(records[:60], length=units.Bohr))["distances of neighbours"]
    both = said(seen_in(records[:60], units.Hartree, units.Hartree))  # eV taken for Ha: consistent, yet impossible
    assert "lower than the electrons" in both["sizes of energies and forces"] or name == "Cu"


def harmonic(n: int, seed: int = 0) -> list[Record]:
    """Return vibrating crystals: every atom on a spring to its site, and springs along bonds by symmetry."""
    rng = np.random.default_rng(seed)
    sites = bulk("Cu", cubic=True) * (2, 1, 1)
    found = []
    for _ in range(n):
        moved = rng.normal(scale=0.05, size=(len(sites), 3))
        moved -= moved.mean(axis=0)
        found.append(
            record(
                numbers=sites.numbers,
                pos=sites.positions + moved,
                energy=-60.0 + 4.0 * float((moved**2).sum()),
                forces=-8.0 * moved,
                cell=sites.cell.array,
                pbc=np.ones(3, dtype=bool),
            )
        )
    return found


def test_harmonic_motion_has_slope_one_and_every_mistake_its_own() -> None:
    records = harmonic(60)
    right = seen_in(records)
    assert said(right) == {}
    for energy, force, text in [
        (1.0, -1.0, "Their sign is turned"),
        (23.0605, 1.0, "kcal/mol and forces in eV"),
        (1.0, 23.0605, "forces were in kcal/mol"),
        (1 / len(records[0].numbers), 1.0, "per atom"),
    ]:
        assert text in said(right, energy, force)[WORK]


def test_what_the_data_do_not_show_is_not_claimed() -> None:
    rng = np.random.default_rng(1)
    noise = seen_in([replace(r, energy=float(rng.normal())) for r in harmonic(60)])
    assert findings(noise)[0].passed is None
    assert all(f.passed is not False for f in findings(Evidence(np.zeros((0, 4)), np.zeros((0, 3)))))


def crystals(path: Path, n: int) -> Path:
    """Write vibrating crystals."""
    frames = []
    for r in harmonic(n):
        atoms = Atoms(r.numbers, r.pos, cell=r.cell, pbc=r.pbc)
        atoms.calc = SinglePointCalculator(atoms, energy=r.energy, forces=r.forces)
        frames.append(atoms)
    write(path, frames)
    return path


def test_warnings_reach_the_result_the_statistics_and_the_report(tmp_path: Path) -> None:
    source = SourceSettings(
        "w", "ase", (str(crystals(tmp_path / "w.xyz", 90)),), group_key="@block:30", forces_are=ForceSign.GRADIENTS
    )
    out = ingest(tmp_path / "out", source)
    (warning,) = [w for w in Dataset.open(out).statistics.warnings if "Forces do not belong" in w]
    assert "slope -1" in warning
    assert f"- {warning}" in (out / "ingest_report.md").read_text()
    assert warning in read_manifest(out).meta["provenance"]["warnings"]


# --- streaming and shards ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), blocks=st.integers(1, 6), elements=st.integers(1, 5))
def test_streamed_least_squares_is_the_whole_one(seed: int, blocks: int, elements: int) -> None:
    rng = np.random.default_rng(seed)
    present = np.arange(1, elements + 1)
    counts = rng.integers(0, 6, (blocks * 7, elements)).astype(float)
    counts[:, -1] = counts[:, 0]  # never determined by the data
    energy = counts @ rng.normal(scale=1000, size=elements) + rng.normal(size=len(counts))
    fit = Fit(present)
    for k in range(blocks):
        fit.add(counts[7 * k : 7 * k + 7], energy[7 * k : 7 * k + 7])
    names = ("H", "He", "Li", "Be", "B")[:elements]
    streamed, has = fit.solve(names, None), counts.any(axis=0)
    whole = solve_references(present[has], counts[:, has], energy, names)
    assert streamed.rank == whole.rank
    assert streamed.energies == pytest.approx(whole.energies, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("size", [400, 10**9])
def test_the_shuffled_order_does_not_depend_on_buckets(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    natoms = rng.integers(1, 5, 300)
    n = int(natoms.sum())
    columns = Columns.build(
        numbers=rng.integers(1, 9, n), pos=rng.normal(size=(n, 3)), forces=rng.normal(size=(n, 3)),
        energy=rng.normal(size=300), cell=np.zeros((300, 3, 3)), pbc=np.zeros((300, 3)), natoms=natoms,
        group=np.arange(300), origin=np.arange(300),
    )  # fmt: skip
    key = order_keys(7, np.zeros(300), np.arange(300))
    buckets = Buckets.sized(tmp_path, Split.TRAIN, 300, n, size)
    for part in np.array_split(np.arange(300), 4):
        buckets.add(key[part], columns.take(part))
    (found,) = buckets.chunks()
    np.testing.assert_array_equal(found.origin, np.argsort(key))
    np.testing.assert_array_equal(found.pos, columns.take(np.argsort(key)).pos)
    assert not list(tmp_path.iterdir())


def test_chunks_are_divided_over_files_without_a_rest() -> None:
    atoms = {Split.TRAIN: (np.array([10, 20, 30, 4]), 3 * CHUNK + 5), Split.TEST: (np.array([7]), 3)}
    files = plan_files("x", atoms, 3)
    assert [name for name, _ in files] == ["x-00000.bp", "x-00001.bp", "x-00002.bp"]
    assert sum(labels[Split.TRAIN].n_graphs for _, labels in files) == 3 * CHUNK + 5
    assert [labels[Split.TRAIN].atom_start for _, labels in files] == [(0,), (0,), (0, 30)]
    assert [Split.TEST in labels for _, labels in files] == [False, False, True]
    assert plan_files("x", atoms, 1)[0][0] == "x.bp"


def test_very_many_groups_are_split_by_their_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    splits = GroupSplits.of(None, 0.1, 0.2, 3, "x")
    ids = order_keys(1, np.arange(40_000))
    shares = np.bincount(splits.split(ids)) / len(ids)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)
    np.testing.assert_array_equal(splits.split(ids[::-1]), splits.split(ids)[::-1])
    monkeypatch.setattr(survey_module, "MAX_GROUPS", 5)
    source = SourceSettings("w", "ase", (str(waters(tmp_path / "w.xyz", 300)),), group_key="run")
    dataset = Dataset.open(ingest(tmp_path / "out", source))
    groups = [set(dataset.columns(split).group.tolist()) for split in Split]
    assert sum(map(len, groups)) == len(set.union(*groups)) == sum(dataset.statistics.n_groups.values()) == 30


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Publish one source as one file and as several, from one and from two shards."""
    folder = tmp_path_factory.mktemp("sharded")
    source = SourceSettings("w", "ase", (str(waters(folder / "w.xyz", 300)),), group_key="run", charge=1, spin=2)
    many = replace(source, shards=2)
    with pytest.MonkeyPatch.context() as patch:
        one = ingest(folder / "one", source)
        patch.setattr("gfm_pipeline.apps.ingest.shuffle.CHUNK", 16)
        patch.setattr("gfm_pipeline.apps.ingest.placing.CHUNK", 16)
        patch.setattr("gfm_pipeline.apps.ingest.placing.BpWriter", _block_writer)
        return one, ingest(folder / "many", many, shard_mb=0.05)


def _block_writer(*arguments: Any, **named: Any) -> Any:
    from gfm_pipeline.apps.dataset.write import BpWriter

    return BpWriter(*arguments, block=16, **named)


def test_shards_hold_the_same_records_as_one_file(sharded: tuple[Path, Path]) -> None:
    one, many = (Dataset.open(folder, digests=True) for folder in sharded)
    assert one.files == ("w.bp",)
    assert len(many.files) > 2
    layouts = [read_record(Layout, d.path / LAYOUT_FILE) for d in (one, many)]
    assert layouts[0].content == layouts[1].content  # of what is in them, not of the files
    for split in Split:
        a, b = one.columns(split), many.columns(split)
        for name in Columns.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert a.origin.tolist() != sorted(a.origin.tolist())
        np.testing.assert_array_equal(a.graph_attr, np.tile([[1.0, 2.0]], (len(a), 1)).astype(np.float32))
        with many.rows(split) as rows:
            picked = np.arange(0, len(rows), 3)
            np.testing.assert_array_equal(rows.read(picked).pos, a.take(picked).pos)
            assert rows.block == 16
    for file in layouts[1].files:  # every file by itself is one of HydraGNN's layout, with the index of its chunks
        with BpFile(many.path / file.file) as bp:
            for label, said_of in file.labels.items():
                columns = read_columns(bp, Split(label))
                assert (len(columns), len(columns.numbers)) == (said_of.n_graphs, said_of.n_atoms)
                assert columns.offsets[:-1][::16].tolist() == list(said_of.atom_start)


def test_info_head_verify_and_export(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    one, many = sharded
    facts = inspect(InspectSpec("info", str(many)))
    assert isinstance(facts, DatasetInfo)
    assert sum(split.structures for split in facts.splits.values()) == 300
    assert facts.provenance["charge"] == 1
    assert facts.provenance["filters"]["duplicates"] == "exact"
    assert sum(facts.files.values()) < facts.bytes
    lines = inspect(InspectSpec("head", str(many), 2))
    assert {split: len(records) for split, records in lines.items()} == dict.fromkeys(map(str, Split), 2)
    assert lines["trainset"][0].formula in {"H2O", "CH4", "H3N"}
    assert inspect(InspectSpec("verify", str(many)))["structures"] == 300
    done = inspect(InspectSpec("export", str(many), output=str(tmp_path / "w.bp")))
    assert done["content"] == facts.content
    with BpFile(tmp_path / "w.bp") as bp:
        for split in Split:
            np.testing.assert_array_equal(read_columns(bp, split).forces, Dataset.open(one).columns(split).forces)
    with pytest.raises(ConfigError, match="exists already"):
        inspect(InspectSpec("export", str(many), output=str(tmp_path / "w.bp")))
    with pytest.raises(ConfigError, match=r"does not end in \.bp"):
        inspect(InspectSpec("export", str(many), output=str(tmp_path / "w")))
    assert [path.name for path in tmp_path.iterdir()] == ["w.bp"]


@pytest.mark.parametrize("action", ["info", "head", "verify", "export"])
def test_no_bp_file_is_opened_before_its_manifest_is_checked(
    sharded: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    import shutil

    folder = shutil.copytree(sharded[0], tmp_path / "copy")
    data = folder / "w.bp" / "data.0"
    data.write_bytes(data.read_bytes()[:-100])

    def never(*_: object) -> None:
        raise AssertionError("ADIOS2 was asked to open a damaged file")

    monkeypatch.setattr("gfm_pipeline.apps.dataset.rows.BpFile", never)
    with pytest.raises(IntegrityError, match=r"data\.0 has"):
        inspect(InspectSpec(action, str(folder), output=str(tmp_path / "out.bp")))


# --- preview -------------------------------------------------------------------------------------------------


def test_preview_shows_what_ingest_would_do_and_writes_nothing(tmp_path: Path) -> None:
    frames = read(waters(tmp_path / "w.xyz", 90), ":")
    frames[4].positions[1] = frames[4].positions[0]
    frames[9] = Atoms("H2O", frames[9].positions)
    write(tmp_path / "w.xyz", [*frames, frames[0]])
    source = SourceSettings("w", "ase", (str(tmp_path / "w.xyz"),), group_key="run", max_force=1.6)
    before = sorted(tmp_path.rglob("*"))
    seen = preview(PreviewSpec(source, 1))
    assert (seen.read, seen.complete, len(seen.records), seen.total) == (91, True, 10, None)
    taken = {line.reason: line.records for line in seen.taken}
    assert taken["duplicate"] == taken["atoms overlap"] == 1
    assert taken["force above the limit"] > 0
    assert taken["no group"] + taken.get("no energy", 0) == 1
    assert seen.energies is not None
    assert sum(seen.energies.counts) == seen.usable
    assert sorted(tmp_path.rglob("*")) == before
    some = preview(PreviewSpec(source, 1, records=3, scan=20))
    assert (some.read, some.complete, len(some.records)) == (20, False, 3)


def test_preview_of_a_long_and_a_short_file_is_called_a_sample(tmp_path: Path) -> None:
    files = (str(waters(tmp_path / "a.xyz", 30)), str(waters(tmp_path / "b.xyz", 3, seed=1)))
    some = preview(PreviewSpec(SourceSettings("x", "ase", files), 1, scan=40))
    assert (some.read, some.files_read, some.complete) == (23, 2, False)
    assert preview(PreviewSpec(SourceSettings("x", "ase", files), 1, scan=60)).complete


def test_preview_warns_of_a_turned_sign(tmp_path: Path) -> None:
    source = SourceSettings("w", "ase", (str(crystals(tmp_path / "w.xyz", 60)),), group_key="@file")
    assert preview(PreviewSpec(source, 1)).warnings == ()
    turned = preview(PreviewSpec(replace(source, forces_are=ForceSign.GRADIENTS), 1))
    assert any("sign is turned" in warning for warning in turned.warnings)
    assert turned.looks[0].passed is False


def test_preview_of_a_source_without_a_usable_record_still_answers(tmp_path: Path) -> None:
    write(tmp_path / "bare.xyz", [molecule("H2O")] * 3)
    seen = preview(PreviewSpec(SourceSettings("x", "ase", (str(tmp_path / "bare.xyz"),)), 1))
    assert (seen.usable, seen.records, seen.energies) == (0, (), None)
    assert {line.reason: line.records for line in seen.taken} == {"no energy": 3}
