"""`dataset head` shows charge and spin where a dataset has any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from source_cases import PLAIN, ingest, waters

from gfm_pipeline.cli.main import invoke


@pytest.mark.parametrize("known", [True, False])
def test_charge_and_spin_are_shown_where_there_are_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    source = replace(PLAIN, files=(str(waters(tmp_path / "a.xyz", 60)),), group_key="run")
    folder = ingest(tmp_path / "out", replace(source, charge=-1, spin=2) if known else source)
    assert invoke(["dataset", "head", str(folder)]) == 0
    text = capsys.readouterr().out
    assert ("charge" in text and "spin" in text and "-1" in text) == known
