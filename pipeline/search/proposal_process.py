"""Proposals in a process of their own: the driver goes on with its campaign while a surrogate is fitted.

`ProposalProcess` is the driver's end. The other end is this module run as a program: it reads questions from its
standard input and writes answers to its standard output, until there are no more or its driver is gone. Both ends
pickle, since both are this installation and the pipe is private to them. Results are sent in parts, so that the
driver's other threads run in between.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from gfm_pipeline.core.contracts.policies import PROPOSALS, PolicyChoice, make_policy
from gfm_pipeline.core.errors import ConfigError, GFMError, StageFailed
from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.search.proposer import Observation, ProposalMethod
from gfm_pipeline.search.space import SearchSpace

PART = 2000  # candidates that are pickled at a time
WATCHED_SECONDS = 1.0


@dataclass(frozen=True)
class Question:
    """What a proposal method is asked; the arguments of `ProposalMethod.propose`, and which method it is."""

    method: PolicyChoice
    space: SearchSpace
    observations: Sequence[Observation]
    taken: Sequence[dict[str, Any]]
    n: int
    seed: int

    def answer(self) -> list[dict[str, Any]]:
        """Return the settings of ``n`` candidates, computed here."""
        method = make_policy(PROPOSALS, self.method, ProposalMethod)
        return method.propose(self.space, self.observations, self.taken, self.n, self.seed)


class ProposalProcess:
    """Answers one question at a time in another process, which starts with the first one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposals")
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._last_words = ""
        self._lock, self._closed = threading.Lock(), False

    @property
    def pid(self) -> int | None:
        """Number of the process; None before the first question."""
        return None if self._process is None else self._process.pid

    def submit(self, question: Question) -> Future[list[dict[str, Any]]]:
        """Return the future of an answer; its error is a `GFMError`."""
        return self._thread.submit(self._answer, question)

    def close(self) -> None:
        """End the process, whatever it is computing."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()  # what waits for its answer hears of it
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._process is not None:
            self._end(self._process)

    def _answer(self, question: Question) -> list[dict[str, Any]]:
        for retried in (False, True):  # a process that was killed says nothing of the question
            process = self._started()
            try:
                _send(process.stdin, question)
                answer: list[dict[str, Any]] | GFMError = _load(process.stdout)
            except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
                self._end(process)
                if retried or self._closed:
                    raise StageFailed(
                        f"The process that proposes candidates ended: {self._last_words or error}.",
                        "Ask the machine's log whether it ran out of memory; `gfm-pipeline resume` tries again.",
                    ) from error
            else:
                if isinstance(answer, GFMError):
                    raise answer
                return answer
        raise AssertionError("unreachable: the second failure raises")

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise StageFailed("No candidates are proposed any more: the campaign stops.")
            return self._running()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end(self._process)
        if self._process is None:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
            self._process = subprocess.Popen(
                module_command(__name__),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,  # Ctrl-C is the driver's
            )
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        if self._stderr is not None:
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").strip().splitlines()
            self._last_words = lines[-1].rstrip(".") if lines else ""
        for stream in (process.stdin, process.stdout, self._stderr):
            if stream is not None:
                with suppress(OSError):  # what was not sent yet
                    stream.close()
        self._process = self._stderr = None


def _parts(question: Question) -> Iterator[tuple[str, Any]]:
    yield "begin", (question.method, question.space, question.n, question.seed)
    for name in ("observations", "taken"):
        rows = getattr(question, name)
        for start in range(0, len(rows), PART):
            yield name, list(rows[start : start + PART])
    yield "end", None


def _send(stream: Any, question: Question) -> None:
    for part in _parts(question):
        pickle.dump(part, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _load(stream: Any) -> Any:
    return pickle.load(stream)  # noqa: S301 - the other end of a pipe of ours


def _receive(stream: Any) -> Question:
    _, (method, space, n, seed) = _load(stream)
    found: dict[str, list[Any]] = {"observations": [], "taken": []}
    while (part := _load(stream))[0] != "end":
        found[part[0]] += part[1]
    return Question(method, space, found["observations"], found["taken"], n, seed)


def _leave_with(parent: int) -> None:
    """End this process once its parent is another: children of the driver may hold the pipe open after its death."""
    while os.getppid() == parent:
        time.sleep(WATCHED_SECONDS)
    os._exit(0)


def main() -> None:
    """Answer questions until the pipe closes."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    with suppress(EOFError):
        while True:
            question = _receive(sys.stdin.buffer)
            answer: list[dict[str, Any]] | GFMError
            try:
                answer = question.answer()
            except GFMError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - a method may be of another package and raise anything
                message = (str(error).splitlines() or [""])[0].rstrip(".")
                answer = ConfigError(
                    f"Proposal method {question.method.name!r} failed: {type(error).__name__}: {message}.",
                    "Correct it, or choose another with search.proposals.",
                )
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    # Pickles name classes by their module, which for this one must not be ``__main__``.
    from gfm_pipeline.search.proposal_process import main as run

    run()
