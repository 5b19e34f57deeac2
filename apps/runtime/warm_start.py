"""Starts programs with imported libraries, by forking a process that has only imported them.

Importing torch and related packages takes about four seconds of processor time per trial, as much as a short rung
trains. So a worker keeps a server, started with the environment of its programs::

    python -m gfm_pipeline.apps.runtime.warm_start SOCKET

The server imports the modules of `WARM`, and waits. For each program the worker sends the attempt's folder and both
ends of its output. The server forks, and its child becomes the program, as with ``python -m``. Everything else is as
for a newly started program: its own session and process group, a parent-death signal (the program ends with the server,
and the server with the worker), signals, exit code, and the libraries' threads, devices and seeds, because the server
has one thread and has not used them. NumPy's own algebra is limited to one thread. Other programs are started anew:
programs with a launch line or several ranks, programs of other packages, and all programs if the server does not get
ready or does not answer.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

SERVER = "gfm_pipeline.apps.runtime.warm_start"
# Programs with warm start, and the module of each: the server imports it, with its dependencies, before the first fork.
WARM: Mapping[str, str] = {
    "gfm_pipeline.apps.train": "gfm_pipeline.apps.train.__main__",
    "gfm_pipeline.apps.calibrate.predict": "gfm_pipeline.apps.calibrate.predict",
    "gfm_pipeline.apps.calibrate.fit": "gfm_pipeline.apps.calibrate.fit",
}
READY_SECONDS = 30.0  # for the server to import everything; after this wait a program is started anew
ANSWER_SECONDS = 10.0  # for the server to fork
POLL_SECONDS = 0.02
_MESSAGE = 1 << 16  # bytes
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


class StartedProgram(Protocol):
    """The interface of a started program; `subprocess.Popen` implements it."""

    @property
    def pid(self) -> int:
        """Number of its process, which leads a group."""

    @property
    def returncode(self) -> int | None:
        """Its end: minus a signal, or its exit code; None: not known yet."""

    def poll(self) -> int | None:
        """Look whether it has ended, and return how."""

    def wait(self) -> int:
        """Wait for its end and return it; its process number is free afterwards."""


class WarmProgram:
    """A program forked by a server.

    Its process number stays reserved until `wait`, so its group can be killed safely until then.
    """

    def __init__(self, pid: int, server: WarmServer) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._acknowledged = False

    def poll(self) -> int | None:
        """Look whether it has ended, and return how."""
        if self.returncode is None:
            reply = self._server.receive(0.0)
            if reply is not None:
                self.returncode = int(reply) if reply else -signal.SIGKILL  # the program ends with its server
        return self.returncode

    def wait(self) -> int:
        """Wait for its end, and return how it ended."""
        while self.poll() is None:
            time.sleep(POLL_SECONDS)
        if not self._acknowledged:
            self._acknowledged = True
            self._server.send(b"seen")
        return int(self.returncode or 0)


class WarmServer:
    """A worker's handle of its server.

    Parameters
    ----------
    command
        Returns the command line of the server from the number of the socket that it inherits.
    """

    def __init__(self, command: Callable[[str], list[str]]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ready = False
        with theirs:
            self._process = subprocess.Popen(
                command(str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )

    def receive(self, seconds: float) -> bytes | None:
        """Return the next message; None when none arrives in time, b"" when the server is gone."""
        try:
            if not select.select([self._socket], [], [], seconds)[0]:
                return None
            return self._socket.recv(_MESSAGE)
        except (OSError, ValueError):
            return b""

    def send(self, message: bytes) -> None:
        """Send a message, unless the server is gone."""
        with suppress(OSError):
            self._socket.send(message)

    @property
    def gone(self) -> bool:
        """Whether the server has ended."""
        return self._process.poll() is not None

    def ready(self, seconds: float) -> bool:
        """Return whether all imports are done, now or within a number of seconds."""
        if not self._ready:
            self._ready = self.receive(seconds) == b"ready"
        return self._ready

    def start(self, module: str, folder: str, arguments: list[str], output: tuple[int, int]) -> WarmProgram | None:
        """Start a program, or return None when the server does not answer.

        Parameters
        ----------
        module, arguments
            As of ``python -m``.
        folder
            Working folder of the program.
        output
            Open files for its standard output and standard error.
        """
        job = json.dumps({"module": module, "folder": folder, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._socket, [job], list(output))
        except OSError:
            return None
        reply = self.receive(ANSWER_SECONDS)
        return WarmProgram(int(reply), self) if reply else None

    def close(self) -> None:
        """End the server, and with it its last program."""
        self._socket.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


class WarmStarter:
    """Starts a worker's programs from a server where possible; one at a time."""

    def __init__(self) -> None:
        self._server: WarmServer | None = None
        self._environment: Mapping[str, str] | None = None

    def start(
        self,
        module: str,
        folder: str,
        arguments: list[str],
        environment: Mapping[str, str],
        command: Callable[[str], list[str]],
        output: tuple[int, int],
    ) -> WarmProgram | None:
        """Start a program with imported libraries; None: the caller must start it anew.

        Parameters
        ----------
        module, folder, arguments, output
            As of `WarmServer.start`.
        environment
            Variables of the program. Another environment needs another server, since libraries read it when they are
            loaded.
        command
            As of `WarmServer`.
        """
        if module not in WARM or not sys.platform.startswith("linux"):
            return None
        server = self._server
        if server is not None and (server.gone or environment != self._environment):
            self.close()
            server = None
        patience = 0.0
        if server is None:
            server, patience = (
                WarmServer(command),
                READY_SECONDS,
            )  # wait for the imports once: the program needs them anyway
            self._server, self._environment = server, dict(environment)
        if not server.ready(patience):
            return None
        program = server.start(module, folder, arguments, output)
        if program is None:
            self.close()
        return program

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.close()
        self._server = None


