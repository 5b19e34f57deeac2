"""Tables in Parquet, as ColabFit has them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conformance import Conformance, Expected, bad, good, read_all
from test_reader_json_table import plain_table

from gfm_pipeline.core.contracts.data import SourceSettings


class TestParquet(Conformance):
    reader = "parquet"
    counts = True
    # No `spoil`: rows share columns.

    def write(self, folder: Path, expected: Expected) -> Path:
        pytest.importorskip("pyarrow", reason="Parquet is read with pyarrow, an extra")
        plain_table(expected).to_parquet(folder / "co_0.parquet")
        return folder / "co_0.parquet"

    def test_columns_are_metadata(self, path: Path) -> None:
        assert [r.group for r in good(read_all(self.source(path, group_key="name")))] == [f"run{k}" for k in range(6)]


def test_the_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (item,) = bad(read_all(SourceSettings("s", "parquet", (str(tmp_path / "a.parquet"),))))
    assert 'pip install "gfm-pipeline[parquet]"' in item.reason
