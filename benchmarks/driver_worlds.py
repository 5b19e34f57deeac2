"""The worlds that `benchmarks/driver.py` drives a campaign in: a launcher that starts nothing, and Parsl alone."""

from __future__ import annotations

import heapq
import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PRETENDED = HERE.parent / "tests" / "reliability"  # reads and assembles the little data there is
PULSE_SECONDS = 2.0  # as the task wrapper


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
            [sys.executable, str(HERE / "driver.py"), "--keep-attempts"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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
