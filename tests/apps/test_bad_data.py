"""Every kind of bad input, through the programs: counted, named by file and place, kept beside the dataset."""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from gfm_pipeline.apps.dataset import Columns, write_bp
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.assembly.shard import read_quarantine
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import (
    AssembleResult,
    AssembleSpec,
    Duplicates,
    ForceSign,
    ReadShardSpec,
    SourceSettings,
    Split,
)
from gfm_pipeline.core.contracts.ingest.report import REPORT_DATA_FILE, REPORT_FILE, IngestReport, SetAside
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.records import read_record

N, BAD = 60, 17
Frames = list[Atoms]


def frames(n: int = N) -> Frames:
    """Return molecules with harmonic labels."""
    rng = np.random.default_rng(1)
    made = []
    for k in range(n):
        atoms = molecule(["H2O", "CH4", "NH3"][k % 3])
        moved = rng.normal(scale=0.03, size=atoms.positions.shape)
        atoms.positions += moved
        label(atoms, -10.0 * len(atoms) + 5.0 * float((moved**2).sum()), -10.0 * moved)
        made.append(atoms)
    return made


def label(atoms: Atoms, energy: float | None, forces: Any) -> None:
    known = {"energy": energy, "forces": forces}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in known.items() if v is not None})


def ingest(folder: Path, source: SourceSettings, limit: float = 0.5) -> AssembleResult:
    folder.mkdir(exist_ok=True)
    shards = tuple(str(folder / f"shard{k}") for k in range(source.shards))
    for k, shard in enumerate(shards):
        read_shard_program(ReadShardSpec(source, k, 3, shard), Task(folder))
    spec = AssembleSpec(source, shards, 0.2, 0.2, limit, 5, str(folder / source.name))
    return assemble_program(spec, Task(folder))


def xyz(change: Callable[[Frames], None]) -> Callable[[Path], Path]:
    """Return what writes good frames but for what ``change`` does to them."""

    def make(folder: Path) -> Path:
        made = frames()
        change(made)
        write(folder / "dirty.extxyz", made)
        return folder / "dirty.extxyz"

    return make


def text(old: str, new: str) -> Callable[[Path], Path]:
    """Return what writes good frames but for a text of frame `BAD`."""

    def make(folder: Path) -> Path:
        path = folder / "dirty.extxyz"
        pieces = []
        for k, atoms in enumerate(frames()):
            write(folder / "one.extxyz", atoms)
            piece = (folder / "one.extxyz").read_text()
            pieces.append(piece.replace(old, new, 1) if k == BAD else piece)
        path.write_text("".join(pieces))
        return path

    return make


def no_energy(made: Frames) -> None:
    label(made[BAD], None, np.zeros((len(made[BAD]), 3)))


def no_forces(made: Frames) -> None:
    label(made[BAD], -30.0, None)


def nan_energy(made: Frames) -> None:
    label(made[BAD], np.nan, np.zeros((len(made[BAD]), 3)))


def nan_forces(made: Frames) -> None:
    forces = np.zeros((len(made[BAD]), 3))
    forces[1, 1] = np.nan
    label(made[BAD], -30.0, forces)


def nan_position(made: Frames) -> None:
    made[BAD].positions[0, 2] = np.inf


def zero_cell(made: Frames) -> None:
    made[BAD].pbc = True


def flat_cell(made: Frames) -> None:
    made[BAD].cell = [[5.0, 0, 0], [0, 5.0, 0], [5.0, 5.0, 0]]
    made[BAD].pbc = True


def overlap(made: Frames) -> None:
    made[BAD].positions[1] = made[BAD].positions[0] + [0.05, 0, 0]


def other_unit(made: Frames) -> None:
    atoms = made[BAD]
    label(atoms, atoms.calc.results["energy"] / units.Hartree, atoms.calc.results["forces"])


def strange_energy(made: Frames) -> None:
    atoms = made[BAD]
    label(atoms, atoms.calc.results["energy"] + 6.0 * len(atoms), atoms.calc.results["forces"])


@dataclass(frozen=True)
class Case:
    """What is written, what the reason says, and settings of the source."""

    make: Callable[[Path], Path]
    reason: str
    settings: tuple[tuple[str, Any], ...] = ()


CASES = {
    "no energy": Case(xyz(no_energy), "no energy"),
    "no forces": Case(xyz(no_forces), "no forces"),
    "energy not a number": Case(xyz(nan_energy), "energy is not a finite number"),
    "forces not a number": Case(xyz(nan_forces), "forces are not finite numbers"),
    "position not a number": Case(xyz(nan_position), "positions or cell are not finite numbers"),
    "zero cell": Case(xyz(zero_cell), "periodic cell has no volume"),
    "flat cell": Case(xyz(flat_cell), "periodic cell has no volume"),
    "overlap": Case(xyz(overlap), "atoms overlap"),
    "unknown element": Case(text("\nH ", "\nQq "), "unknown element"),
    "dummy element": Case(text("\nH ", "\nX "), "unknown element"),
    "words for numbers": Case(text("0.0", "zero"), "unreadable"),
    "mixed units": Case(xyz(other_unit), "mixed units: the energy fits the rest of the source in Ha, not in eV"),
    "strange energy": Case(xyz(strange_energy), "energy outside the window", (("energy_window", (-4.0, 4.0)),)),
}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_bad_record_is_named_and_kept_beside_the_dataset(tmp_path: Path, name: str, shards: int) -> None:
    case = CASES[name]
    path = case.make(tmp_path)
    source = SourceSettings("dirty", "ase", (str(path),), group_key="@record", shards=shards, **dict(case.settings))
    result = ingest(tmp_path / "work", source)
    (bad,) = read_quarantine(Path(result.output))
    assert (bad.source, bad.file, bad.index) == ("dirty", str(path), BAD)
    assert bad.reason.startswith(case.reason)
    assert result.statistics.n_quarantined == sum(result.statistics.reasons.values()) == 1
    assert sum(result.statistics.n_structures.values()) == N - 1
    (reason,) = result.statistics.reasons
    found = read_record(IngestReport, Path(result.output) / REPORT_DATA_FILE)
    assert (found.read, found.set_aside) == (N, (SetAside(reason, 1, str(path), BAD),))
    report = (Path(result.output) / REPORT_FILE).read_text()
    assert f"| {reason} | 1 | 1.67 % | {path}, record {BAD} |" in report
    with pytest.raises(DataError) as refused:
        ingest(tmp_path / "strict", source, limit=0.01)
    assert f"1 of {N} records" in str(refused.value)
    assert f"record {BAD}" in str(refused.value)


