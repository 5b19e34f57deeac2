"""The journal survives truncation at every byte and refuses damage at every byte."""

import errno
import os

import pytest

from gfm_pipeline.campaign.journal import Journal, read
from gfm_pipeline.core.errors import IntegrityError, StorageError

EVENTS = [("task-started", {"key": "k", "task": f"t{i}", "attempt": 1, "note": "Å π \n"}) for i in range(4)]


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for kind, data in EVENTS:
            journal.append(kind, data)
    return path


def test_round_trip(recorded):
    assert [(e.kind, e.data) for e in read(recorded)] == EVENTS
    assert [e.n for e in read(recorded)] == [0, 1, 2, 3]


def test_truncated_at_every_byte_then_appended(recorded):
    whole = recorded.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        recorded.write_bytes(whole[:length])
        complete = sum(end <= length for end in ends)
        assert len(list(read(recorded))) == complete
        with Journal(recorded) as journal:
            journal.append("driver-ended", {"outcome": "x"})
        entries = list(read(recorded))
        assert len(entries) == complete + 1
        assert entries[-1].kind == "driver-ended"


def test_flipped_at_every_byte_is_refused_with_the_line(recorded):
    whole = recorded.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        recorded.write_bytes(bytes(damaged))
        line = whole[:position].count(b"\n") + 1
        if position == len(whole) - 1:  # the last newline: the last line now looks torn, and is left out
            assert len(list(read(recorded))) == len(EVENTS) - 1
            continue
        with pytest.raises(IntegrityError, match=rf"journal\.jsonl:{line}:"):
            list(read(recorded))


def test_a_missing_line_is_noticed(recorded):
    lines = recorded.read_bytes().splitlines(keepends=True)
    recorded.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(IntegrityError, match="event 2 stands where 1 belongs"):
        list(read(recorded))


def test_readers_do_not_disturb_the_writer(recorded):
    with Journal(recorded) as journal:
        for i in range(20):
            journal.append("driver-ended", {"outcome": str(i)})
            assert len(list(read(recorded))) == len(EVENTS) + i + 1


def test_events_written_together_are_synced_once_and_before_anything_goes_on(recorded, monkeypatch):
    synced = []
    monkeypatch.setattr("gfm_pipeline.campaign.journal.os.fsync", lambda _: synced.append(len(list(read(recorded)))))
    with Journal(recorded) as journal:
        synced.clear()
        with journal.together():
            for i in range(5):
                journal.append("driver-ended", {"outcome": str(i)})
        assert synced == [len(EVENTS) + 5]
        with journal.together():
            pass
        assert synced == [len(EVENTS) + 5]
        journal.append("driver-ended", {"outcome": "alone"})
    assert synced == [len(EVENTS) + 5, len(EVENTS) + 6]


def test_nothing_is_written_after_events_whose_common_sync_was_refused(recorded, monkeypatch):
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "refused")

    with Journal(recorded) as journal:
        monkeypatch.setattr("gfm_pipeline.campaign.journal.os.fsync", refuse)
        with pytest.raises(StorageError), journal.together():
            journal.append("driver-ended", {"outcome": "x"})
        monkeypatch.undo()
        with pytest.raises(StorageError):
            journal.append("driver-ended", {"outcome": "y"})


def test_a_pipe_in_place_of_a_journal_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "journal.jsonl")
    with pytest.raises(IntegrityError, match="is a named pipe and no journal"):
        list(read(tmp_path / "journal.jsonl"))
