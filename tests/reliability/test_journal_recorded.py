"""A recorded journal, cut and flipped at bytes of every line; readers beside a writer; the benchmark runs."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from old_campaigns import FIXTURES

from gfm_pipeline.campaign.journal import Journal, read
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.errors import IntegrityError

RECORDED = (FIXTURES / "campaign-v1" / "campaign" / "journal.jsonl").read_bytes()
STRIDE = 7  # no divisor of 8: every bit of a byte is flipped somewhere
ENDS = [i + 1 for i, byte in enumerate(RECORDED) if byte == ord("\n")]
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "journal.py"


def test_cut_anywhere_it_opens_with_every_whole_event(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(RECORDED)
    near = {end + off for end in ENDS for off in (-2, -1, 0, 1)}
    for length in sorted({*range(0, len(RECORDED), STRIDE), *near} - {len(RECORDED) + 1}, reverse=True):
        os.truncate(path, length)
        assert sum(1 for _ in read(path)) == sum(end <= length for end in ENDS)
        if length % 500 < STRIDE:
            load_state(path)  # a beginning of a campaign is a campaign


def test_flipped_anywhere_it_is_refused_with_the_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    for position in sorted({*range(0, len(RECORDED) - 1, STRIDE), *(end - 1 for end in ENDS[:-1])}):
        line = 1 + sum(end <= position for end in ENDS)
        damaged = bytearray(RECORDED)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=rf"journal\.jsonl:{line}: this event is damaged"):
            list(read(path))


WRITER = """
import sys
from pathlib import Path
from gfm_pipeline.campaign.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    for i in range(int(sys.argv[2])):
        journal.append("driver-ended", {"outcome": "x" * (i % 300)})
"""
READER = """
import sys
from pathlib import Path
from gfm_pipeline.campaign.journal import read
while True:
    seen = sum(1 for _ in read(Path(sys.argv[1])))
    sys.stdout.write(f"{seen}\\n")
    sys.stdout.flush()
"""


def test_readers_beside_a_writer_see_whole_events_and_never_block_it(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("driver-ended", {"outcome": "first"})
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        assert readers[0].stdout.readline() == "1\n"
        os.kill(readers[0].pid, signal.SIGSTOP)  # a reader that stops in the middle of the file holds nobody up
        with open(path, "rb") as held:
            held.read(10)
            subprocess.run([sys.executable, "-c", WRITER, str(path), "400"], check=True, timeout=120)
        os.kill(readers[0].pid, signal.SIGCONT)
        for reader in readers:
            seen = [int(reader.stdout.readline())]
            while seen[-1] < 401:
                seen.append(int(reader.stdout.readline()))
            assert seen == sorted(seen)  # every read was of a whole, undamaged beginning
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
            reader.stdout.close()


def test_a_reader_needs_no_more_than_permission_to_read(tmp_path, monkeypatch):
    """No lock is taken and nothing is opened for writing by who only reads."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(RECORDED)
    opened = []
    truth = open

    def noting(file, mode="r", *arguments, **options):
        opened.append((Path(file).name, mode))
        return truth(file, mode, *arguments, **options)

    monkeypatch.setattr("builtins.open", noting)
    load_state(path)
    assert opened == [("journal.jsonl", "rb")]


def test_one_process_appends_while_another_thread_reads(tmp_path):
    path = tmp_path / "journal.jsonl"
    counts = []
    with Journal(path) as journal:
        journal.append("driver-ended", {"outcome": "0"})
        done = threading.Event()

        def reading():
            while not done.is_set():
                counts.append(sum(1 for _ in read(path)))

        thread = threading.Thread(target=reading)
        thread.start()
        for i in range(200):
            journal.append("driver-ended", {"outcome": str(i)})
        done.set()
        thread.join()
    assert counts == sorted(counts)
    assert sum(1 for _ in read(path)) == 201


def test_the_benchmark_runs():
    command = [sys.executable, str(BENCHMARK), "--events", "2000", "--appends", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 1)  # whether the bound is kept depends on the machine
    assert "read and fold into the state" in done.stdout
    assert done.stderr == ""
