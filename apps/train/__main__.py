"""``python -m gfm_pipeline.apps.train SPEC.json``."""

from __future__ import annotations

import sys

from gfm_pipeline.apps.runtime.program import run_program
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.training import TrainSpec

if __name__ == "__main__":
    sys.exit(run_program(TrainSpec, train))
