"""A hundred drivers killed at random times: every campaign ends as if nothing had happened, and nothing runs on."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pretended
import psutil
import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.engine.stages.table import NAMES

pytestmark = [pytest.mark.slow, pytest.mark.long]
KILLS = 100
CAMPAIGNS = 4  # at a time; each has its own share of the kills
EARLY = 0.3  # of the kills come while a driver starts, the others after it has journalled some events
STARTING = (0.1, 2.0)  # seconds after the start of the process
EVENTS = 16  # at most so many journalled first, so that campaigns get on however slow the machine is
MORE = 0.4  # and up to so many seconds more, to land between events
ORPHAN_SECONDS = 20.0


def drive(folder: Path, arguments: list[str], rng: random.Random) -> int:
    """Start a driver, kill it at a random time if it is not done by then, and return its exit code."""
    journal = pretended.journal_of(folder)
    before = lines(journal)
    process = runs.start(folder, *arguments)
    if rng.random() < EARLY:
        delay = rng.uniform(*STARTING)
    else:
        wanted, delay = before + rng.randint(1, EVENTS), rng.uniform(0.0, MORE)
        while lines(journal) < wanted and process.poll() is None:
            time.sleep(0.02)
    try:
        return process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@dataclass
class Story:
    """What happened to the campaigns of one thread."""

    folders: list[Path] = field(default_factory=list)
    kills: int = 0


def kill_often(base: Path, seed: int, kills: int) -> Story:
    """Drive campaign after campaign, killing each driver at a random time, until ``kills`` drivers were killed."""
    rng, story = random.Random(seed), Story()
    while story.kills < kills:
        folder = base / f"campaign-{seed}-{len(story.folders)}"
        arguments = pretended.write_campaign(folder)
        story.folders.append(folder)
        while story.kills < kills:
            code = drive(folder, arguments, rng)
            if code == 0:
                break
            assert code == -signal.SIGKILL, (folder / "driver.log").read_text()[-3000:]
            story.kills += 1
    return story


@pytest.mark.timeout(1800)  # two minutes of two idle cores
def test_a_hundred_kills_change_nothing_and_leave_nothing_running(tmp_path):
    whole = tmp_path / "whole"
    runs.finish(whole, *pretended.write_campaign(whole))
    base = tmp_path / "killed"
    with ThreadPoolExecutor(CAMPAIGNS) as pool:
        stories = list(pool.map(lambda seed: kill_often(base, seed, KILLS // CAMPAIGNS), range(CAMPAIGNS)))
    assert sum(s.kills for s in stories) == KILLS

    give_up = time.monotonic() + ORPHAN_SECONDS
    while (left := runs.processes_of(base)) and time.monotonic() < give_up:
        time.sleep(0.5)
    assert left == []

    drivers, stages = 0, set()
    for folder in (f for s in stories for f in s.folders):
        runs.finish(folder, *pretended.write_campaign(folder))
        pretended.assert_same(folder, whole)
        found = runs.events(pretended.journal_of(folder))
        drivers += sum(isinstance(e, ev.DriverStarted) for e in found)
        stages |= interrupted_stages(found)
    assert stages == set(NAMES), "the kills did not land everywhere"
    assert drivers > (1 - EARLY) * KILLS / 2, "too many kills came before the driver had begun"


def interrupted_stages(found: list[ev.Event]) -> set[str]:
    """Return the stages that had a task under way when a driver was killed."""
    stage_of = {e.key: e.stage for e in found if isinstance(e, ev.StageOpened)}
    return {stage_of[e.key] for e in found if isinstance(e, ev.TaskEnded) and e.adopted}


def test_a_pool_that_cannot_notice_goes_with_its_driver(tmp_path):
    """Parsl's pool of workers outlives the driver for ever when the interchange dies while it connects."""
    arguments = pretended.write_campaign(tmp_path)
    process = runs.start(tmp_path, *arguments, "--set", "converge.max_graphs=100000")
    runs.wait_for(pretended.journal_of(tmp_path), lambda e: isinstance(e, ev.TaskStarted) and e.task.startswith("m0"))
    pools = [p for p in psutil.process_iter() if is_pool_of(p, tmp_path)]
    assert pools
    for pool in pools:
        pool.suspend()
    runs.kill(process)
    give_up = time.monotonic() + ORPHAN_SECONDS
    while (left := runs.processes_of(tmp_path)) and time.monotonic() < give_up:
        time.sleep(0.2)
    assert left == []


def is_pool_of(process: psutil.Process, folder: Path) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return "gfm_pipeline.apps.runtime.forked_pool" in line[:5] and str(folder) in " ".join(line)
