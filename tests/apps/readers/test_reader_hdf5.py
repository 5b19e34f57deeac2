"""HDF5 in the layouts of ANI-1x, ANI-1, QM7-X and Transition1x."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from ase import units
from conformance import N_RECORDS, Conformance, Expected, bad, good, read_all

from gfm_pipeline.apps.ingest.checks.filters import Conversion, clean
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import ForceSign, SourceSettings
from gfm_pipeline.core.contracts.sources import validate_options
from gfm_pipeline.core.errors import ConfigError


class Hdf5(Conformance):
    reader = "hdf5"
    periodic = False
    counts = True
    # No `spoil`: conformers of a molecule share arrays.

    def cut(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-500])


class TestAni1x(Hdf5):
    options: ClassVar[dict[str, Any]] = {"layout": "ani-1x"}

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "ani1x.h5", "w") as file:
            for name, part in (("C1H2O1", slice(0, 4)), ("C1H2O1_2", slice(4, None))):
                group = file.create_group(name)
                group["atomic_numbers"] = expected.numbers.astype(np.uint8)
                group["coordinates"] = expected.pos[part]
                group["wb97x_dz.energy"] = expected.energy[part] / units.Hartree
                group["wb97x_dz.forces"] = expected.forces[part] / units.Hartree
                group["ccsd(t)_cbs.energy"] = np.where(np.arange(N_RECORDS)[part] == 1, np.nan, -1.0)
        return folder / "ani1x.h5"

    def test_conversions_are_said_and_molecules_are_groups(self, path: Path) -> None:
        source = self.source(path)
        assert get_reader("hdf5").converted(source) == (
            "Energies and forces were converted from Ha to eV (times 27.211386).",
        )
        assert [record.group for record in good(read_all(source))] == ["C1H2O1"] * 4 + ["C1H2O1_2"] * 2

    def test_another_level_of_theory_is_in_the_same_units(self, path: Path) -> None:
        records = good(read_all(self.source(path, energy_key="ccsd(t)_cbs.energy")))
        np.testing.assert_allclose(
            [r.energy for r in records], [-units.Hartree if k != 1 else np.nan for k in range(6)]
        )


class TestAni1(Hdf5):
    options: ClassVar[dict[str, Any]] = {"layout": "ani-1"}

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "comp6.h5", "w") as file:
            for name, part in (("set/mol0", slice(0, 3)), ("set/mol1", slice(3, None))):
                group = file.create_group(name)
                group["species"] = np.array([b"O", b"H", b"H", b"C"])
                group["coordinates"] = expected.pos[part]
                group["energies"] = expected.energy[part] / units.Hartree
                group["forces"] = expected.forces[part] / units.Hartree
        return folder / "comp6.h5"


class TestAni2x(Hdf5):
    options: ClassVar[dict[str, Any]] = {"layout": "ani-1"}

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "ani2x.h5", "w") as file:
            group = file.create_group("004")
            group["species"] = np.tile(expected.numbers, (N_RECORDS, 1))
            group["coordinates"] = expected.pos
            group["energies"] = expected.energy / units.Hartree
            group["forces"] = expected.forces / units.Hartree
        return folder / "ani2x.h5"


class TestQm7x(Hdf5):
    options: ClassVar[dict[str, Any]] = {"layout": "qm7-x"}

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "1000.hdf5", "w") as file:
            for k in range(N_RECORDS):
                group = file.create_group(f"{k // 3 + 1}/Geom-m{k // 3 + 1}-i1-c1-{k}")
                group["atNUM"] = expected.numbers
                group["atXYZ"] = expected.pos[k]
                group["ePBE0+MBD"] = expected.energy[k : k + 1]
                group["totFOR"] = expected.forces[k]
        return folder / "1000.hdf5"

    def spoil(self, path: Path, index: int) -> None:
        with h5py.File(path, "a") as file:
            group = file[f"{index // 3 + 1}/Geom-m{index // 3 + 1}-i1-c1-{index}"]
            del group["atNUM"]

    def test_conformers_of_a_molecule_are_a_group(self, path: Path) -> None:
        assert [record.group for record in good(read_all(self.source(path)))] == ["1"] * 3 + ["2"] * 3


class TestTransition1x(Hdf5):
    options: ClassVar[dict[str, Any]] = {"layout": "transition1x"}

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "Transition1x.h5", "w") as file:
            for rxn, part in (("rxn0001", slice(0, 2)), ("rxn0002", slice(2, None))):
                group = file.create_group(f"data/C1H2O1/{rxn}")
                self.fill(group, expected, part)
                self.fill(group.create_group("reactant"), expected, slice(0, 1))
                file.require_group("train/C1H2O1")[rxn] = h5py.SoftLink(f"/data/C1H2O1/{rxn}")
        return folder / "Transition1x.h5"

    @staticmethod
    def fill(group: Any, expected: Expected, part: slice) -> None:
        group["atomic_numbers"] = expected.numbers
        group["positions"] = expected.pos[part]
        group["wB97x_6-31G(d).energy"] = expected.energy[part]
        group["wB97x_6-31G(d).forces"] = expected.forces[part]
        group["wB97x_6-31G(d).atomization_energy"] = expected.energy[part] * 0


class TestSpice(Hdf5):
    options: ClassVar[dict[str, Any]] = {"layout": "spice"}

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "spice.hdf5", "w") as file:
            for name, part in (("methanol a", slice(0, 4)), ("methanol b", slice(4, None))):
                group = file.create_group(name)
                group["atomic_numbers"] = expected.numbers.astype(np.int16)
                group["conformations"] = expected.pos[part] / units.Bohr
                group["dft_total_energy"] = expected.energy[part] / units.Hartree
                group["dft_total_gradient"] = -expected.forces[part] * units.Bohr / units.Hartree
                group["smiles"] = np.array([b"CO"], dtype=object).astype("S2")
        return folder / "spice.hdf5"

    def test_gradients_may_be_named_for_what_they_are(self, path: Path, expected: Expected) -> None:
        named = {"energy_key": "dft_total_energy", "forces_key": "dft_total_gradient"}
        source = self.source(path, **named, forces_are=ForceSign.GRADIENTS)
        first = clean(good(read_all(source))[0], source, Conversion.of(source))
        assert isinstance(first, Record)
        np.testing.assert_allclose(first.forces, expected.forces[0])
        assert first.energy == pytest.approx(expected.energy[0])

    def test_another_layout_is_named(self, path: Path) -> None:
        (only,) = bad(read_all(self.source(path, options={"layout": "ani-1x"})))
        assert "holds coordinates; the file holds atomic_numbers, conformations" in only.reason
        assert "set layout to spice" in only.reason


def test_the_layout_must_be_named() -> None:
    with pytest.raises(ConfigError, match="Reader hdf5 needs the option layout"):
        validate_options("hdf5", {})
    with pytest.raises(ConfigError, match="Option layout of reader hdf5"):
        validate_options("hdf5", {"layout": "ani"})


def test_real_comp6_gradients_become_forces(real_data: Path) -> None:
    path = real_data / "comp6" / "s66x8_wb97x6-31gd.h5"
    options = validate_options("hdf5", {"layout": "ani-1"})
    source = SourceSettings("s66x8", "hdf5", (str(path),), options, forces_are=ForceSign.GRADIENTS)
    items = read_all(source)
    assert bad(items) == []
    cleaned = [clean(record, source, Conversion.of(source)) for record in good(items)]
    records = [record for record in cleaned if isinstance(record, Record)]
    assert len(records) == get_reader("hdf5").count(source) == 528
    with h5py.File(path) as file:
        group = file["s66x8/mol00"]
        np.testing.assert_allclose(records[0].energy, group["energies"][0] * 27.211386, rtol=1e-7)
        np.testing.assert_allclose(records[0].forces, group["forces"][0] * -27.211386, rtol=1e-6)
    # Two molecules at growing distances: along each series the change of the energy is the work of the forces.
    works, changes = [], []
    for a, b in pairwise(records):
        if a.group == b.group and np.abs(b.pos - a.pos).max() < 1.0:
            assert a.forces is not None
            assert b.forces is not None
            works.append(float(((a.forces + b.forces) / 2 * (b.pos - a.pos)).sum()))
            changes.append(float(b.energy - a.energy))  # type: ignore[operator]
    assert len(works) > 100
    assert np.corrcoef(works, changes)[0, 1] < -0.9
