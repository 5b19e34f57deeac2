"""A disk that is full, over quota, read-only or failing is a pause: the path is named, nothing is corrupt."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import runs
from pretended import artefacts, campaign_of, journal_of, write_campaign

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import Journal, read
from gfm_pipeline.core import publish
from gfm_pipeline.core.errors import StorageError

REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE]
NAMES = [errno.errorcode[number] for number in REFUSALS]


def refusal(number):
    return OSError(number, os.strerror(number))


class Disk:
    """Stands in for some calls of ``os``: the first ``good`` of them work, then the disk refuses."""

    def __init__(self, monkeypatch, call, number, good=0, part=0):
        self.call, self.number, self.good, self.part = getattr(os, call), number, good, part
        self.refused = False
        monkeypatch.setattr(os, call, self)

    def __call__(self, *arguments):
        if self.good > 0:
            self.good -= 1
            return self.call(*arguments)
        if self.part:  # a write that comes to half of the line before the disk is full
            descriptor, data = arguments
            self.part -= 1
            return self.call(descriptor, data[: len(data) // 2])
        self.refused = True
        raise refusal(self.number)


@pytest.mark.parametrize("number", REFUSALS, ids=NAMES)
@pytest.mark.parametrize(("call", "part"), [("write", 0), ("write", 1), ("fsync", 0)], ids=["write", "half", "fsync"])
def test_journal(number, call, part, tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for i in range(3):
            journal.append("driver-ended", {"outcome": f"before {i}"})
        with monkeypatch.context() as patched:
            Disk(patched, call, number, part=part)
            with pytest.raises(StorageError) as caught:
                journal.append("driver-ended", {"outcome": "refused"})
        assert str(path) in str(caught.value)
        assert os.strerror(number) in str(caught.value)
        assert caught.value.hint
        assert caught.value.exit_code == 3
        with pytest.raises(StorageError):  # space was made, but a part of a line may stand there: nothing may follow it
            journal.append("driver-ended", {"outcome": "too early"})
    known = [e.data["outcome"] for e in read(path)]
    assert known[:3] == ["before 0", "before 1", "before 2"]
    assert known[3:] in ([], ["refused"])  # whole or not at all
    with Journal(path) as journal:
        journal.append("driver-ended", {"outcome": "after"})
    assert [e.data["outcome"] for e in read(path)] == [*known, "after"]
    assert [e.n for e in read(path)] == list(range(len(known) + 1))


def message(action):
    """Return the message of the pause that ``action`` asks for, or '' when it works."""
    try:
        action()
    except StorageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", REFUSALS, ids=NAMES)
@pytest.mark.parametrize("good", range(8))
def test_publication_refused_at_every_sync(number, good, tmp_path, monkeypatch):
    def make():
        with publish.publishing(tmp_path / "a", "test") as folder:
            (folder / "inner").mkdir()
            for name in ("x", "inner/y"):
                (folder / name).write_text(name)

    with monkeypatch.context() as patched:
        disk = Disk(patched, "fsync", number, good)
        said = message(make)
    assert disk.refused == bool(said)  # nobody may fail to notice; the last number of `good` is one more than needed
    assert not said or (str(tmp_path) in said and os.strerror(number) in said)
    left = [p.name for p in tmp_path.iterdir()]
    assert left in ([], ["a"])  # whole or not at all, and no temporary folder
    if left:
        publish.verify(tmp_path / "a", digests=True)
    make()
    publish.verify(tmp_path / "a", digests=True)


@pytest.mark.parametrize("number", REFUSALS, ids=NAMES)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_replaced_whole_keeps_its_old_content(number, call, tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    publish.write_json(path, "old")
    with monkeypatch.context() as patched:
        Disk(patched, call, number)
        assert str(path) in message(lambda: publish.write_json(path, "new"))
    assert path.read_text() in ('"old"\n', '"new"\n')
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_every_refusal_has_its_own_advice():
    hints = set()
    for number in REFUSALS:
        with pytest.raises(StorageError) as caught, publish.storage_errors(Path("x")):
            raise refusal(number)
        hints.add(caught.value.hint)
    assert len(hints) == len(REFUSALS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "after"), [(errno.EDQUOT, 20), pytest.param(errno.EIO, 35, marks=pytest.mark.long)], ids=["quota", "EIO"]
)
def test_a_driver_whose_disk_refuses_pauses_and_goes_on(number, after, uninterrupted, tmp_path):
    arguments = write_campaign(tmp_path)
    shim = [sys.executable, str(Path(__file__).parent / "refusing_disk.py"), str(number), str(after)]
    done = subprocess.run([*shim, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Cannot write ")
    assert str(campaign_of(tmp_path)) in last
    assert os.strerror(number) in last
    assert "gfm-pipeline resume" in last
    assert "Traceback" not in done.stderr
    known = runs.events(journal_of(tmp_path))
    assert any(isinstance(e, ev.TaskStarted) for e in known)
    assert not any(isinstance(e, ev.StageDone) and e.outputs.keys() == {"ensemble"} for e in known)
    artefacts(tmp_path)  # checks every byte of what was published
    runs.finish(tmp_path, *arguments)
    assert artefacts(tmp_path) == artefacts(uninterrupted)
    assert runs.events(journal_of(tmp_path))[: len(known)] == known


@pytest.fixture
def mounted(tmp_path):
    """Mount a small file system, or skip where that is not allowed; yield it and a function that remounts it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0

    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=50m", "tmpfs", str(place)):
        pytest.skip("mounting a small file system needs root")
    yield place, lambda how: mount("-o", f"remount,{how}", str(place))
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_read_only_file_system(mounted, uninterrupted, tmp_path):
    disk, remount = mounted
    arguments = write_campaign(disk)
    process = runs.start(disk, *arguments)
    runs.wait_for(journal_of(disk), lambda e: isinstance(e, ev.RungDecided))
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 3
    assert remount("ro")

    def outcome(*command):
        done = subprocess.run(runs.command(*command), cwd=disk, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    for command in (arguments, ["resume", "campaigns/pretended", "--site", "site.yaml"]):
        code, _, err = outcome(*command)
        assert code == 3, err
        assert "Read-only file system" in err
        assert str(campaign_of(disk)) in err
        assert len(err.strip().splitlines()) == 1
    looking = (["status", "campaigns/pretended"], ["plan", *arguments[1:]], ["why", "w.yaml", "search"])
    for command in (*looking, ["verify", "campaigns/pretended"]):
        code, out, err = outcome(*command)
        assert code == 0, err
        assert out
    code, _, err = outcome("report", "campaigns/pretended")
    assert (code, "Read-only file system" in err) == (3, True)
    assert outcome("report", "campaigns/pretended", "--output", str(tmp_path / "report"))[0] == 0
    assert (tmp_path / "report" / "report.html").exists()

    assert remount("rw")
    runs.finish(disk, *arguments)
    assert artefacts(disk) == artefacts(uninterrupted)
