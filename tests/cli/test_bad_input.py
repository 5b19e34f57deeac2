"""Every fault of a workflow: one sentence with file, line and fix, exit code 2, nothing on disk."""

import pytest
from workflow_cases import FAULTS, VALID

from gfm_pipeline.cli.main import invoke


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "Makefile").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(capsys, *arguments):
    code = invoke(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_small_workflow_is_valid(folder, capsys):
    (folder / "w.yaml").write_text(VALID)
    code, out, err = outcome(capsys, "validate", "w.yaml")
    assert (code, err) == (0, "")
    assert "w.yaml is valid" in out


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault, command, folder, capsys):
    old, new, line, words = FAULTS[fault]
    assert old in VALID
    (folder / "w.yaml").write_text(VALID.replace(old, new, 1))
    before = sorted(folder.rglob("*"))
    code, out, err = outcome(capsys, command, "w.yaml")
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert (f"w.yaml:{line}: " if line else "w.yaml: ") in err
    for word in words:
        assert word in err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--site", "frontieer"], ["Unknown site 'frontieer'", "local"]),
        (["--site", "gone.yaml"], ["gone.yaml"]),
        (["--set", "search.candidats=3"], ["--set", "candidates"]),
        (["--set", "search.candidates=x"], ["--set", "whole number"]),
        (["--set", "nothing"], ["--set", "key.inner=value"]),
        (["--set", "name.inner=3"], ["name holds a value"]),
    ],
)
def test_wrong_options(arguments, words, folder, capsys):
    (folder / "w.yaml").write_text(VALID)
    code, _, err = outcome(capsys, "validate", "w.yaml", *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err


def test_missing_workflow_and_campaign(folder, capsys):
    code, _, err = outcome(capsys, "run", "gone.yaml")
    assert code == 2
    assert "no workflow file gone.yaml" in err
    code, _, err = outcome(capsys, "status", "gone")
    assert code == 2
    assert "gone holds no campaign" in err
    assert sorted(folder.iterdir()) == [folder / "Makefile"]


def test_folder_of_something_else(folder, capsys):
    (folder / "w.yaml").write_text(VALID)
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.jpg").write_bytes(b"meow")
    code, _, err = outcome(capsys, "run", "w.yaml", "--campaign", "photos")
    assert code == 2
    assert "cat.jpg" in err
    assert [p.name for p in (folder / "photos").iterdir()] == ["cat.jpg"]


def test_site_file_with_a_typo(folder, capsys):
    (folder / "w.yaml").write_text(VALID)
    (folder / "mine.yaml").write_text("name: mine\ndescription: x\nscheduler: {kind: local}\nslotz: 3\n")
    code, _, err = outcome(capsys, "validate", "w.yaml", "--site", "mine.yaml")
    assert code == 2
    assert "mine.yaml:4: Unknown key 'slotz'. Did you mean 'slots'?" in err


@pytest.mark.parametrize("seconds", ["nan", "1e400", "inf", "-1", "0", "many"])
def test_a_time_to_read_for_is_a_finite_number(seconds, folder, capsys):
    (folder / "w.yaml").write_text(VALID)
    code, out, err = outcome(capsys, "ingest", "w.yaml", "--preview", "alloys", "--seconds", seconds)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "--seconds" in err
