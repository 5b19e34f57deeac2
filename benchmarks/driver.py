"""What the driver costs while many tasks run, and how fast a slot is filled again.

    python benchmarks/driver.py [--tasks 1024] [--seconds 120] [--workers parsl|stub|plain] [--folder DIR]

A search of programs that only sleep, twice as many as there are slots, is driven to the last start. ``parsl`` is
the whole command line as users run it: Parsl's workers, the task wrapper, one process a program. ``stub`` is the same
driver with a launcher that starts nothing: another process keeps the files of each attempt as wrapper and program
would. It costs no memory, so it measures the driver where so many workers do not fit; Parsl's share of the driver's
work is missing from it. ``plain`` is the alternative: the same programs submitted to Parsl alone. CPU times are
those of the driver's process alone, with its threads.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import queue
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read

HERE = Path(__file__).resolve().parent
PRETENDED = HERE.parent / "tests" / "reliability"  # reads and assembles the little data there is
PULSE_SECONDS = 2.0  # as the task wrapper
SAMPLE_SECONDS = 0.25

WORKFLOW = """\
name: sleeping
data:
  sources: {{alloys: {{reader: emt-alloys}}}}
search:
  candidates: {candidates}
  wave: {slots}
  rungs: [{milliseconds}]
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    learning_rate: {{low: 1e-4, high: 1e-2, scale: log}}
converge: {{members: 1}}
limits: {{heartbeat_timeout_seconds: 86400, stop_seconds: 20, wrapper_timeout_seconds: {lost}}}
"""

SITE = """\
name: sleepers
description: A machine whose programs only sleep
scheduler: {{kind: local}}
slots: {slots}
driver: {{address: 127.0.0.1, heartbeat_seconds: 30}}
programs: {{ingest.read: pretend.read, ingest.assemble: pretend.assemble, train: sleeping.train}}
environment: {{OMP_NUM_THREADS: "1", PYTHONPATH: "{path}"}}
"""


def keep_attempts(requests: Any, answers: Any) -> None:
    """Be wrapper and program of all attempts asked for, until the driver is gone: a process of its own."""
    due: list[tuple[float, str]] = []
    living: set[str] = set()
    asked: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in requests:
            asked.put(line)
        asked.put(None)

    threading.Thread(target=listen, daemon=True).start()
    pulse = time.monotonic()
    while True:
        with suppress(queue.Empty):
            while True:
                line = asked.get(timeout=0.01)
                if line is None:
                    return
                job = json.loads(line)
                folder = Path(job["folder"])
                spec = json.loads((folder / "spec.json").read_text())
                seconds = 0.0
                if "seed" in spec and "budget_graphs" in spec:
                    _ready(folder, spec)
                    (folder / "wrapper.json").write_text("{}")
                    seconds = spec["budget_graphs"] / 1000 * (0.5 + random.Random(spec["seed"]).random())
                    living.add(job["folder"])
                else:
                    _program(job["module"], folder)
                heapq.heappush(due, (time.monotonic() + seconds, job["folder"]))
        now = time.monotonic()
        while due and due[0][0] <= now:
            folder_text = heapq.heappop(due)[1]
            living.discard(folder_text)
            folder = Path(folder_text)
            record = {"code": 0, "timed_out": False, "seconds": 1.0, "silent": False, "stopped": False, "host": "stub"}
            (folder / "exit.part").write_text(json.dumps(record))
            (folder / "exit.part").rename(folder / "exit.json")
            answers.write(folder_text + "\n")
            answers.flush()
        if now - pulse >= PULSE_SECONDS:
            pulse = now
            for folder_text in living:
                os.utime(Path(folder_text) / "wrapper.json")


def _ready(folder: Path, spec: dict[str, Any]) -> None:
    result = {"stop_reason": "budget", "objective": 1.0, "errors": {}, "graphs": spec["budget_graphs"], "steps": 1}
    result |= {"parameters": 1, "seconds": 1.0, "graphs_per_second": 1.0, "checkpoint": None, "digest": None}
    (folder / "result.json").write_text(json.dumps(result | {"message": ""}))


def _program(module: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PRETENDED)}
    subprocess.run([sys.executable, "-m", module, "spec.json"], cwd=folder, env=environment, check=True)


class StubLauncher:
    """Starts nothing; what an attempt would leave is left by another process."""

    def __init__(self) -> None:
        from gfm_pipeline.execution.launcher import LaunchEnd

        self.ended: queue.Queue[Any] = queue.Queue()
        self._tokens: dict[str, Any] = {}
        self._end = LaunchEnd
        self._keeper = subprocess.Popen(
            [sys.executable, __file__, "--keep-attempts"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        for line in self._keeper.stdout or ():
            self.ended.put(self._end(self._tokens.pop(line.rstrip("\n")), None))

    def serve(self, wanted: Collection[Any]) -> None:
        """Do nothing."""

    def ready(self, size: Any) -> bool:  # noqa: ARG002 - the protocol's
        """Return True."""
        return True

    def submit(self, job: Any, token: Any) -> None:
        """Hand an attempt to the keeper."""
        self._tokens[job.launch.folder] = token
        line = json.dumps({"folder": job.launch.folder, "module": job.launch.module})
        if self._keeper.stdin is not None:
            self._keeper.stdin.write(line + "\n")
            self._keeper.stdin.flush()

    def trouble(self) -> str | None:
        """Return None."""
        return None

    def restart(self) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """End the keeper."""
        self._keeper.kill()


def drive_stub(folder: Path) -> None:
    """Drive the campaign in ``folder`` as `gfm-pipeline run` does, but for the launcher."""
    from gfm_pipeline.api.run_request import RunRequest, SiteChoice
    from gfm_pipeline.campaign.folder import driving
    from gfm_pipeline.engine.driver import Driver
    from gfm_pipeline.engine.resources.nodes import HeldFleet
    from gfm_pipeline.report.progress import ProgressPrinter

    request = RunRequest(folder / "w.yaml", SiteChoice(str(folder / "site.yaml")), None, ()).resolve()
    launcher = StubLauncher()
    with driving(request.context.paths.root, request.loaded.model.name) as campaign:
        progress = ProgressPrinter(campaign.paths)
        fleet, stop = HeldFleet(()), threading.Event()
        Driver(request.context, campaign.state, campaign.journal, launcher, fleet, request.site, progress, stop).run()


def sleep_in_worker(module: str, folder: str, seed: int, milliseconds: int) -> tuple[float, float]:
    """Run the sleeping program in a Parsl worker; return when it began and ended."""
    import json
    import subprocess
    import sys
    import time
    from pathlib import Path

    Path(folder).mkdir(parents=True)
    (Path(folder) / "spec.json").write_text(json.dumps({"seed": seed, "budget_graphs": milliseconds}))
    subprocess.run([sys.executable, module, "spec.json"], cwd=folder, check=True)
    return (Path(folder) / "result.json").stat().st_mtime, time.time()


def drive_plain(folder: Path, tasks: int, seconds: float) -> None:
    """Submit the same programs to Parsl alone: no journal, no wrapper, no watching."""
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="plain",
        address="127.0.0.1",
        max_workers_per_node=tasks,
        cores_per_worker=1e-6,
        heartbeat_period=30,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = Config(executors=[executor], run_dir=str(folder / "runinfo"), strategy="none", usage_tracking=0)
    with parsl.load(config), open(folder / "times", "a") as times:
        app = parsl.python_app(sleep_in_worker)
        times.write(f"{time.time()}\n")
        for number in range(2 * tasks):
            place = str(folder / "plain" / str(number))
            future = app(str(HERE / "sleeping" / "train.py"), place, number, int(seconds * 1000))
            future.add_done_callback(lambda f: (times.write("{} {}\n".format(*f.result())), times.flush()))
        parsl.wait_for_current_tasks()


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


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Run one campaign and print its figures."""
    path = f"{HERE}:{PRETENDED}"
    # Hundreds of workers start slowly on a few cores: a task that waits for its worker is not lost.
    lost = 120 if options.workers == "stub" else 1200
    texts = {
        "lost": lost,
        "slots": options.tasks,
        "candidates": 2 * options.tasks,
        "milliseconds": int(options.seconds * 1000),
    }
    (folder / "w.yaml").write_text(WORKFLOW.format(**texts))
    (folder / "site.yaml").write_text(SITE.format(slots=options.tasks, path=path))
    command = [sys.executable, "-m", "gfm_pipeline", "run", "w.yaml", "--site", "site.yaml"]
    if options.workers == "stub":
        command = [sys.executable, __file__, "--drive-stub", str(folder)]
    if options.profile:
        command[1:1] = ["-m", "cProfile", "-o", str(options.profile)]
    if options.workers == "plain":
        command = [sys.executable, __file__, "--drive-plain", str(folder)]
        command += ["--tasks", str(options.tasks), "--seconds", str(options.seconds)]
    root = folder / "campaigns" / "sleeping"
    with open(folder / "driver.log", "ab") as log:
        scripts = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # Parsl's own
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=scripts)
    samples = Samples(psutil.Process(process.pid))
    try:
        if options.workers == "plain":
            while process.poll() is None and len(list((folder / "plain").glob("*/result.json"))) < 2 * options.tasks:
                time.sleep(SAMPLE_SECONDS)
                samples.take()
        else:
            wait_for_last_start(root / "journal.jsonl", 2 * options.tasks, process, samples)
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        left = psutil.virtual_memory().available / 2**30
        print(f"{options.workers}: {len(family)} processes below the driver; {left:.1f} GiB of memory left")
        if options.workers == "plain":
            report_plain(folder, options.tasks, samples)
        else:
            report(root, options.tasks, samples)
    except SystemExit:
        print((folder / "driver.log").read_text()[-2000:])
        raise
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        if process.poll() is None:
            process.kill()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1024, help="at a time")
    parser.add_argument("--seconds", type=float, default=120.0, help="mean sleep of a program")
    parser.add_argument("--workers", choices=["parsl", "stub", "plain"], default="parsl")
    parser.add_argument("--folder", type=Path, default=None, help="file system to measure on; default: temporary")
    parser.add_argument("--profile", type=Path, default=None, help="write cProfile's figures of the driver there")
    parser.add_argument("--drive-stub", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--drive-plain", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--keep-attempts", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keep_attempts:
        keep_attempts(sys.stdin, sys.stdout)
    elif options.drive_plain:
        drive_plain(options.drive_plain, options.tasks, options.seconds)
    elif options.drive_stub:
        drive_stub(options.drive_stub)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as name:
            measure(options, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
