"""Leaves a result, then becomes `sleep`: half to one and a half times ``budget_graphs`` milliseconds, by the seed.

The result is there before the sleep, so that its time on disk is when the program began, and what sleeps is tiny.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

spec = json.loads(Path(sys.argv[1]).read_text())
result = {
    "stop_reason": "budget",
    "objective": 1.0 + spec["seed"] * 1e-9,
    "errors": {},
    "graphs": spec["budget_graphs"],
    "steps": 1,
    "parameters": 1,
    "seconds": 1.0,
    "graphs_per_second": 1.0,
    "checkpoint": None,
    "digest": None,
    "message": "",
}
Path("result.json").write_text(json.dumps(result))
seconds = spec["budget_graphs"] / 1000 * (0.5 + random.Random(spec["seed"]).random())
os.execvp("sleep", ["sleep", f"{seconds:.3f}"])  # noqa: S606 - no shell; the system's
