"""Queries of our programs in a separate process, because the command line itself imports no numerics."""

from __future__ import annotations

import json
import subprocess
from typing import Any, TypeVar

from gfm_pipeline.core.errors import DataError, NodeError, error_of
from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.core.records import canonical_json, from_plain, to_plain

T = TypeVar("T")


def query(module: str, spec: Any, kind: type[T], seconds: float | None, *, shows: bool = False) -> T:
    """Run ``python -m module`` with ``spec`` on standard input, and return its answer.

    With ``shows``, its standard error, e.g. progress, is shown at once.

    Raises
    ------
    GFMError
        The error of the program.
    DataError
        When the program does not answer in time.
    NodeError
        When it dies.
    """
    try:
        done = subprocess.run(
            module_command(module),
            input=canonical_json(to_plain(spec)),
            stdout=subprocess.PIPE,
            stderr=None if shows else subprocess.PIPE,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{module} gave no answer within {seconds:g} s.", "A truncated BP file makes ADIOS2 wait for ever."
        ) from None
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        last = ((done.stderr or "").strip().splitlines() or ["it said nothing"])[-1]
        raise NodeError(f"{module} ended with exit code {done.returncode}: {last}") from None
    if "answer" in reply:
        return from_plain(kind, reply["answer"])
    raise error_of(reply)
