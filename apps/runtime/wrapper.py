"""Runs one program for Parsl: own process group, parent-death signal, heartbeat, deadline, bounded logs, exit record.

Parsl starts only this wrapper. Parsl cannot cancel a running app, and does not kill an app's children when a worker
dies, so the wrapper does both. The engine reads the end of the attempt from ``exit.json`` and ``result.json`` in the
attempt's folder, never from the future alone. So it can later adopt an attempt that finished just as the driver died.
``docs/write-an-app.md`` describes the duties of a program; `gfm_pipeline.core.contracts.task` names the files.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from gfm_pipeline.apps.energy.attempt_meter import AttemptMeter
from gfm_pipeline.apps.runtime.attempt_monitor import AttemptMonitor
from gfm_pipeline.apps.runtime.job_steps import end_step
from gfm_pipeline.apps.runtime.launch import Launch, command_line
from gfm_pipeline.apps.runtime.log_files import BoundedLog, pump
from gfm_pipeline.apps.runtime.warm_start import SERVER, StartedProgram, WarmStarter
from gfm_pipeline.core.clock import LivedTime
from gfm_pipeline.core.contracts.attempts.energy import of_nodes, read_energy
from gfm_pipeline.core.contracts.attempts.launch import visible_devices
from gfm_pipeline.core.contracts.attempts.records import read_first_failure, shell_code, signalled_code
from gfm_pipeline.core.contracts.task import (
    EXIT_FILE,
    STOP_FILE,
    WRAPPER_FILE,
    ExitRecord,
    WrapperRecord,
)
from gfm_pipeline.core.faultpoints import FaultPoint, arm_from, reach
from gfm_pipeline.core.processes import identify
from gfm_pipeline.core.publish import storage_errors, write_record
from gfm_pipeline.core.records import read_record
from gfm_pipeline.core.visibility import wait_for

POLL_SECONDS = 0.1
PULSE_SECONDS = 2.0  # between two heartbeats of the wrapper, and two checks of the program's
PIPE_SECONDS = 2.0  # for the last output after the end of the program's group
UNANSWERED_SECONDS = 900.0  # how long to repeat a launch line while the batch system does not answer
AGAIN_SECONDS = 5.0  # between two repetitions
_TAIL_BYTES = 16_384


def run(launch: Launch, host: str = "", warm: WarmStarter | None = None) -> ExitRecord:
    """Run a program to its end or its limits, and record the end in ``exit.json``.

    ``host`` is the batch system's own name of this node, if any; ``warm`` starts frequent programs.

    Raises
    ------
    StorageError
        When the disk refuses the records.
    """
    folder = Path(launch.folder)
    arm_from(folder)
    began, clock = time.monotonic(), LivedTime()
    kills = memory_kills()
    with storage_errors(folder):
        logs = [BoundedLog(folder / name, launch.log_bytes) for name in ("stdout.log", "stderr.log")]
    wait_for(map(Path, launch.expects), launch.visible_seconds)  # the program reports files that never appear
    reach(FaultPoint.WRAPPER_BEFORE_START)
    watch = AttemptMonitor(launch, clock(), clock)
    pulse = folder / WRAPPER_FILE
    meter = AttemptMeter(None if launch.line else launch.energy, folder, visible_devices(folder))
    try:
        log_size = _size(logs[1].path)
        code = _start(launch, watch, pulse, logs, meter, warm)
        while _unanswered(launch, watch, code, logs[1].path, log_size) and _waited(watch, pulse):
            log_size = _size(logs[1].path)
            code = _start(launch, watch, pulse, logs, meter, warm)
    finally:
        meter.close()
        for log in logs:
            log.close()
    after = memory_kills()
    record = ExitRecord(
        code=exit_code(code, folder),
        timed_out=watch.timed_out,
        seconds=time.monotonic() - began,
        silent=watch.silent,
        stopped=watch.stopped,
        out_of_memory=None if kills is None or after is None else after > kills,
        host=host or socket.gethostname(),
        energy=None if launch.energy is None else of_nodes(read_energy(folder), launch.energy.nodes),
    )
    try:
        reach(FaultPoint.WRAPPER_AFTER_EXIT)
        write_record(folder / EXIT_FILE, record)
        reach(FaultPoint.WRAPPER_RECORDED)
    finally:
        with suppress(OSError):
            pulse.unlink()
    return record


def _start(
    launch: Launch,
    watch: AttemptMonitor,
    pulse: Path,
    logs: Sequence[BoundedLog],
    meter: AttemptMeter,
    warm: WarmStarter | None,
) -> int:
    """Start the program, wait for its end, and return minus a signal or its exit code."""
    outputs = [os.pipe() for _ in logs]
    try:
        child = _program(launch, (outputs[0][1], outputs[1][1]), warm)
    except OSError:
        for read, _ in outputs:
            os.close(read)
        raise
    finally:
        for _, write in outputs:
            os.close(write)
    pumps = [pump(read, log) for (read, _), log in zip(outputs, logs, strict=True)]
    try:
        reach(FaultPoint.WRAPPER_STARTED)
        write_record(pulse, WrapperRecord(identify(os.getpid()), identify(child.pid)))
        reach(FaultPoint.WRAPPER_ATTENDING)
        _supervise(child, watch, pulse, meter)
    finally:
        if launch.cancel and child.poll() is None:
            end_step(pulse.parent, launch.cancel)
        _signal(child.pid, signal.SIGKILL)  # remaining processes of the program's group
        child.wait()
        for thread in pumps:
            thread.join(PIPE_SECONDS)
    return child.wait()


def _program(launch: Launch, output: tuple[int, int], warm: WarmStarter | None) -> StartedProgram:
    """Start the program with imported libraries if possible, else anew."""
    if warm is not None and not launch.line and launch.shim is None and launch.spec is not None:

        def server(socket: str) -> list[str]:
            variables = {"OPENBLAS_NUM_THREADS": "1", **launch.environment}  # it is to have one thread when it forks
            return command_line(replace(launch, module=SERVER, spec=socket, environment=variables))

        arguments = [launch.spec]
        found = warm.start(launch.module, launch.folder, arguments, launch.environment, server, output)
        if found is not None:
            return found
    return subprocess.Popen(
        command_line(launch),
        cwd=launch.folder,
        stdin=subprocess.DEVNULL,
        stdout=output[0],
        stderr=output[1],
        start_new_session=True,
    )


def _unanswered(launch: Launch, watch: AttemptMonitor, code: int, log: Path, log_size: int) -> bool:
    """Return whether the batch system did not answer a launch line, from its log after ``log_size`` bytes."""
    now = watch.clock()
    watch.poll(now)
    if code <= 0 or not launch.unanswered or watch.over or watch.begun or now - watch.started > UNANSWERED_SECONDS:
        return False
    try:
        with open(log, "rb") as stream:
            stream.seek(log_size)
            text = stream.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return False
    return re.search(launch.unanswered, text) is not None


def _waited(watch: AttemptMonitor, pulse: Path) -> bool:
    """Wait before a repeated launch, with heartbeats; return False when the attempt was asked to end."""
    until = watch.clock() + AGAIN_SECONDS
    while (now := watch.clock()) < until:
        with suppress(OSError):
            os.utime(pulse)
        if watch.poll(now) is not None:
            return False
        time.sleep(min(1.0, AGAIN_SECONDS / 5))
    watch.again(now)
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def exit_code(code: int, folder: Path) -> int:
    """Return minus the signal that ended the program, or its exit code.

    Starters of several ranks return 128 + n for signal n, and launchers such as srun return arbitrary codes. Then the
    verdict of the first failed rank in the folder counts.
    """
    verdict = read_first_failure(folder) if code else None
    return signalled_code(code if verdict is None else verdict)


def _supervise(child: StartedProgram, watch: AttemptMonitor, pulse: Path, meter: AttemptMeter) -> None:
    """Wait for the program's end with heartbeats, and end the program at its limits."""
    polled = float("-inf")
    while child.poll() is None:
        now = watch.clock()
        if now - polled >= min(
            PULSE_SECONDS, watch.launch.heartbeat_timeout_seconds / 4, watch.launch.deadline_seconds / 4
        ):
            polled = now
            meter.poll()
            with suppress(OSError):  # a fault of the disk, not of the program
                os.utime(pulse)
            number = watch.poll(now)
            if number is signal.SIGKILL and watch.launch.cancel:
                end_step(pulse.parent, watch.launch.cancel)
            if number is not None:
                _signal(child.pid, number)
        time.sleep(POLL_SECONDS)


def memory_kills() -> int | None:
    """Return how many processes the kernel has killed for lack of memory, in this control group or else in total."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition("0::")[2].split("\n")[0]
        places = [Path("/sys/fs/cgroup" + group) / "memory.events", Path("/sys/fs/cgroup/memory.events")]
    except (OSError, ValueError):
        places = []
    for place in [*places, Path("/proc/vmstat")]:
        try:
            lines = place.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _signal(group: int, number: signal.Signals) -> None:
    """Send a signal to the program's group; a signal to pass on goes to its leader only."""
    try:
        (os.kill if number is signal.SIGUSR1 else os.killpg)(group, number)
    except (ProcessLookupError, PermissionError):
        return  # already ended


def main(arguments: Sequence[str]) -> int:
    """Run a JSON `Launch` and return the exit code; a rank of a group starts its member this way.

    SIGTERM and SIGUSR1 become the stop file: the program is asked to end, may save, and is killed after the grace.
    """
    launch = read_record(Launch, Path(arguments[0]))

    def stop(_number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):
            (Path(launch.folder) / STOP_FILE).touch()

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    return shell_code(run(launch).code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
