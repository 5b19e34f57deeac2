"""``python -m gfm_pipeline.apps.preflight SPEC.json``."""

from __future__ import annotations

import os
import sys

from gfm_pipeline.apps.preflight.program import preflight
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.preflight import PreflightResult, PreflightSpec


def here(spec: PreflightSpec, task: Task) -> PreflightResult:
    """Check this process's resources. Unlike all other programs, it reads its environment, to report it."""
    return preflight(spec, task, os.environ)  # it has to report the variables from the launcher


if __name__ == "__main__":
    sys.exit(run_program(PreflightSpec, here))
