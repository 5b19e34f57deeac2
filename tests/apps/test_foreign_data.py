"""What foreign files may not do: run code, follow pointers, ask for memory or time, or lead elsewhere."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import socket
import sys
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import lmdb
import msgpack
import numpy as np
import pytest

from gfm_pipeline.apps.ingest.files import expansion
from gfm_pipeline.apps.ingest.files.isolation import isolated
from gfm_pipeline.apps.ingest.files.markers import unmarked
from gfm_pipeline.apps.ingest.files.safe_pickle import fields
from gfm_pipeline.apps.ingest.readers.ase.lmdb import decoded
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import BadRecord, ForceSign, SourceSettings
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.contracts.sources import validate_options


def read(reader: str, *files: Path, **options: object) -> tuple[list[Record], list[BadRecord]]:
    source = SourceSettings(
        "s", reader, tuple(map(str, files)), validate_options(reader, options), forces_are=ForceSign.FORCES
    )
    items = list(isolated(get_reader(reader), ReadLimits(1.0, 5.0)).read(source, 0, 1, 0))
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, BadRecord)]


def site(**properties: object) -> dict[str, object]:
    species = [{"element": "Cu", "occu": 1}]
    return {"species": species, "abc": [0, 0, 0], "xyz": [0, 0, 0], "label": "Cu", "properties": properties}


@pytest.mark.parametrize("place", ["property", "lattice", "structure", "species"])
def test_json_imports_no_module(tmp_path, monkeypatch, place):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    mark = {"@module": "evil_module", "@class": "X"}
    structure = {
        "@class": "Structure",
        "lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "pbc": [True] * 3},
        "sites": [site(x=[[mark]] if place == "property" else 1)],
        "properties": {"y": mark},
    }
    if place in ("lattice", "structure"):
        (structure["lattice"] if place == "lattice" else structure).update(mark)  # type: ignore[attr-defined]
    if place == "species":
        structure["sites"][0]["species"][0].update(mark)  # type: ignore[index]
    (tmp_path / "d.json").write_text(json.dumps([{"structure": structure, "energy": -3.0, "forces": [[0, 0, 0]]}]))
    good, bad = read("pymatgen-json", tmp_path / "d.json")
    assert (len(good), bad) == (1, [])
    assert not (tmp_path / "ran").exists()
    assert "evil_module" not in sys.modules


def test_arrays_that_monty_wrote_are_arrays():
    array = {"@module": "numpy", "@class": "array", "dtype": "float64", "data": [[1.0, 2.0]]}
    assert unmarked({"a": array, "@class": "X"})["a"].tolist() == [[1.0, 2.0]]
    assert unmarked({"a": {**array, "dtype": "object"}}) == {"a": {"dtype": "object", "data": [[1.0, 2.0]]}}


OBJECTS = b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00OC\x08AAAAAAAAtR"
STATE = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01K\x01\x85%s\x89C\x08AAAAAAAAtb"
DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00%sK\x00K\x01tR"


@pytest.mark.parametrize(
    "value",
    [
        OBJECTS,
        STATE % (DTYPE % b"O8"),
        STATE % (DTYPE % b"V8"),
        STATE % (DTYPE % b"f4"),  # one element of eight bytes
        b"cnumpy.core.multiarray\nscalar\n(" + DTYPE % b"O8" + b"C\x08AAAAAAAAtR",
        b"ctorch._utils\n_rebuild_tensor_v2\n(C\x08AAAAAAAAK\x00K\x01\x85K\x01\x85\x89NtR",
        b"cnumpy\ndtype\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x01\x00\x00\x00aK\x01s\x86b.",
        b"cos\nsystem\n(X\x04\x00\x00\x00truetR",
        b"cbuiltins\ngetattr\n",
    ],
)
def test_a_pickle_makes_numbers_and_nothing_else(value):
    packed = b"\x80\x03}X\x03\x00\x00\x00pos" + value + b"s."
    try:
        made = fields(packed)
    except (pickle.UnpicklingError, TypeError, AttributeError):
        return
    assert made["pos"] is None  # a class by itself is nothing


def legitimate() -> bytes:
    array = np.arange(6.0).reshape(2, 3)
    return pickle.dumps(
        {"pos": array, "f": np.asfortranarray(array.T), "n": np.float64(3), "i": np.arange(3), "t": "x"}
    )


def test_arrays_and_numbers_of_numpy_are_read():
    array = np.arange(6.0).reshape(2, 3)
    for protocol in range(3, 6):
        for value in (array, np.asfortranarray(array), np.arange(3, dtype=">i4"), np.zeros((0, 3)), np.array(["ab"])):
            found = fields(pickle.dumps({"a": value, "n": np.float32(2)}, protocol))
            np.testing.assert_array_equal(found["a"], value)
            assert found["n"] == 2


def test_mutated_pickles_never_end_the_process():
    good, rng = legitimate(), random.Random(4)
    seeds = [good, *(b"\x80\x03}X\x03\x00\x00\x00pos" + v + b"s." for v in (OBJECTS, STATE % (DTYPE % b"f8")))]
    pid = os.fork()
    if not pid:
        code = 0
        try:
            for _ in range(3000):
                data = bytearray(rng.choice(seeds))
                for _ in range(rng.randrange(1, 4)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                with suppress(Exception):  # any error is an answer
                    repr(fields(bytes(data)))
        except BaseException:  # noqa: BLE001
            code = 9
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_array_of_ase_that_claims_more_than_it_lists_is_refused():
    with pytest.raises(ValueError, match="lists 1 values"):
        decoded('{"x": {"__ndarray__": [[1000000000], "float64", [0.0]]}}')
    assert decoded('{"x": {"__ndarray__": [[2], "float64", [0.0, 1.0]]}}')["x"].tolist() == [0.0, 1.0]


def test_claimed_numbers_of_records_are_held_against_entries(tmp_path):
    for name, entries in (
        ("ocp.lmdb", {b"length": pickle.dumps(10**15), b"0": b"x"}),
        ("deep.lmdb", {b"__metadata__": msgpack.packb({"nframes": 10**15, "type_map": ["H"]})}),
    ):
        with (
            lmdb.open(str(tmp_path / name), subdir=False, map_size=1 << 20, lock=False) as file,
            file.begin(write=True) as transaction,
        ):
            for key, value in entries.items():
                transaction.put(key, value)
    for reader, name in (("ocp-lmdb", "ocp.lmdb"), ("deepmd", "deep.lmdb")):
        good, bad = read(reader, tmp_path / name)
        assert (len(good), len(bad)) == (0, 1)
        assert "claims 1,000,000,000,000,000 records" in bad[0].reason


def ani(path: Path) -> h5py.File:
    file = h5py.File(path, "w")
    group = file.create_group("C1")
    group["atomic_numbers"] = np.array([6, 1])
    group["coordinates"] = np.array([[[0, 0, 0], [0, 0, 1.1]]])
    group["wb97x_dz.energy"] = np.array([-40.0])
    group["wb97x_dz.forces"] = np.zeros((1, 2, 3))
    return file


def test_links_of_hdf5_lead_nowhere(tmp_path):
    ani(tmp_path / "other.h5").close()
    with ani(tmp_path / "d.h5") as file:
        file["again"] = h5py.SoftLink("/")
        file["C1/../hard"] = file["/"]
        file["A-other"] = h5py.ExternalLink("other.h5", "/C1")
        wild = file.create_group("raw")
        wild["atomic_numbers"] = np.array([6, 1])
        wild.create_dataset("coordinates", (1, 2, 3), "f8", external=[(str(tmp_path / "other.h5"), 0, 48)])
        huge = file.create_group("zeros")
        huge.create_dataset("coordinates", (10**9, 2, 3), "f8", chunks=(1000, 2, 3))
    good, bad = read("hdf5", tmp_path / "d.h5", layout="ani-1x")
    assert len(good) == 1
    assert len(bad) == 3
    assert "a link to another file" in bad[0].reason
    assert "lie in another file" in bad[1].reason
    assert "claims 48,000,000,000 bytes and holds 0" in bad[2].reason


@pytest.mark.parametrize("name", ["../secret.cif", "{outside}/secret.cif", "cifs/../../secret.cif"])
def test_a_table_leads_to_no_other_folder(tmp_path, name):
    (tmp_path / "table").mkdir()
    (tmp_path / "secret.cif").write_text("secret")
    name = name.format(outside=tmp_path)
    (tmp_path / "table" / "t.csv").write_text(f"id,energy\n{name},1.0\n")
    good, bad = read("cif-csv", tmp_path / "table" / "t.csv", path="{id}")
    assert (good, len(bad)) == ([], 1)
    assert "leads out of the folder" in bad[0].reason


def test_pipes_sockets_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "d.xyz")
    (tmp_path / "link.xyz").symlink_to("/dev/zero")
    (tmp_path / "system").mkdir()
    os.mkfifo(tmp_path / "system" / "type.raw")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.xyz"))
        for reader, name, kind in (
            ("ase", "d.xyz", "a named pipe"),
            ("ase", "link.xyz", "a device"),
            ("ase", "s.xyz", "a socket"),
            ("deepmd", "system", "a named pipe"),
        ):
            _, bad = read(reader, tmp_path / name)
            assert len(bad) == 1
            assert kind in bad[0].reason


def test_what_is_compressed_expands_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "ALWAYS", 1 << 20)

    zeros = b"0" * (1 << 24)
    packed = {"gz": gzip.compress(zeros), "xz": lzma.compress(zeros), "bz2": bz2.compress(zeros)}
    for name, data in packed.items():
        (tmp_path / f"d.xyz.{name}").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d.xyz", zeros)
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as tar:
        for member in ("skipped.txt", "d.xyz"):
            info = tarfile.TarInfo(member)
            info.size = len(zeros)
            tar.addfile(info, io.BytesIO(zeros))
    for name in ("d.xyz.gz", "d.xyz.xz", "d.xyz.bz2", "d.zip", "d.tar.gz"):
        _, bad = read("ase", tmp_path / name, members="*.xyz")
        assert any("expands to more than" in b.reason for b in bad), (name, bad)


def test_a_line_that_claims_a_thousand_million_atoms_costs_its_file(tmp_path):
    (tmp_path / "d.xyz").write_text("1000000000\nProperties=species:S:1:pos:R:3 energy=1\nCu 0 0 0\n")
    _, bad = read("ase", tmp_path / "d.xyz")
    assert len(bad) == 1


def test_damaged_lmdb_files_are_named_and_the_next_is_read(tmp_path):
    record = {"atomic_numbers": np.array([29]), "pos": np.zeros((1, 3)), "y": -3.0, "force": np.zeros((1, 3)), "sid": 1}
    path = tmp_path / "good.lmdb"
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False) as file,
        file.begin(write=True) as transaction,
    ):
        for number in range(200):
            transaction.put(str(number).encode(), pickle.dumps(record))
        transaction.put(b"length", pickle.dumps(200))
    whole = path.read_bytes()
    damaged = [tmp_path / f"{seed}.lmdb" for seed in range(8)]
    for seed, file in enumerate(damaged):  # the heads of pages: some of these files end the process by SIGBUS
        data, rng = bytearray(whole), random.Random(seed)
        for _ in range(20):
            data[4096 * rng.randrange(len(data) // 4096) + rng.randrange(64)] = rng.randrange(256)
        file.write_bytes(data)
    good, bad = read("ocp-lmdb", *damaged, path)
    assert sum(record.file == str(path) for record in good) == 200
    assert {item.file for item in bad} == set(map(str, damaged))