@pytest.mark.parametrize("kind", [".tar.gz", ".tar", ".gz", ".zip"])
def test_what_a_truncated_archive_lost_is_named(tmp_path: Path, kind: str) -> None:

    made = frames()
    members = []
    for k in range(4):
        write(tmp_path / f"part{k}.extxyz", made[15 * k : 15 * k + 15])
        members.append(tmp_path / f"part{k}.extxyz")
    path = tmp_path / f"all{kind}"
    if kind == ".gz":
        path = tmp_path / "all.extxyz.gz"
        path.write_bytes(gzip.compress(b"".join(member.read_bytes() for member in members)))
    elif kind == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for member in members:
                zipped.write(member, member.name)
    else:
        with tarfile.open(path, "w:gz" if kind == ".tar.gz" else "w") as packed:
            for member in members:
                packed.add(member, member.name)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.7 * len(data))])
    clean = tmp_path / "clean.extxyz"
    write(clean, made)
    source = SourceSettings("cut", "ase", (str(path), str(clean)), group_key="@record", duplicates=Duplicates.KEEP)
    result = ingest(tmp_path / "work", source)
    bad = list(read_quarantine(Path(result.output)))
    assert bad
    assert all(item.source == "cut" and item.file.startswith(str(path)) and item.reason for item in bad)
    assert result.statistics.n_quarantined == len(bad)
    assert sum(result.statistics.n_structures.values()) >= N


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "no metadata"])
def test_a_damaged_bp_file_is_named_and_the_others_are_read(tmp_path: Path, damage: str) -> None:
    rng = np.random.default_rng(3)
    n = 40
    columns = Columns.build(
        numbers=np.full(2 * n, 6),
        pos=(np.arange(2 * n)[:, None] % 2 * 1.4) + rng.uniform(0, 0.1, (2 * n, 3)),
        forces=rng.normal(size=(2 * n, 3)),
        energy=rng.normal(size=n),
        cell=np.zeros((n, 3, 3)),
        pbc=np.zeros((n, 3)),
        natoms=np.full(n, 2),
        group=np.arange(n),
    )
    for name in ("good", "bad"):
        write_bp(tmp_path / f"{name}.bp", "x", dict.fromkeys(Split, columns), {})
    bad = tmp_path / "bad.bp"
    if damage == "cut":
        (bad / "data.0").write_bytes((bad / "data.0").read_bytes()[:-2000])
    elif damage == "gone":
        (bad / "data.0").unlink()
    elif damage == "empty":
        (bad / "data.0").write_bytes(b"")
    else:
        (bad / "md.idx").unlink()
    files = (str(bad), str(tmp_path / "good.bp"))
    result = ingest(tmp_path / "work", SourceSettings("bp", "hydragnn", files, duplicates=Duplicates.KEEP))
    (item,) = read_quarantine(Path(result.output))
    assert item.file == str(bad)
    assert item.reason.startswith("unreadable: ")
    assert "IntegrityError" not in item.reason
    assert sum(result.statistics.n_structures.values()) == 3 * n


@pytest.mark.parametrize("empty", ["all bad", "no records"])
def test_a_source_with_nothing_usable_fails_with_a_table(tmp_path: Path, empty: str) -> None:
    path = tmp_path / "nothing.extxyz"
    path.write_text("")
    if empty == "all bad":
        made = frames(6)
        for atoms in made[:4]:
            label(atoms, None, np.zeros((len(atoms), 3)))
        for atoms in made[4:]:
            label(atoms, -1.0, None)
        write(path, made)
    source = SourceSettings("nothing", "ase", (str(path),))
    with pytest.raises(DataError, match="no usable record") as refused:
        ingest(tmp_path / "work", source, limit=1.0)
    said = str(refused.value)
    assert str(path) in said
    assert ("4 x no energy, 2 x no forces" if empty == "all bad" else "1 x no records in this file") in said


def test_a_real_file_of_gradients_in_hartree_becomes_a_dataset_of_forces(tmp_path: Path) -> None:
    data = os.environ.get("GFM_REAL_DATA")
    if data is None:
        pytest.skip("GFM_REAL_DATA names no folder of real data")
    file = Path(data) / "comp6" / "s66x8_wb97x6-31gd.h5"
    turned = SourceSettings(
        "comp6", "hdf5", (str(file),), {"layout": "ani-1"}, forces_are=ForceSign.GRADIENTS, shards=2
    )
    result = ingest(tmp_path / "right", turned)
    assert sum(result.statistics.n_structures.values()) + result.statistics.n_quarantined == 528
    assert result.statistics.n_quarantined == 0
    assert not any("sign" in warning for warning in result.statistics.warnings)
    wrong = ingest(tmp_path / "wrong", replace(turned, forces_are=ForceSign.FORCES))
    assert any("sign" in warning for warning in wrong.statistics.warnings)
