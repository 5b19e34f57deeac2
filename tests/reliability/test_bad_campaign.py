"""Campaign folders nobody should have: a clear sentence, exit code 5 or 2, nothing changed, no restart from zero."""

import json
import os
import re
import shlex
import shutil
import subprocess
import zlib
from dataclasses import replace

import pytest
import runs
from old_campaigns import content, copy_of, rewrite

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read
from gfm_pipeline.cli.main import invoke

OF_WORKFLOW = ["w.yaml", "--campaign", "campaign"]
COMMANDS = [
    ["status", "campaign"],
    ["status", "campaign", "--json"],
    ["report", "campaign"],
    ["verify", "campaign"],
    ["resume", "campaign"],
    ["plan", *OF_WORKFLOW],
    ["why", "w.yaml", "search", "--campaign", "campaign"],
    ["validate", *OF_WORKFLOW],
    ["run", *OF_WORKFLOW],
]
HOUR = 3600.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    found = copy_of("campaign-v1", tmp_path / "old")
    monkeypatch.chdir(found)
    return found


def empty(journal):
    journal.write_bytes(b"")


def missing(journal):
    journal.unlink()


def first_line_torn(journal):
    journal.write_bytes(journal.read_bytes()[:50])


def folder_in_its_place(journal):
    journal.unlink()
    journal.mkdir()


def not_text(journal):
    journal.write_bytes(os.urandom(5000).replace(b"\n", b"") + b"\n")


def other_text(journal):
    journal.write_text("Dear diary,\ntoday nothing happened.\n")


def middle_cut_out(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5] + lines[7:]))


def flipped(journal):
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 4
    journal.write_bytes(data)


def without_beginning(journal):
    rewrite(journal, lambda entries: entries[1:])


def of_a_task_nobody_started(journal):
    rewrite(journal, lambda entries: [*entries, replace(entries[-1], kind="task-ended", data=stray(entries))])


def stray(entries):
    last = next(e for e in reversed(entries) if e.kind == "task-ended")
    return last.data | {"task": "c00077-r0"}


def of_wrong_fields(journal):
    rewrite(journal, lambda entries: [*entries, replace(entries[-1], kind="stage-done", data={"key": 3})])


