"""Files and models that a user names: what is wrong with them is one sentence and exit code 2, in every command."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write
from deploy_cases import EMT_BUNDLE

from gfm_pipeline.apps.deploy.predict import predict_files
from gfm_pipeline.apps.deploy.select import select
from gfm_pipeline.cli import deploy
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import GFMError, error_of, plain_error
from gfm_pipeline.core.records import from_plain, to_plain

COMMANDS = {
    "predict": ("--output", "out.extxyz"),
    "evaluate": (),
    "select": ("--n", "1", "--output", "out.extxyz"),
}


PROGRAMS: dict[str, Callable[[Any], Any]] = {"predict": predict_files, "select": select}


def answered_here(module: str, spec: Any, kind: type[Any], _seconds: float | None, *, shows: bool) -> Any:
    """Answer a query in this process: a further process would import torch for each of them."""
    assert shows
    try:
        return from_plain(kind, to_plain(PROGRAMS[module.rpartition(".")[2]](spec)))
    except GFMError as error:
        raise error_of(plain_error(error)) from None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deploy, "query", answered_here)
    write("good.xyz", bulk("Cu", cubic=True), format="extxyz")
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Run a command that has to be refused, and return the lines of its message."""
    before = sorted(Path().iterdir())
    assert invoke(list(arguments)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(Path().iterdir()) == before
    assert "Traceback" not in err
    assert not any(word in err for word in ("ValueError", "KeyError", "DataError", "BundleError", "..", ".;"))
    return [line for line in err.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_unreadable_files_are_input(here: Path, capfd: pytest.CaptureFixture[str], command: str) -> None:
    (here / "odd.xyz").write_text("7\n\nCu 0 0 zero\n")
    (sentence, *others) = refused(capfd, command, str(EMT_BUNDLE), "odd.xyz", *COMMANDS[command])
    assert "odd.xyz, record 0: " in sentence
    assert others == []


def test_bad_records_are_listed_though_no_other_has_a_label(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    strange = bulk("Cu", cubic=True)
    strange.symbols[0] = "Xe"
    write("mixed.xyz", [bulk("Cu"), strange, bulk("Cu", cubic=True)], format="extxyz")
    (sentence, title, *bad) = refused(capfd, "evaluate", str(EMT_BUNDLE), "mixed.xyz")
    assert "No structure has a label" in sentence
    assert title == "  1 structures have no prediction:"
    assert len(bad) == 1
    assert "mixed.xyz, record 1: " in bad[0]
    assert "Xe" in bad[0]


def test_damaged_models_are_input(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = EMT_BUNDLE.read_bytes()
    (here / "cut.gfm").write_bytes(content[: len(content) // 2])
    (here / "text.gfm").write_text("not a model")
    with zipfile.ZipFile(EMT_BUNDLE) as old, zipfile.ZipFile("newer.gfm", "w") as new:
        for name in old.namelist():
            index = json.loads(old.read(name)) | {"schema_version": 99} if name == "bundle.json" else None
            new.writestr(name, old.read(name) if index is None else json.dumps(index))
    (here / "empty").mkdir()
    for model, words in (("cut.gfm", "damaged"), ("text.gfm", "not an exported model"), ("newer.gfm", "newer version"),
                         ("empty", "no calibrated ensemble")):  # fmt: skip
        (sentence,) = refused(capfd, "predict", model, "good.xyz", "--output", "out.extxyz")
        assert model in sentence
        assert words in sentence
