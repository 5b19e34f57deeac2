"""How fast a journal is read and written, beside SQLite doing the same in the same run.

    python benchmarks/journal.py [--events 100000] [--appends 2000] [--folder DIR]

Reads a journal of realistic events (every line decoded, its checksum checked, folded into the state), then
appends with an fsync each. SQLite keeps the same texts in a table: WAL with ``synchronous=FULL``, which
syncs each commit as the journal does, read back, parsed and folded the same way (without checksums, as
SQLite has none). Exit code 1 when reading takes longer than the bound.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import AttemptOutcome, Event
from gfm_pipeline.campaign.journal import SCHEMA_VERSION, Entry, Journal, encode, read
from gfm_pipeline.campaign.state import CampaignState, load_state

BOUND_SECONDS = 2.0  # for 100,000 events
WAVE = 64


def candidate(number: int, wave: int, chance: random.Random) -> ev.Candidate:
    """Return a candidate with as many hyperparameters as a real one."""
    settings = {
        "algorithm": chance.choice(["SchNet", "EGNN", "PaiNN", "PNA"]),
        "hidden": chance.choice([32, 64, 128]),
        "layers": chance.randint(2, 4),
        "cutoff": 5.0,
        "n_radial": 8,
        "force_head": "conservative",
        "learning_rate": 10 ** chance.uniform(-4, -2),
        "batch_size": chance.choice([16, 32]),
        "force_weight": chance.uniform(1, 30),
        "weight_decay": 1e-3,
        "ema_decay": 0.99,
    }
    return ev.Candidate(f"c{number:05d}", wave, settings)


def training_result(task: str, chance: random.Random) -> dict[str, object]:
    """Return the record a training leaves: errors on two datasets, speed, checkpoint and its digest."""
    errors = {
        name: {
            "energy_mae": chance.random() / 100,
            "force_mae": chance.random() / 10,
            "null_energy_mae": chance.random(),
            "null_force_mae": chance.random(),
        }
        for name in ("alloys", "molecules")
    }
    return {
        "stop_reason": "budget",
        "objective": chance.random(),
        "errors": errors,
        "graphs": 10_000,
        "steps": 625,
        "parameters": 48_211,
        "seconds": chance.uniform(10, 100),
        "graphs_per_second": chance.uniform(50, 500),
        "checkpoint": f"/scratch/project/campaigns/large/stages/search-0123456789/checkpoints/{task}",
        "digest": f"{chance.getrandbits(256):064x}",
        "message": "",
    }


def campaign(count: int) -> Iterator[Event]:
    """Yield ``count`` events of a large search, as a driver would record them."""
    chance = random.Random(0)
    key = f"{chance.getrandbits(256):064x}"
    yield ev.CampaignCreated(SCHEMA_VERSION, "large", "0.1.0")
    yield ev.DriverStarted("host", 1, "local", "0.1.0", WAVE, 12.0, "workflow.yaml", {"workflow": {}})
    yield ev.StageOpened("search", key, {"seed": 1}, {"ingest/alloys": key}, WAVE)
    made, wave = 3, 0
    while True:
        proposed = tuple(candidate(wave * WAVE + i, wave, chance) for i in range(WAVE))
        story: list[Event] = [ev.WaveProposed(key, wave, proposed, "DeepHyper CBO", wave * WAVE)]
        for one in proposed:
            task = f"{one.name}-r0"
            story.append(ev.TaskStarted(key, task, 1))
            result = training_result(task, chance)
            story.append(ev.TaskEnded(key, task, 1, AttemptOutcome.OK, chance.uniform(10, 100), "", result))
        on = tuple(c.name for c in proposed[::3])
        stopped = {c.name: "rank 40 of 64, the best 21 go on" for c in proposed if c.name not in on}
        story.append(ev.RungDecided(key, wave, 0, on, stopped))
        for event in story:
            if made == count:
                return
            yield event
            made += 1
        wave += 1


def timed(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the least of the seconds that ``action`` takes: what else the machine does only adds."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return min(found)


def write_journal(path: Path, entries: list[Entry]) -> None:
    """Write a journal at once, without syncing each line."""
    path.write_bytes(b"".join(map(encode, entries)))


def database(path: Path) -> sqlite3.Connection:
    """Open a database that syncs each commit, as the journal does."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS event (n INTEGER PRIMARY KEY, t REAL, kind TEXT, data TEXT)")
    return connection


def fold_database(connection: sqlite3.Connection) -> CampaignState:
    """Fold the events of a database into a state."""
    state = CampaignState()
    for moment, kind, data in connection.execute("SELECT t, kind, data FROM event ORDER BY n"):
        state.apply(ev.from_entry(kind, json.loads(data)), moment)
    return state


def appends_per_second(count: int, append: Callable[[str, dict[str, object]], object], entries: list[Entry]) -> float:
    """Return how many events per second ``append`` makes durable."""
    started = time.perf_counter()
    for entry in entries[:count]:
        append(entry.kind, entry.data)
    return min(count, len(entries)) / (time.perf_counter() - started)


def main() -> int:
    """Measure and print; return 1 when reading is slower than the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--appends", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, default=None, help="file system to measure on; default: temporary")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        entries = [Entry(n, 1.7e9 + n * 0.1, *ev.to_entry(event)) for n, event in enumerate(campaign(options.events))]
        path = folder / "journal.jsonl"
        write_journal(path, entries)
        with database(folder / "journal.sqlite") as base:
            base.execute("BEGIN")
            rows = ((e.n, e.t, e.kind, json.dumps(e.data)) for e in entries)
            base.executemany("INSERT INTO event VALUES (?, ?, ?, ?)", rows)
            base.execute("COMMIT")
        size = path.stat().st_size
        entries = entries[: options.appends]  # a large heap would slow the collector, and so what is measured
        decode = timed(lambda: sum(1 for _ in read(path)))
        fold = timed(lambda: load_state(path))
        fold_sqlite = timed(lambda: fold_database(base))
        base.close()

        with Journal(folder / "appended.jsonl") as journal:
            appends = appends_per_second(options.appends, journal.append, entries)
        other = database(folder / "appended.sqlite")

        def insert(kind: str, data: dict[str, object]) -> None:
            other.execute("INSERT INTO event (t, kind, data) VALUES (?, ?, ?)", (time.time(), kind, json.dumps(data)))

        appends_sqlite = appends_per_second(options.appends, insert, entries)
        other.close()

    bound = BOUND_SECONDS * options.events / 100_000
    print(f"{options.events:,} events, {size / 1e6:.1f} MB")
    print(f"{'':34}{'journal':>12}{'SQLite':>12}")
    print(f"{'read, check, parse (s)':34}{decode:>12.2f}{'':>12}")
    print(f"{'read and fold into the state (s)':34}{fold:>12.2f}{fold_sqlite:>12.2f}")
    print(f"{'durable appends a second':34}{appends:>12,.0f}{appends_sqlite:>12,.0f}")
    print(f"bound for reading and folding: {bound:.2f} s: {'kept' if fold <= bound else 'BROKEN'}")
    return 0 if fold <= bound else 1


if __name__ == "__main__":
    sys.exit(main())
