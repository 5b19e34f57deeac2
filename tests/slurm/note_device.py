"""A program for ranks: notes who it is and what it sees, for the test to read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURMD_NODENAME")
MASKS = ("ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def note(folder: Path) -> None:
    """Write what this rank sees into ``folder``/seen."""
    seen = {name: os.environ.get(name) for name in (*NAMES, *MASKS, "NCCL_NET", "OMP_NUM_THREADS")}
    (folder / "seen").mkdir(exist_ok=True)
    (folder / "seen" / f"{seen['RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    note(Path.cwd())
    sys.exit(0)
