"""Artefacts are checked before anything rests on them: what is gone is made again, what was changed is refused."""

import json
import os
import shutil
import subprocess

import pytest
import runs
from pretended import artefacts, campaign_of, journal_of

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.publish import publishing

pytestmark = pytest.mark.slow
AGAIN = ("run", "w.yaml", "--site", "site.yaml")


@pytest.fixture
def spoilt(uninterrupted, tmp_path, monkeypatch):
    """Return a copy of the finished campaign, and go there."""
    shutil.copytree(uninterrupted, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def place(folder, pattern):
    """Return the one path in the campaign's stages that fits."""
    (found,) = campaign_of(folder).glob(f"stages/{pattern}")
    return found


def verdict(capsys, folder, *options):
    """Return exit code, table and message of `verify`; nothing on disk may change by it."""
    before = {p: p.stat().st_mtime_ns for p in campaign_of(folder).rglob("*")}
    code = invoke(["verify", str(campaign_of(folder)), *options])
    captured = capsys.readouterr()
    assert {p: p.stat().st_mtime_ns for p in campaign_of(folder).rglob("*")} == before
    return code, captured.out, captured.err


def test_a_whole_campaign_is_whole(uninterrupted, capsys):
    for options in ([], ["--quick"]):
        code, out, err = verdict(capsys, uninterrupted, *options)
        assert (code, err) == (0, "")
        assert out.count("whole") == len(artefacts(uninterrupted)) == 14
        assert "14 artefacts checked" in out


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def edit_manifest(path):
    data = json.loads(path.read_text())
    data["files"][next(iter(data["files"]))]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))


def from_the_future(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99, "files": 3}))


def replaced(path):
    shutil.rmtree(path.parent)
    with publishing(path.parent, "someone") as folder:
        (folder / "chain.json").write_text("{}")


# How: file within the member's checkpoint, what is done to it, words of the message, whether sizes alone tell
DAMAGE = {
    "a flipped bit": ("chain.json", flip, "chain.json was changed", False),
    "cut short": ("chain.json", cut, "chain.json has", True),
    "a file removed": ("chain.json", os.remove, "chain.json is missing", True),
    "manifest edited": ("manifest.json", edit_manifest, "manifest.json was changed", True),
    "manifest torn": ("manifest.json", cut, "manifest.json is damaged", True),
    "another artefact in its place": ("manifest.json", replaced, "is not what the journal says", True),
    "of a newer version": ("manifest.json", from_the_future, "written by a newer version (schema 99)", True),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_with_its_fix_and_refused_by_run(kind, spoilt, capsys):
    name, spoil, words, sizes_tell = DAMAGE[kind]
    folder = place(spoilt, "converge-*/checkpoints/m00")
    spoil(folder / name)
    for options, tells in (([], True), (["--quick"], sizes_tell)):
        code, out, err = verdict(capsys, spoilt, *options)
        assert code == (5 if tells else 0)
        assert out.count("DAMAGED") == int(tells)
        if tells:
            assert len(err.strip().splitlines()) == 1
            assert words in err
            assert str(folder) in err
            if "newer" in words:
                assert "Upgrade" in err
            else:
                assert f"remove the folder {folder}" in err
                assert "converge makes it again (task m00)" in err
    if sizes_tell and kind in ("cut short", "of a newer version"):
        journal = len(runs.events(journal_of(spoilt)))
        runs.finish(spoilt, *AGAIN, code=5)
        last = (spoilt / "driver.log").read_text().strip().splitlines()[-1]
        assert last.startswith("Error: ")
        assert words in last
        assert "Traceback" not in (spoilt / "driver.log").read_text()
        assert (folder / "manifest.json").exists()  # nothing was removed on the user's behalf
        new = runs.events(journal_of(spoilt))[journal:]
        assert [type(e) for e in new] == [ev.DriverStarted, ev.NodesHeld, ev.DriverEnded]


def test_the_fix_works_and_the_campaign_is_as_before(spoilt, capsys):
    before = artefacts(spoilt)
    removed = [
        place(spoilt, "ingest-*/datasets/alloys"),
        place(spoilt, "ingest-*/shards/alloys-00001"),  # needed again, because of the dataset
        place(spoilt, "converge-*/checkpoints/m01"),
        place(spoilt, "calibrate-*/ensemble"),
    ]
    chosen = [m for e in runs.events(journal_of(spoilt)) if isinstance(e, ev.MembersSelected) for m in e.members]
    stem = f"search-*/checkpoints/{chosen[0].candidate}"
    removed += [place(spoilt, f"{stem}-r1"), place(spoilt, f"{stem}-r0")]  # the second needs the first
    for folder in removed:
        shutil.rmtree(folder)
    assert verdict(capsys, spoilt, "--quick")[0] == 5
    runs.finish(spoilt, *AGAIN)
    log = (spoilt / "driver.log").read_text()
    assert log.count("it is made again") == len(removed)
    assert artefacts(spoilt) == before
    assert verdict(capsys, spoilt)[0] == 0
    again = [e.task for e in runs.events(journal_of(spoilt)) if isinstance(e, ev.TaskStarted) and e.attempt == 2]
    assert len(again) == len(removed)


def test_a_lost_input_is_made_again_before_it_is_used(spoilt):
    shutil.rmtree(place(spoilt, "converge-*/checkpoints/m00"))
    runs.finish(spoilt, *AGAIN, "--set", "calibrate.level=0.8")
    new = [e for e in runs.events(journal_of(spoilt)) if isinstance(e, ev.ArtefactLost | ev.TaskStarted)]
    lost = next(i for i, e in enumerate(new) if isinstance(e, ev.ArtefactLost))
    started = [e.task for e in new[lost:] if isinstance(e, ev.TaskStarted)]
    assert started.index("m00") < started.index("predict-m00") < started.index("fit")
    assert sorted(started) == ["fit", "m00", "predict-m00", "predict-m01"]


def test_a_damaged_input_is_refused_before_any_task_starts(spoilt):
    folder = place(spoilt, "ingest-*/datasets/alloys")
    cut(next(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"))
    done = subprocess.run(
        runs.command(*AGAIN, "--set", "calibrate.level=0.8"), cwd=spoilt, capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert str(folder) in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(campaign_of(spoilt).glob("stages/calibrate-*/tasks/*/attempt-2"))
    assert len(list(campaign_of(spoilt).glob("stages/calibrate-*/tasks"))) == 1  # of the first run


def test_what_is_not_needed_any_more_may_be_removed(spoilt, capsys):
    shutil.rmtree(place(spoilt, "ingest-*/shards"))
    code, out, _ = verdict(capsys, spoilt)
    assert code == 0
    assert out.count("not needed any more") == 2
    runs.finish(spoilt, *AGAIN, "--set", "seed=6")
    shutil.rmtree(min(campaign_of(spoilt).glob("stages/calibrate-*"), key=lambda p: p.stat().st_ctime))
    code, out, _ = verdict(capsys, spoilt, "--quick")
    assert code == 0
    assert out.count("given up") == 3 + 2  # and the shards


def test_a_damaged_ensemble_stops_the_report_with_a_sentence(spoilt, capsys):
    cut(place(spoilt, "calibrate-*/ensemble/evaluation.npz"))
    assert invoke(["report", str(campaign_of(spoilt))]) == 5
    err = capsys.readouterr().err
    assert "evaluation.npz has" in err
    assert len(err.strip().splitlines()) == 1
