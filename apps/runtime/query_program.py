"""Programs that answer a request of the command line: JSON on standard input, JSON on standard output, no files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from gfm_pipeline.core.errors import GFMError, plain_error
from gfm_pipeline.core.records import from_plain, to_plain

S = TypeVar("S")
INTERRUPTED = 130  # exit code by convention of shells: 128 + SIGINT


def answer_query(spec_type: type[S], body: Callable[[S], Any]) -> int:
    """Call ``body`` with the request and write its answer, or the error instead, as one JSON object.

    Output of libraries goes to standard error.

    Returns
    -------
    int
        The exit code: that of the error, `INTERRUPTED` after Ctrl-C, or 0.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            result = {"answer": to_plain(body(from_plain(spec_type, json.load(sys.stdin))))}
            code = 0
        except GFMError as error:
            result = plain_error(error)
            code = error.exit_code
        except KeyboardInterrupt:  # the calling command was interrupted too, and reports it
            return INTERRUPTED
        out.write(json.dumps(result, allow_nan=False))
    return code
