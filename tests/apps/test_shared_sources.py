"""What several sources have is in the same split in all of them, or a warning says how much is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ingest_cases import run_read

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.assembly import groups
from gfm_pipeline.apps.ingest.checks import shared_structures
from gfm_pipeline.apps.ingest.checks.shared_structures import KEYS_FILE, Keys, structure_keys
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AcrossSources, AssembleResult, AssembleSpec, SourceSettings, Split
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.errors import DataError

TRAIN = Split.TRAIN
TOGETHER, APART = AcrossSources.TOGETHER, AcrossSources.APART


def frames(numbers: range, level: float) -> list[Atoms]:
    """Return structures of which two each are of one molecule, with labels of a level of theory."""
    made = []
    for k in numbers:
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=k)
        atoms.info["id"] = f"m{k // 2}"
        atoms.calc = SinglePointCalculator(atoms, energy=-30.0 - level, forces=np.full((6, 3), level + k))
        made.append(atoms)
    return made


def joined(
    folder: Path, keys: dict[str, str | None], across: AcrossSources, seed: int = 7
) -> dict[str, AssembleResult]:
    """Ingest two sources that share structures 10 to 39, as a campaign does: the last one is compared."""
    sizes = {"ccsd": range(10, 40), "pbe": range(60)}
    results: dict[str, AssembleResult] = {}
    for level, (name, key) in enumerate(keys.items()):
        write(folder / f"{name}.xyz", frames(sizes[name], level))
        source = SourceSettings(name, "ase", (str(folder / f"{name}.xyz"),), group_key=key, shards=2)
        shards = tuple(result.output for result in run_read(folder / f"{name}-{across}", source))
        spec = AssembleSpec(source, shards, 0.2, 0.2, 0.0, seed, str(folder / f"{across}-{name}"))
        others = tuple(result.output for result in results.values())
        spec = AssembleSpec(**{**vars(spec), "across": across, "compared": True, "others": others})
        results[name] = assemble_program(spec, Task(folder))
    return results


def splits_of(result: AssembleResult) -> dict[tuple[float, ...], Split]:
    """Return the split of each structure, by where its first atom is."""
    dataset, found = Dataset.open(Path(result.output)), {}
    for split in Split:
        columns = dataset.columns(split)
        for start in columns.offsets[:-1]:
            found[tuple(np.round(columns.pos[start], 4).tolist())] = split
    return found


def leaked(results: dict[str, AssembleResult]) -> int:
    one, other = map(splits_of, results.values())
    return sum((one[at] is TRAIN) != (other[at] is TRAIN) for at in set(one) & set(other))


@pytest.mark.parametrize("keys", [("id", "id"), ("@record", "@record"), (None, "@record")])
@pytest.mark.parametrize("many", [False, True])
def test_what_sources_share_is_in_one_split_where_they_are_dealt_together(
    tmp_path: Path, keys: tuple[str | None, str | None], many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if many:  # more groups than are listed
        monkeypatch.setattr(groups, "MAX_GROUPS", 5)
    results = joined(tmp_path, dict(zip(("ccsd", "pbe"), keys, strict=True)), TOGETHER)
    one, other = map(splits_of, results.values())
    assert len(set(one) & set(other)) == 30
    assert all(one[at] is other[at] for at in set(one) & set(other))
    assert not any("leak" in sentence for result in results.values() for sentence in result.statistics.warnings)


def test_sources_that_are_split_apart_leak_and_the_last_one_says_how_much(tmp_path: Path) -> None:
    results = joined(tmp_path, {"ccsd": "id", "pbe": "id"}, APART)
    n = leaked(results)
    assert n > 0
    first, last = (result.statistics.warnings for result in results.values())
    assert not any("leak" in sentence for sentence in first)
    (said,) = (sentence for sentence in last if "leak" in sentence)
    assert f"Sources ccsd and pbe leak into each other's tests: {n} of 30 structures and {n // 2} of 15 groups" in said
    assert "Set split_across_sources: together in data" in said


def test_groups_of_different_names_are_said_to_leak_though_dealt_together(tmp_path: Path) -> None:
    results = joined(tmp_path, {"ccsd": "@record", "pbe": "id"}, TOGETHER)
    n = leaked(results)
    assert n > 0
    (said,) = (sentence for sentence in results["pbe"].statistics.warnings if "leak" in sentence)
    assert f"{n} of 30 structures that both have" in said
    assert "Give both sources the same group_key" in said


def test_a_single_source_keeps_no_keys_and_old_datasets_have_none(tmp_path: Path) -> None:
    results = joined(tmp_path, {"ccsd": "id"}, APART)
    folder = Path(results["ccsd"].output)
    assert Keys.read(folder) is not None
    (folder / KEYS_FILE).unlink()
    assert Keys.read(folder) is None
    source = SourceSettings("a", "ase", (str(tmp_path / "ccsd.xyz"),), group_key="id")
    shards = tuple(result.output for result in run_read(tmp_path / "a", source))
    alone = assemble_program(AssembleSpec(source, shards, 0.2, 0.2, 0.0, 7, str(tmp_path / "one")), Task(tmp_path))
    assert not (Path(alone.output) / KEYS_FILE).exists()


def test_too_few_groups_for_a_hash_are_refused_and_previewed(tmp_path: Path) -> None:
    write(tmp_path / "x.xyz", frames(range(6), 0.0))
    source = SourceSettings("x", "ase", (str(tmp_path / "x.xyz"),), group_key="id")
    shards = tuple(result.output for result in run_read(tmp_path / "x", source))
    spec = AssembleSpec(source, shards, 0.05, 0.05, 0.0, 7, str(tmp_path / "one"), across=TOGETHER)
    with pytest.raises(DataError, match=r"none of its 3 groups fell to (validation|test).*another seed"):
        assemble_program(spec, Task(tmp_path))
    seen = preview(PreviewSpec(source, 7, validation=0.05, test=0.05, across=TOGETHER))
    assert any("none of its 3 groups fell to" in sentence for sentence in seen.warnings)
    assert seen.failure in seen.warnings


def test_a_key_is_of_the_atoms_in_any_order_and_of_periodic_vectors_only() -> None:
    def key(atoms: Atoms) -> int:
        n = np.array([len(atoms)])
        cell, pbc = atoms.cell.array[None], atoms.pbc[None]
        return int(structure_keys(atoms.numbers.astype(np.uint8), atoms.positions, cell, pbc, n)[0])

    water = molecule("H2O")
    same = water[[2, 0, 1]]
    same.positions += 2e-5 * (np.abs(same.positions) > 0.1)
    same.cell = [20.0, 20.0, 20.0]
    assert key(water) == key(same)
    moved = water.copy()
    moved.positions[0, 0] += 0.01
    other = water.copy()
    other.numbers[0] = 16
    copper, strained = bulk("Cu"), bulk("Cu", a=3.7)
    slab = bulk("Cu")
    slab.pbc = (True, True, False)
    assert len({key(atoms) for atoms in (water, moved, other, copper, strained, slab)}) == 6


def test_keys_of_large_sources_are_a_sample_that_both_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_structures, "MOST", 500)
    ids = np.random.default_rng(0).integers(0, 2**63, 20_000).astype(np.uint64)
    none = Keys.none()
    kept = []
    for mine, shift in ((ids[:15_000], 0), (ids[5_000:], 1)):
        splits = ((mine + np.uint64(shift)) % np.uint64(2)).astype(np.uint8)
        kept.append(shared_structures._smallest(none.structures, none.structure_splits, mine, splits))
    (said,) = shared_structures.shared_structure_warnings(
        {name: Keys(*some, none.groups, none.group_splits) for name, some in zip("ab", kept, strict=True)}, False
    )
    assert "(of a sample)" in said
    shared = shared_structures._shared(*kept)
    assert shared.number == shared.apart
    assert 250 < shared.number < 450
