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
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from driver_figures import SAMPLE_SECONDS, Samples, report, report_plain, wait_for_last_start
from driver_worlds import HERE, PRETENDED, drive_plain, drive_stub, keep_attempts

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
