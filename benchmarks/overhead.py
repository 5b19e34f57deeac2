"""What a trial's time goes into beside training and validation, how fast the command line starts, and large reports.

    python benchmarks/overhead.py CAMPAIGN [CAMPAIGN ...]      of campaigns that have run, from their journals
    python benchmarks/overhead.py [--candidates 10000]         the command line and a report of so many candidates

Of a campaign: each first attempt of a training that ended well, from the journal's line of its start to that of its end,
and of it what its result says it trained and validated; the rest is starting, opening the dataset, saving, and Parsl's
and the driver's way. Sums and medians for each rung, and for all.

The command line: processor and wall time of whole processes, medians of seven. The report: of a made-up campaign of so
many candidates, in a process of its own, with its largest memory. Tables are Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read

TURNS = 7
COMMANDS = (("--help",), ("run", "--help"), ("status", "{campaign}"), ("schema",))


@dataclass(frozen=True)
class Trial:
    """Seconds of one attempt: from its start to its end, and of them in training and validation."""

    task: str
    wall: float
    useful: float


def trials(campaign: Path) -> list[Trial]:
    """Return the trainings of a campaign that ended well at their first attempt, in the order they ended."""
    begun: dict[tuple[str, str], float] = {}
    found = []
    for entry in read(campaign / "journal.jsonl"):
        event = ev.from_entry(entry.kind, entry.data)
        if isinstance(event, ev.TaskStarted) and event.attempt == 1:
            begun[event.key, event.task] = entry.t
        elif isinstance(event, ev.TaskEnded) and event.attempt == 1 and (event.key, event.task) in begun:
            seconds = (event.result or {}).get("seconds")
            if event.outcome is ev.AttemptOutcome.OK and seconds and "graphs_per_second" in (event.result or {}):
                found.append(Trial(event.task, entry.t - begun[event.key, event.task], float(seconds)))
    return found


def of_campaign(campaign: Path) -> None:
    """Print the overhead of a campaign's trainings."""
    by_rung = defaultdict(list)
    found = trials(campaign)
    for trial in found:
        by_rung[trial.task.rpartition("-")[2] if "-r" in trial.task else "members"].append(trial)
    print(f"\n{campaign}\n\n| trainings | | wall, s | training and validation, s | the rest, s a task | share |")
    print("|---|---|---|---|---|---|")
    for title, some in [*sorted(by_rung.items()), ("all", found)]:
        wall, useful = sum(t.wall for t in some), sum(t.useful for t in some)
        rest = median(t.wall - t.useful for t in some) if some else 0.0
        share = 100 * (1 - useful / wall) if wall else 0.0
        print(f"| {title} | {len(some)} | {wall:.0f} | {useful:.0f} | {rest:.1f} | {share:.0f} % |")


def once(command: list[str]) -> tuple[float, float, float]:
    """Return processor seconds, wall seconds and largest memory (MB) of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1024


def command_line(campaign: Path) -> None:
    """Print how long commands take from the shell to their end."""
    print("\n| command | processor s | wall s |\n|---|---|---|")
    program = str(Path(sys.executable).parent / "gfm-pipeline")
    for words in COMMANDS:
        command = [program, *(word.format(campaign=campaign) for word in words)]
        turns = [once(command) for _ in range(TURNS)]
        cpu, wall = (median(turn[k] for turn in turns) for k in (0, 1))
        print(f"| gfm-pipeline {' '.join(w.format(campaign='CAMPAIGN') for w in words)} | {cpu:.2f} | {wall:.2f} |")


def report(campaign: Path, candidates: int) -> None:
    """Print what a report of a campaign takes."""
    program = str(Path(sys.executable).parent / "gfm-pipeline")
    cpu, wall, memory = once([program, "report", str(campaign)])
    page = (campaign / "report.html").stat().st_size / 1e6
    print("\n| report of | processor s | wall s | memory, MB | page, MB |\n|---|---|---|---|---|")
    print(f"| {candidates:,} candidates | {cpu:.1f} | {wall:.1f} | {memory:.0f} | {page:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaigns", type=Path, nargs="*", metavar="CAMPAIGN")
    parser.add_argument("--candidates", type=int, default=10_000)
    given = parser.parse_args()
    for campaign in given.campaigns:
        of_campaign(campaign)
    if given.campaigns:
        return
    with tempfile.TemporaryDirectory() as folder:
        from made_campaign import make

        campaign = make(Path(folder), given.candidates)
        command_line(campaign)
        report(campaign, given.candidates)


if __name__ == "__main__":
    main()
