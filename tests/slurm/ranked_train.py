"""The pretended training under several ranks: rank 0 trains, the others stay as long, and all say what they see.

Rank 0 alone reads and writes the task's files, as real trainings do.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

DONE = "rank0.done"


def accompany(folder: Path) -> int:
    """Stay until rank 0 is done or somebody ends this rank; a kill is left to whoever started the ranks."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda n, _: asked.append(n))
    while not (folder / DONE).exists() and signal.SIGTERM not in asked:
        time.sleep(0.1)
    return 0


def lead(folder: Path) -> int:
    """Train as rank 0, or as the only rank."""
    from pretend import train

    from gfm_pipeline.apps.runtime.program import run_program
    from gfm_pipeline.core.contracts.training import TrainSpec

    names = (f"step_seconds.{folder.parent.name}", "step_seconds")  # of this task, of all
    said = [parent / name for parent in folder.parents for name in names if (parent / name).exists()]
    if said:  # a test says how long a step takes
        train.SECONDS = float(said[0].read_text())
    code = run_program(TrainSpec, train.train)
    (folder / DONE).touch()
    return code


def note(folder: Path) -> None:
    """Add what this rank sees to the attempt's folder."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURMD_NODENAME", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    seen = {name: os.environ.get(name) for name in names}
    (folder / "seen").mkdir(exist_ok=True)
    name = seen["RANK"] or "0"
    (folder / "seen" / f".{name}").write_text(json.dumps(seen))
    (folder / "seen" / f".{name}").rename(folder / "seen" / f"{name}.json")  # whole, for whoever looks meanwhile


def main(folder: Path) -> int:
    note(folder)
    return lead(folder) if os.environ.get("RANK", "0") == "0" else accompany(folder)


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
