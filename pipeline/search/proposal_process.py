"""Proposals in a separate process: the driver continues its campaign while a surrogate is fitted.

`ProposalProcess` is the driver's end. The other end is this module as a program: it reads questions from its
standard input and writes answers to its standard output until its input ends or its driver is gone. Questions and
answers are lines of JSON. The driver sends results in parts, so that its other threads run in between.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, Any

import msgspec

from gfm_pipeline.core.contracts.policies import PROPOSALS, PolicyChoice, make_policy
from gfm_pipeline.core.errors import ConfigError, GFMError, StageFailed, error_of, plain_error
from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.search.memory import ROUNDS, MemoryLimit, too_large
from gfm_pipeline.search.pareto import random_weights, scalarised
from gfm_pipeline.search.proposer import Observation, ProposalMethod
from gfm_pipeline.search.selection_question import SelectionQuestion
from gfm_pipeline.search.space import Choice, Dimension, Range, SearchSpace

SCALARISATIONS = 8  # of several objectives, per proposal
PRIME = 7919
PART = 2000  # candidates per line
END = "end"
WATCHED_SECONDS = 1.0


@dataclass(frozen=True)
class Question:
    """A request for proposals: the method, and the arguments of `ProposalMethod.propose`."""

    method: PolicyChoice
    space: SearchSpace
    observations: Sequence[Observation]
    taken: Sequence[dict[str, Any]]
    n: int
    seed: int
    memory: MemoryLimit | None = None

    what = "Proposal method"
    remedy = "Correct it, or choose another with search.proposals."

    @property
    def size(self) -> tuple[int, int]:
        """Number of candidates, and number of results."""
        return self.n, len(self.observations)

    def lines(self) -> Iterator[Any]:
        """Yield the question as lines of JSON for the process."""
        return _lines(self)

    def answer(self) -> list[dict[str, Any]]:
        """Compute the settings of ``n`` candidates in this process.

        Other candidates replace those with too large a predicted memory. If the space seems to have no others, the last
        proposals are used in spite of their memory. With several objectives, the candidates are shared among random
        scalarisations of the objectives (`gfm_pipeline.search.pareto`), and each share learns from its own.
        """
        found: list[dict[str, Any]] = []
        for number, (share, observations) in enumerate(self._scalarised()):
            part = replace(
                self, observations=observations, taken=[*self.taken, *found], n=share, seed=self.seed + PRIME * number
            )
            found += part._proposed()
        return found

    def _scalarised(self) -> Iterator[tuple[int, Sequence[Observation]]]:
        """Yield numbers of candidates, with the observations they are proposed from."""
        known = [one for one in self.observations if one.objective is not None]
        if not any(one.costs for one in known):
            yield self.n, self.observations
            return
        import numpy as np  # here: most questions need it in the other process only

        rng = np.random.default_rng((self.seed, len(known)))
        vectors = [(one.objective, *one.costs) for one in known]
        groups = min(self.n, SCALARISATIONS)
        for number in range(groups):
            weights = random_weights(len(vectors[0]), rng)
            values = iter(scalarised(vectors, weights))
            share = self.n // groups + (number < self.n % groups)
            yield (
                share,
                [o if o.objective is None else Observation(o.settings, next(values)) for o in self.observations],
            )

    def _proposed(self) -> list[dict[str, Any]]:
        """Compute the settings of ``n`` candidates by the method."""
        method = make_policy(PROPOSALS, self.method, ProposalMethod)
        if self.memory is None:
            return method.propose(self.space, self.observations, self.taken, self.n, self.seed)
        kept: list[dict[str, Any]] = []
        taken, proposed = list(self.taken), list[dict[str, Any]]()
        for _ in range(ROUNDS):
            proposed = method.propose(self.space, self.observations, taken, self.n - len(kept), self.seed)
            refused = too_large(self.space, self.memory, proposed)
            kept += [one for one, too in zip(proposed, refused, strict=True) if not too]
            if len(kept) == self.n:
                return kept
            taken += proposed
        return kept + proposed[: self.n - len(kept)]


AnyQuestion = Question | SelectionQuestion


class ProposalProcess:
    """Answers one question at a time in another process, which starts with the first question."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposals")
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._last_words = ""
        self._lock, self._closed = threading.Lock(), False

    @property
    def pid(self) -> int | None:
        """ID of the process; None before the first question."""
        return None if self._process is None else self._process.pid

    def submit(self, question: AnyQuestion) -> Future[list[dict[str, Any]]]:
        """Return the future of an answer; its errors are `GFMError`."""
        return self._thread.submit(self._answer, question)

    def close(self) -> None:
        """End the process, even during a computation."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()  # a thread that waits for its answer gets an error
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._process is not None:
            self._end(self._process)

    def _answer(self, question: AnyQuestion) -> list[dict[str, Any]]:
        for retried in (False, True):  # a killed process does not mean that the question is at fault
            process = self._started()
            try:
                _send(process.stdin, question.lines())
                answer = _line(process.stdout)
            except (EOFError, OSError, ValueError) as error:
                self._end(process)
                if retried or self._closed:
                    raise StageFailed(
                        f"The process that proposes candidates ended: {self._last_words or error}.",
                        "Ask the machine's log whether it ran out of memory; `gfm-pipeline resume` tries again.",
                    ) from error
            else:
                if "error" in answer:
                    raise error_of(answer)
                proposed: list[dict[str, Any]] = answer["proposed"]
                return proposed
        raise AssertionError("unreachable: the second failure raises")

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise StageFailed("The search proposes no more candidates: the campaign stops.")
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
                start_new_session=True,  # Ctrl-C is for the driver only
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
                with suppress(OSError):  # unsent data
                    stream.close()
        self._process = self._stderr = None


def _lines(question: Question) -> Iterator[Any]:
    method = [question.method.name, dict(question.method.options)]
    memory = None if question.memory is None else [question.memory.most_gb, question.memory.measured]
    head = {"method": method, "space": _plain(question.space), "n": question.n, "seed": question.seed}
    yield {**head, "memory": memory}
    for start in range(0, len(question.observations), PART):
        part = question.observations[start : start + PART]
        yield {"observations": [[one.settings, one.objective, one.costs] for one in part]}
    for start in range(0, len(question.taken), PART):
        yield {"taken": list(question.taken[start : start + PART])}
    yield END


def _plain(space: SearchSpace) -> dict[str, Any]:
    """Return a space as plain JSON data; `_space` reads this form."""
    return {
        "shared": {name: vars(dimension) for name, dimension in space.shared.items()},
        "own": {a: {name: vars(d) for name, d in dimensions.items()} for a, dimensions in space.own.items()},
        "forbidden": [{name: vars(d) for name, d in combination.items()} for combination in space.forbidden],
    }


def _space(plain: Mapping[str, Any]) -> SearchSpace:
    def dimensions(found: Mapping[str, Any]) -> dict[str, Dimension]:
        return {name: Choice(tuple(d["values"])) if "values" in d else Range(**d) for name, d in found.items()}

    return SearchSpace(
        dimensions(plain["shared"]),
        {algorithm: dimensions(found) for algorithm, found in plain["own"].items()},
        tuple(dimensions(found) for found in plain["forbidden"]),
    )


def _send(stream: Any, lines: Iterable[Any]) -> None:
    for line in lines:
        stream.write(msgspec.json.encode(line, enc_hook=_number) + b"\n")
    stream.flush()


def _number(value: Any) -> Any:
    """Return a scalar of NumPy as Python's own number."""
    return value.item()


