"""What `benchmarks/driver.py` samples while a driver works, and the figures it prints."""

from __future__ import annotations

import statistics
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read

SAMPLE_SECONDS = 0.25


def report_plain(folder: Path, slots: int, samples: Samples) -> None:
    """Print the figures of Parsl alone."""
    first, *lines = (folder / "times").read_text().splitlines()
    begins = sorted(p.stat().st_mtime for p in (folder / "plain").glob("*/result.json"))
    ends = sorted(float(line.split()[1]) for line in lines)
    figures(slots, samples, float(first), [], begins, ends)


class Samples:
    """CPU seconds of the driver, and of Parsl's interchange, over time."""

    def __init__(self, driver: psutil.Process) -> None:
        self.driver = driver
        self.rows: list[tuple[float, float, float]] = []
        self.interchange: psutil.Process | None = None
        self.memory = 0.0

    def take(self) -> None:
        """Note the CPU times of now."""
        if self.interchange is None:
            with suppress(psutil.Error):
                found = [c for c in self.driver.children() if "interchange" in " ".join(c.cmdline()).lower()]
                self.interchange = found[0] if found else None
        with suppress(psutil.Error):
            other = sum(self.interchange.cpu_times()[:2]) if self.interchange else 0.0
            self.rows.append((time.time(), sum(self.driver.cpu_times()[:2]), other))

    def share(self, begin: float, end: float) -> tuple[float, float]:
        """Return per cent of one core that driver and interchange used between two moments."""
        inside = [r for r in self.rows if begin <= r[0] <= end]
        if len(inside) < 2 or inside[-1][0] - inside[0][0] < 1.0:
            return float("nan"), float("nan")
        first, last = inside[0], inside[-1]
        span = last[0] - first[0]
        return 100 * (last[1] - first[1]) / span, 100 * (last[2] - first[2]) / span


def wait_for_last_start(journal: Path, count: int, process: subprocess.Popen[bytes], samples: Samples) -> None:
    """Sample until ``count`` trainings were started."""
    seen, place, rest = 0, 0, b""
    while seen < count and process.poll() is None:
        time.sleep(SAMPLE_SECONDS)
        samples.take()
        if journal.exists():
            with open(journal, "rb") as stream:
                stream.seek(place)
                rest += stream.read()
                place = stream.tell()
            *lines, rest = rest.split(b"\n")
            seen += sum(b'"kind":"task-started"' in n and b'"task":"c' in n for n in lines)


def figures(
    slots: int, samples: Samples, first: float, submitted: list[float], begins: list[float], ends: list[float]
) -> None:
    """Print rates, shares and latencies.

    Parameters
    ----------
    slots
        Tasks at a time.
    samples
        CPU times.
    first
        When the first task was handed over (Unix time).
    submitted, begins, ends
        When tasks were handed over (empty: all at once), their programs began and had ended, each in its own order.
    """
    full, last = begins[slots - 1], begins[2 * slots - 1] if len(begins) >= 2 * slots else submitted[-1]
    quiet, busy = (full, max(full, ends[0])), (max(full, ends[0]), last)
    print(f"  until all {slots} ran: {full - first:.0f} s")
    for name, (begin, end) in (("all run, none ends", quiet), ("all run, ends and starts", busy)):
        driver, other = samples.share(begin, end)
        rate = sum(begin <= t <= end for t in ends) / max(1e-9, end - begin)
        cost = f"driver {driver:.1f} % of a core, interchange {other:.1f} %"
        print(f"  {name} ({end - begin:.0f} s, {rate:.1f} tasks/s): {cost}")
    for what, times in (("start recorded", submitted), ("program began", begins)):
        waits = sorted(s - x for x, s in zip(ends, times[slots:], strict=False))
        if waits:
            p95 = waits[int(0.95 * (len(waits) - 1))]
            print(f"  from an end to the next {what}: median {statistics.median(waits):.3f} s, 95 % {p95:.3f} s")


def report(root: Path, slots: int, samples: Samples) -> None:
    """Print the figures of a campaign from its journal, the times of its files, and the samples."""
    entries = [(e.t, ev.from_entry(e.kind, e.data)) for e in read(root / "journal.jsonl")]
    starts = [t for t, e in entries if isinstance(e, ev.TaskStarted) and e.task.startswith("c")]
    if len(starts) < 2 * slots:
        raise SystemExit(f"only {len(starts)} of {2 * slots} tasks were started")
    attempts = list(root.glob("stages/search-*/tasks/*/attempt-1"))
    begins = sorted(p.stat().st_mtime for a in attempts if (p := a / "result.json").exists())
    ends = sorted(p.stat().st_mtime for a in attempts if (p := a / "exit.json").exists())
    figures(slots, samples, starts[0], starts, begins, ends)