def main(number: int) -> None:
    """Import everything, then fork a program per request; in the child this returns, and the program runs."""
    with socket.socket(fileno=number) as connection:
        for name in WARM.values():
            importlib.import_module(name)
        if not safe_to_fork():
            return
        gc.collect()
        gc.freeze()  # keeps shared pages shared
        connection.send(b"ready")
        while True:
            message, output, _, _ = socket.recv_fds(connection, _MESSAGE, 2)
            if not message:
                return
            job = json.loads(message)
            server = os.getpid()
            program = os.fork()
            if not program:
                _become(job["folder"], output, server)
                connection.send(str(os.getpid()).encode())
                break
            for file in output:
                os.close(file)
            _serve_program(connection, program)
    run(job["module"], job["arguments"])


def safe_to_fork() -> bool:
    """Return whether this process has one thread, and has started neither MPI nor an accelerator."""
    torch, mpi = sys.modules.get("torch"), sys.modules.get("mpi4py.MPI")
    devices = torch is not None and torch.cuda.is_initialized()
    return len(list(Path("/proc/self/task").iterdir())) == 1 and mpi is None and not devices


def _serve_program(connection: socket.socket, program: int) -> None:
    """Wait for a program's end, report it, and free its process number after the worker has confirmed."""
    ended = os.waitid(os.P_PID, program, os.WEXITED | os.WNOWAIT)
    code = 0 if ended is None else ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    connection.send(str(code).encode())
    connection.recv(_MESSAGE)
    os.waitpid(program, 0)


def _become(folder: str, output: list[int], server: int) -> None:
    """Give a forked process the state of a newly started program."""
    os.setsid()
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != server:  # the parent died before the request of the signal
        os._exit(1)
    for target, file in zip((1, 2), output, strict=True):
        os.dup2(file, target)
        os.close(file)
    os.chdir(folder)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def run(module: str, arguments: list[str]) -> NoReturn:
    """Run a module as ``python -m`` does, and end this process with its exit code.

    A normal exit would tear down some thousand modules, which takes as long as importing a quarter of them.
    """
    sys.argv[:] = [module, *arguments]
    sys.modules.pop(WARM[module], None)  # the module becomes the main module
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        code = leaving.code
    if not isinstance(code, int | None):
        sys.exit(str(code))  # a text that the interpreter would print
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