def _line(stream: Any) -> Any:
    """Return the next line; raises EOFError if the other end is gone."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the pipe ended")
    return msgspec.json.decode(line)


def _receive(stream: Any) -> AnyQuestion:
    head = _line(stream)
    if (selection := SelectionQuestion.from_head(head)) is not None:
        return selection
    found: dict[str, list[Any]] = {"observations": [], "taken": []}
    while (part := _line(stream)) != END:
        for name, rows in part.items():
            found[name] += rows
    return Question(
        PolicyChoice(*head["method"]),
        _space(head["space"]),
        [Observation(settings, objective, tuple(costs)) for settings, objective, costs in found["observations"]],
        found["taken"],
        head["n"],
        head["seed"],
        None if head["memory"] is None else MemoryLimit(*head["memory"]),
    )


def _leave_with(parent: int) -> None:
    """End this process when its parent changes: children of a dead driver may hold the pipe open."""
    while os.getppid() == parent:
        time.sleep(WATCHED_SECONDS)
    os._exit(0)


def main() -> None:
    """Answer questions until the pipe closes."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of libraries must not mix with answers
    with suppress(EOFError):
        while True:
            question = _receive(sys.stdin.buffer)
            try:
                answer: dict[str, Any] = {"proposed": question.answer()}
            except GFMError as error:
                answer = plain_error(error)
            except Exception as error:  # noqa: BLE001 - a method may be of another package and raise anything
                message = (str(error).splitlines() or [""])[0].rstrip(".")
                failed = ConfigError(
                    f"{question.what} {question.method.name!r} failed: {type(error).__name__}: {message}.",
                    question.remedy,
                )
                answer = plain_error(failed)
            _send(answers, [answer])


if __name__ == "__main__":
    main()