# what is done to the journal: words of the sentence
DAMAGE = {
    empty: ["journal.jsonl holds no event"],
    missing: ["journal.jsonl is missing"],
    first_line_torn: ["journal.jsonl holds no event"],
    folder_in_its_place: ["journal.jsonl cannot be read: Is a directory"],
    not_text: ["journal.jsonl:1: this event is damaged"],
    other_text: ["journal.jsonl:1: this event is damaged"],
    middle_cut_out: ["journal.jsonl:6: event 7 stands where 5 belongs"],
    flipped: ["this event is damaged (its checksum does not match)"],
    without_beginning: ["journal.jsonl:1: a campaign begins with its creation, not with driver-started"],
    of_a_task_nobody_started: ["this event does not fit"],
    of_wrong_fields: ["this event does not fit"],
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_a_damaged_journal_is_a_sentence_and_nothing_starts_from_zero(damage, command, folder, capsys):
    damage(folder / "campaign" / "journal.jsonl")
    before = content(folder)
    assert invoke(command) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err
    for word in DAMAGE[damage]:
        assert word in captured.err
    assert content(folder) == before


def test_a_journal_nobody_may_read(folder, capsys, monkeypatch):
    """Root may read everything, so the operating system's answer is made up."""
    import builtins

    truth = open

    def refusing(file, *arguments, **options):
        if str(file).endswith("journal.jsonl"):
            raise PermissionError(13, "Permission denied", str(file))
        return truth(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refusing)
    for command in COMMANDS:
        assert invoke(command) == 5
        err = capsys.readouterr().err
        assert "journal.jsonl cannot be read: Permission denied" in err
        assert len(err.strip().splitlines()) == 1


def test_a_folder_nobody_may_write(folder, capsys, monkeypatch):
    def refusing(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refusing)
    for command in (["run", *OF_WORKFLOW], ["resume", "campaign"], ["report", "campaign"]):
        code = invoke(command)
        err = capsys.readouterr().err
        if command[0] != "report":  # a report is written through `open`, which still works
            assert code == 2
            assert "Permission denied" in err
            assert str(folder / "campaign") in err
            assert len(err.strip().splitlines()) == 1
    monkeypatch.undo()
    assert not (folder / "campaign" / "driver.lock").exists()


def test_the_journal_of_another_campaign(folder, capsys):
    text = (folder / "w.yaml").read_text()
    (folder / "w.yaml").write_text(text.replace("name: recorded", "name: mine"))
    before = content(folder)
    for command in (["run", *OF_WORKFLOW], ["plan", *OF_WORKFLOW], ["validate", *OF_WORKFLOW]):
        assert invoke(command) == 2
        err = capsys.readouterr().err
        assert "belongs to the workflow 'recorded', not to 'mine'" in err
        assert len(err.strip().splitlines()) == 1
    assert content(folder) == before


def test_the_workflow_of_a_campaign_is_gone(folder, capsys):
    (folder / "w.yaml").unlink()
    assert invoke(["resume", "campaign"]) == 2
    assert "There is no workflow file" in capsys.readouterr().err
    for command in COMMANDS[:4]:  # those that look need only the folder
        assert invoke(command) == 0


def numbers(data, where=""):
    """Yield every number of plain data with its place."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from numbers(value, f"{where}.{key}")
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from numbers(value, f"{where}[{index}]")
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield where, data


@pytest.mark.parametrize("at", [2, 6, 12, 20, 30])
def test_a_clock_that_jumps_back_an_hour(at, folder, capsys):
    def jump(entries):
        return [e if i < at else replace(e, t=e.t - HOUR) for i, e in enumerate(entries)]

    rewrite(folder / "campaign" / "journal.jsonl", jump)
    assert invoke(["status", "campaign", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    times = [(where, n) for where, n in numbers(status) if re.search(r"seconds|hours|kwh", where)]
    assert times
    assert [(where, n) for where, n in times if n < 0] == []
    for stage in status["stages"]:
        assert stage["started"] <= stage["ended"]
    for command in (["status", "campaign"], ["report", "campaign"]):
        assert invoke(command) == 0
        assert not re.search(r"-\d+ ?(s|min|h)\b", capsys.readouterr().out)
    report = (folder / "campaign" / "report.md").read_text()
    assert not re.search(r"-\d+(\.\d+)? ?(s|min|h)\b", report)


def test_a_clock_that_is_an_hour_ahead_of_the_reader(folder, capsys):
    """Written on a machine whose clock is ahead, read on one whose is not: nothing lies in the future."""
    import time

    ahead = time.time() + HOUR

    def shift(entries):
        return [replace(e, t=ahead + e.t - entries[0].t) for e in entries[:-8]]  # and it still runs

    rewrite(folder / "campaign" / "journal.jsonl", shift)
    assert invoke(["status", "campaign", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [n for where, n in numbers(status) if re.search(r"seconds|hours|kwh", where) and n < 0] == []
    assert invoke(["status", "campaign"]) == 0
    assert not re.search(r"-\d+ ?(s|min|h)\b", capsys.readouterr().out)


@pytest.mark.slow
def test_after_a_jump_back_the_campaign_goes_on(folder):
    journal = folder / "campaign" / "journal.jsonl"
    rewrite(journal, lambda entries: [replace(e, t=e.t + 1e9) for e in entries])  # the next driver's clock is behind
    runs.finish(folder, "resume", "campaign")
    entries = list(read(journal))
    assert entries[-1].t < entries[0].t
    assert ev.from_entry(entries[-1].kind, entries[-1].data) == ev.DriverEnded("done")


def test_what_the_first_driver_leaves_before_its_first_event_is_no_campaign_yet(folder, capsys):
    """Killed between locking the folder and its first event: `run` begins, and says nothing of damage."""
    from gfm_pipeline.campaign.folder import check_name
    from gfm_pipeline.campaign.paths import CampaignPaths

    new = folder / "new"
    new.mkdir()
    for name, text in (("driver.lock", "{}"), ("driver.lock.after-0123", ""), (".driver.lock.0123", "")):
        (new / name).write_text(text)
        assert check_name(CampaignPaths(new), "recorded") is None
    (new / "journal.jsonl").write_bytes(b"")
    assert check_name(CampaignPaths(new), "recorded") is None
    (new / "journal.jsonl").write_bytes(b'{"crc":"0')
    assert check_name(CampaignPaths(new), "recorded") is None
    shutil.rmtree(new)


def changed(folder, line, change):
    """Change an event of the journal in place, and write its checksum anew."""
    path = folder / "campaign" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    event = json.loads(lines[line])
    del event["crc"]
    change(event)
    body = json.dumps(event, separators=(",", ":")).encode()
    lines[line] = b'{"crc":"%08x",%b\n' % (zlib.crc32(body), body[1:])
    path.write_bytes(b"".join(lines))


def result_of_training(folder):
    entries = list(read(folder / "campaign" / "journal.jsonl"))
    return next(e.n for e in entries if (e.data.get("result") or {}).get("objective") is not None)


WELL_FORMED_BUT_WRONG = {
    "year 59009": (0, lambda e: e.update(t=1.8e12), "its time"),
    "before time": (0, lambda e: e.update(t=-1.0), "its time"),
    "time beyond all": (0, lambda e: e.update(t=1e300), "its time"),
    "time as text": (0, lambda e: e.update(t="noon"), "its time"),
    "objective not a number": (1, lambda e: e["data"]["result"].update(objective=float("nan")), "damaged"),
    "objective infinite": (1, lambda e: e["data"]["result"].update(objective=float("inf")), "damaged"),
    "objective as text": (1, lambda e: e["data"]["result"].update(objective="x"), "the objective of its result"),
    "digest as number": (1, lambda e: e["data"]["result"].update(digest=3), "the digest of its result"),
    "rate as a list": (1, lambda e: e["data"]["result"].update(graphs_per_second=[1]), "the graphs_per_second"),
    "errors of nothing": (1, lambda e: e["data"]["result"].update(errors=[1]), "the errors of its result"),
    "data as a list": (0, lambda e: e.update(data=[1]), "not an event"),
    "unknown stage": (1, lambda e: e["data"].update(key="nobody"), "does not fit"),
    "unknown task": (1, lambda e: e["data"].update(task="nobody"), "does not fit"),
}


@pytest.mark.parametrize("name", WELL_FORMED_BUT_WRONG)
def test_a_journal_that_is_well_formed_but_wrong_is_refused_with_its_line(name, folder, capsys):
    which, change, words = WELL_FORMED_BUT_WRONG[name]
    line = result_of_training(folder) if which else 3
    changed(folder, line, change)
    for command in (["status", "campaign"], ["status", "campaign", "--json"], ["report", "campaign"]):
        assert invoke(command) == 5
        out, err = capsys.readouterr()
        assert out == ""
        assert f"journal.jsonl:{line + 1}: " in err
        assert words in err
        assert len(err.splitlines()) == 1


def test_the_line_that_runs_it_again_is_whole_and_survives_a_shell(folder):
    said = {"name": "my; site.yaml", "overlays": ["/o v/er.yaml"]}
    path = folder / "campaign" / "journal.jsonl"
    at = next(e.n for e in read(path) if e.kind == "driver-started")
    workflow = "/data/my runs; touch x/$(id)/w.yaml"
    overrides = ["search.space.hidden=[8, 16]"]
    changed(folder, at, lambda e: e["data"].update(workflow=workflow, resolved={"site": said, "overrides": overrides}))
    assert invoke(["report", "campaign"]) == 0
    (line,) = (x for x in (folder / "campaign" / "report.md").read_text().splitlines() if "gfm-pipeline run" in x)
    root = str((folder / "campaign").resolve())
    options = ["--campaign", root, "--site", said["name"], "--overlay", said["overlays"][0], "--set", overrides[0]]
    assert shlex.split(line) == ["gfm-pipeline", "run", workflow, *options]
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == shlex.split(line)
