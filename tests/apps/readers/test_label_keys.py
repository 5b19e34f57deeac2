"""What the keys of records mean: two sets of labels, weights, heads, charges, and units that data state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from conformance import good, read_all
from ingest_cases import run_all, run_read

from gfm_pipeline.apps.ingest.labels.inventory import merge
from gfm_pipeline.apps.ingest.labels.known_keys import KeyKind, kind_of
from gfm_pipeline.apps.ingest.labels.stated_units import forces_unit
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.ingest.records import PassedOver
from gfm_pipeline.core.contracts.data import EnergyUnit, ForceSign, SourceSettings, StatedUnits
from gfm_pipeline.core.contracts.ingest.label_keys import KeyFound
from gfm_pipeline.core.contracts.ingest.preview import Preview, PreviewSpec
from gfm_pipeline.core.contracts.ingest.report import REPORT_DATA_FILE, REPORT_FILE, IngestReport
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.records import read_record


def frames(path: Path, comments: list[str], columns: str = "forces:R:3") -> SourceSettings:
    """Write frames of two copper atoms, stretched more and more, with such comment lines."""
    width = sum(int(n) for n in columns.split(":")[2::3])
    lines = []
    for k, comment in enumerate(comments):
        rest = " ".join(["0.5"] * width)
        lines += ["2", f"Properties=species:S:1:pos:R:3:{columns} run=r{k % 4} {comment}"]
        lines += [f"Cu 0 0 0 {rest}", f"Cu 0 0 {2.3 + 0.01 * k} {rest}"]
    path.write_text("\n".join(lines) + "\n")
    return SourceSettings("x", "ase", (str(path),), group_key="run")


def look(source: SourceSettings) -> Preview:
    return preview(PreviewSpec(source, 0))


def keys(seen: Preview) -> dict[str, KeyFound]:
    return {key.key: key for key in seen.labels.keys}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("REF_energy", KeyKind.ENERGY), ("dft_energy", KeyKind.ENERGY), ("TotEnergy", KeyKind.ENERGY),
        ("energy_dft", KeyKind.ENERGY),
        ("free_energy", KeyKind.FREE_ENERGY), ("REF_forces", KeyKind.FORCES), ("force", KeyKind.FORCES),
        ("virials", KeyKind.VIRIAL), ("initial_magmoms", KeyKind.MAGMOMS),
        ("config_forces_weight", KeyKind.FORCES_WEIGHT),
        ("energy-unit", KeyKind.ENERGY_UNIT), ("Head", KeyKind.HEAD),
        ("outputs.stress", KeyKind.STRESS), ("run", KeyKind.UNKNOWN),
    ],
)  # fmt: skip
def test_names_are_known_in_their_spellings(name: str, kind: KeyKind) -> None:
    assert kind_of(name) == (kind, kind is not KeyKind.UNKNOWN)


def test_charge_of_every_atom_is_no_total_charge() -> None:
    assert kind_of("charge", "[N]")[0] is KeyKind.CHARGES
    assert kind_of("charge")[0] is KeyKind.CHARGE


def test_labels_that_are_there_and_not_used_are_listed(tmp_path: Path) -> None:
    comment = 'energy=-1 stress="1 0 0 0 1 0 0 0 1" dipole="0 0 1" config_weight=2'
    seen = look(frames(tmp_path / "a.xyz", [comment] * 6, "forces:R:3:magmoms:R:1"))
    assert {name: key.use for name, key in keys(seen).items()} == {
        "forces": "forces", "magmoms": "not used", "run": "group", "energy": "energy", "stress": "not used",
        "dipole": "not used", "config_weight": "weight of the record in the loss",
    }  # fmt: skip
    assert (keys(seen)["magmoms"].shape, keys(seen)["forces"].shape) == ("[N]", "[N, 3]")
    assert keys(seen)["config_weight"].values == {"2": 6}
    assert "config_weight is the weight of the record in the loss. (6 of 6 records)" in seen.conversions


def test_a_record_without_energy_says_what_it_has(tmp_path: Path) -> None:
    seen = look(frames(tmp_path / "a.xyz", ["REF_energy=-1"] * 4, "REF_forces:R:3"))
    (taken,) = seen.removed
    assert taken.reason == "no energy"
    assert taken.example.endswith("set energy_key: REF_energy, forces_key: REF_forces")
    source = replace(frames(tmp_path / "a.xyz", ["REF_energy=-1"] * 4, "REF_forces:R:3"), energy_key="REF_energy")
    assert len(good(read_all(replace(source, forces_key="REF_forces")))) == 4


def test_two_sets_of_labels_that_differ_are_refused_until_one_is_named(tmp_path: Path) -> None:
    source = frames(tmp_path / "a.xyz", ["energy=-1 REF_energy=-7"] * 4, "forces:R:3:REF_forces:R:3")
    seen = look(source)
    assert (seen.usable, seen.removed[0].reason) == (0, "two sets of labels")
    assert "energy is -1 and REF_energy is -7" in seen.removed[0].example
    assert keys(seen)["REF_energy"].use == "not used"
    for key, energy in (("energy", -1), ("REF_energy", -7)):
        chosen = look(replace(source, energy_key=key))
        assert {record.energy for record in chosen.records} == {energy}
    assert any("set forces_key" in text for text in look(replace(source, energy_key="REF_energy")).warnings)


def test_two_sets_that_agree_or_one_without_forces_are_read(tmp_path: Path) -> None:
    same = look(frames(tmp_path / "a.xyz", ["energy=-1 REF_energy=-1.00001"] * 4, "forces:R:3:REF_forces:R:3"))
    assert (same.usable > 0, same.labels.warnings) == (True, {})
    alone = look(frames(tmp_path / "b.xyz", ["energy=-1 REF_energy=-7"] * 4))
    assert [record.energy for record in alone.records[:1]] == [-1]
    assert any("REF_energy differs and is not used" in text for text in alone.warnings)


def test_the_energy_is_the_one_that_forces_are_the_gradient_of(tmp_path: Path) -> None:
    source = frames(tmp_path / "a.xyz", ["energy=-1 free_energy=-1.5"] * 4)
    seen = look(source)
    assert {record.energy for record in seen.records} == {-1.5}
    assert any("free_energy was read as the energy, not energy" in text for text in seen.conversions)
    without = look(replace(source, forces_are=ForceSign.NONE))
    assert {record.energy for record in without.records} == {-1}


def test_weights_of_zero_are_honoured(tmp_path: Path) -> None:
    comments = ["energy=-1 config_forces_weight=0", "energy=-2 config_weight=0", "energy=-3 config_energy_weight=0"]
    items = read_all(frames(tmp_path / "a.xyz", [*comments, "energy=-4 config_forces_weight=1"]))
    assert [None if r.forces is None else len(r.forces) for r in good(items)] == [None, 2]
    over = [item.reason for item in items if isinstance(item, PassedOver)]
    assert over == ["config_weight is 0", "config_energy_weight is 0"]


HEADS = [f"energy={-5 - 3 * (k % 2) + 0.01 * (k // 2)} head={'pbe' if k % 2 else 'ccsd'}" for k in range(24)]


def test_one_file_gives_two_sources_by_a_key(tmp_path: Path) -> None:
    source = frames(tmp_path / "a.xyz", HEADS)
    (warned,) = [text for text in look(source).warnings if "mixes" in text]
    assert "head is ccsd (12 records), pbe (12 records); energies of Cu1 lie 1.5 eV/atom apart" in warned
    for head in ("pbe", "ccsd"):
        mine = replace(source, select={"head": (head,)})
        seen = look(mine)
        assert (seen.read, keys(seen)["head"].values) == (12, {head: 12})
        assert seen.complete
        assert not any("mixes" in text for text in seen.warnings)
        assert sum(seen.passed_over.values()) == 12
        (shard, *_) = run_read(tmp_path / head, mine)
        assert (shard.n_records, shard.n_quarantined) == (12, 0)


def test_a_selection_that_holds_for_nothing_says_what_there_is(tmp_path: Path) -> None:
    source = replace(frames(tmp_path / "a.xyz", HEADS), select={"head": ("scan",)})
    with pytest.raises(DataError, match="12 x head is ccsd, not scan"):
        run_all(tmp_path / "work", source)


def test_a_key_of_no_known_meaning_that_energies_lie_far_apart_by_is_warned_of(tmp_path: Path) -> None:
    def warned(name: str, comments: list[str], **changes: Any) -> list[str]:
        source = frames(tmp_path / f"{name}.xyz", comments)
        return [text for text in look(replace(source, **changes)).warnings if "eV/atom apart by" in text]

    two = [f"energy={-1 - 0.01 * k - 8 * (k % 2)} made_by={'ab'[k % 2]} id=n{k}" for k in range(24)]
    (said,) = warned("two", two)
    assert "Energies of Cu1 lie 4 eV/atom apart by made_by" in said
    assert "it is a (12 records), b (12 records)" in said
    assert "select: {made_by: a}" in said
    assert not warned("chosen", two, select={"made_by": ("a",)})
    assert not warned("few", two[:8], select={"run": ("r0", "r1")})  # ids, each of a record or two
    near = [f"energy={-1 - 0.01 * k - 0.4 * (k % 2)} made_by={'ab'[k % 2]}" for k in range(24)]
    assert not warned("near", near)
    across = [f"energy={-1 - 0.01 * k - 8 * (k % 2)} made_by={'ab'[k // 12]}" for k in range(24)]
    assert not warned("across", across)


def test_charge_states_in_one_source_are_warned_of(tmp_path: Path) -> None:
    comments = [f"energy={-5 + 11 * (k % 2) + 0.01 * (k // 2)} total_charge={k % 2}" for k in range(24)]
    source = frames(tmp_path / "a.xyz", comments)
    (warned,) = [text for text in look(source).warnings if "mixes" in text]
    assert "total_charge is 0 (12 records), 1 (12 records); energies of Cu1 lie 5.5 eV/atom apart" in warned
    assert "select: {total_charge: 0}" in warned
    charged = good(read_all(replace(source, select={"total_charge": ("1",)})))
    assert {record.charge for record in charged} == {1}


@pytest.mark.parametrize("key", ["energy-unit", "energy_unit", "units"])
def test_units_of_a_comment_line_are_used(tmp_path: Path, key: str) -> None:
    source = frames(tmp_path / "a.xyz", [f"energy=-1 {key}=hartree"] * 4)
    seen = look(source)
    assert seen.records[0].energy == pytest.approx(-units.Hartree)
    assert seen.records[0].max_force == pytest.approx(0.5 * units.Hartree)
    assert any("The data state energies in Ha" in text for text in seen.conversions)


def test_units_that_the_workflow_contradicts_are_named(tmp_path: Path) -> None:
    source = frames(tmp_path / "a.xyz", ["energy=-1 energy-unit=hartree"] * 4)
    ignored = look(replace(source, stated_units=StatedUnits.IGNORE))
    assert ignored.records[0].energy == -1
    assert any("stated_units is ignore" in text for text in ignored.warnings)
    other = look(replace(source, energy_unit=EnergyUnit.KCAL_MOL))
    assert other.records[0].energy == pytest.approx(-units.kcal / units.mol)
    assert any("state energies in Ha, and kcal/mol was used" in text for text in other.warnings)
    strange = look(frames(tmp_path / "b.xyz", ["energy=-1 energy-unit=furlong"] * 4))
    assert any("'furlong', which is not a unit known here" in text for text in strange.warnings)


def database(path: Path, metadata: dict[str, Any]) -> SourceSettings:
    with connect(path) as rows:
        for k in range(4):
            atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3 + 0.01 * k]])
            rows.write(atoms, data={"energy": np.array([-1.0]), "forces": np.full((2, 3), 0.5)})
        rows.metadata = metadata
    return SourceSettings("x", "ase", (str(path),), group_key="@record")


@pytest.mark.parametrize(
    ("unit", "forces", "value"),
    [("kcal/mol", "kcal/mol/Ang", units.kcal / units.mol), ("Hartree", "Hartree/Ang", units.Hartree)],
)
def test_units_of_the_metadata_of_a_database_are_used(tmp_path: Path, unit: str, forces: str, value: float) -> None:
    stated = {"_property_unit_dict": {"energy": unit, "forces": forces}, "_distance_unit": "Ang"}
    seen = look(database(tmp_path / "a.db", stated))
    assert seen.records[0].energy == pytest.approx(-value)
    assert seen.records[0].max_force == pytest.approx(0.5 * value)
    bohr = {"_property_unit_dict": {"energy": unit, "forces": f"{unit}/Bohr"}, "_distance_unit": "Ang"}
    seen = look(database(tmp_path / "b.db", bohr))
    assert seen.records[0].max_force == pytest.approx(0.5 * value / units.Bohr)


@pytest.mark.parametrize(("text", "name"), [("eV/A", "eV/Angstrom"), ("kcal/mol/Å", "kcal/mol/Angstrom"), ("eV", None)])
def test_units_of_forces(text: str, name: str | None) -> None:
    found = forces_unit(text)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("unit", "value", "warns"), [("Hartree", units.Hartree, 0), ("eV", 1.0, 1), (None, units.Hartree, 0)]
)
def test_units_of_hdf5_arrays_are_used(tmp_path: Path, unit: str | None, value: float, warns: int) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("Cu2")
        group["species"] = np.array([29, 29])
        group["coordinates"] = np.array([[[0, 0, 0], [0, 0, 2.3 + 0.1 * k]] for k in range(4)], float)
        group["energies"], group["forces"] = np.full(4, -1.0), np.full((4, 2, 3), 0.5)
        group["dipoles"] = np.zeros((4, 3))
        if unit is not None:
            group["energies"].attrs["units"] = unit
    seen = look(SourceSettings("x", "hdf5", (str(path),), {"layout": "ani-1"}, group_key="@record"))
    assert seen.records[0].energy == pytest.approx(-value)
    assert len(seen.labels.warnings) == warns
    assert keys(seen)["dipoles"].use == "not used"


def with_results(n: int) -> Iterator[Atoms]:
    for k in range(n):
        atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3 + 0.01 * k]], info={"head": "pbe" if k % 2 else "scan"})
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - k % 2, forces=np.full((2, 3), 0.1), dipole=[0, 0, 1])
        yield atoms


def test_the_report_of_a_dataset_lists_keys_of_all_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with connect(path) as rows:
        for atoms in with_results(24):
            rows.write(atoms, head=atoms.info["head"])
    source = SourceSettings("x", "ase", (str(path),), group_key="@record", shards=2)
    result = run_all(tmp_path / "work", source)
    found = read_record(IngestReport, Path(result.output) / REPORT_DATA_FILE)
    listed = {key.key: (key.records, key.use) for key in found.labels.keys}
    assert listed["dipole"] == (24, "not used")
    assert listed["energy"] == (24, "energy")
    assert {key.key: key.values for key in found.labels.keys}["head"] == {"pbe": 12, "scan": 12}
    assert any("mixes records by head" in text for text in result.statistics.warnings)
    assert "| dipole | dipole | [3] | 24 | not used |" in (Path(result.output) / REPORT_FILE).read_text()
    assert merge([found.labels, found.labels]).records == 48
