"""``python -m gfm_pipeline.apps.train SPEC.json``."""

from __future__ import annotations

import sys

from gfm_pipeline.apps.contracts.training import TrainSpec
from gfm_pipeline.apps.program import run_program
from gfm_pipeline.apps.train.program import train

if __name__ == "__main__":
    sys.exit(run_program(TrainSpec, train))
