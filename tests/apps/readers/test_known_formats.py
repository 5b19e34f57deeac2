"""What a reader does not read is named for what it is, with the reader or the tool that does."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import bad, read_all

from gfm_pipeline.apps.ingest.files.known_formats import KNOWN
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.readers import BUILT_IN

FILES = {
    "a.parquet": (b"PAR1" + bytes(100), "it is Parquet.* Set reader: parquet"),
    "table": (b"PAR1" + bytes(100), "it is Parquet"),
    "ML_AB": (b" 1.0 Version\n*****\n", "training set of VASP.* Set reader: vasp"),
    "vaspout.h5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "results of VASP in HDF5.* Set reader: vasp"),
    "SPICE.hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file.* Set reader: hdf5"),
    "x.xyz.lz4": (b"\x04\x22\x4d\x18" + bytes(90), "compressed with LZ4.* lz4 -d"),
    "x.npz": (b"PK\x03\x04" + bytes(90), "a NumPy archive.* Set reader: npz"),
    "x.pt": (b"PK\x03\x04" + bytes(90), "a PyTorch file.* may run code"),
    "x.pckl.gzip": (b"\x1f\x8b" + bytes(90), "a pickle.* may run code"),
    "x.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(90), "7-Zip.* 7z x"),
    "frames.tar.zst": (b"\x28\xb5\x2f\xfd" + bytes(90), "tar archive compressed with Zstandard.* tar --zstd"),
    "x.LMDB": (bytes(90), "an LMDB data set.* ocp-lmdb"),
    "frames.xyz": (b"\x28\xb5\x2f\xfd" + bytes(90), "compressed with Zstandard.* suffix .zst"),
    "more.xyz": (b"\x1f\x8b" + bytes(90), "compressed with gzip.* suffix .gz"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    data, words = FILES[name]
    (tmp_path / name).write_bytes(data)
    (item,) = bad(read_all(SourceSettings("s", "ase", (str(tmp_path / name),))))
    assert item.file == str(tmp_path / name)
    assert "option format" not in item.reason
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(item.reason)


def test_what_reads_a_format_exists_and_says_nothing_of_it(tmp_path: Path) -> None:
    assert {reader for known in KNOWN for reader in known.readers} <= set(BUILT_IN)
    (tmp_path / "vaspout.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90))
    (item,) = bad(read_all(SourceSettings("s", "vasp", (str(tmp_path / "vaspout.h5"),))))
    assert "Set reader" not in item.reason
