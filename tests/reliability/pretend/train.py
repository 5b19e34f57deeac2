"""Pretends `train`: a chain of digests, one link a step, saved and gone on from as real checkpoints are.

The final artefact is the chain over all graphs the model has seen in its life. A training that repeats or skips a
step after an interruption, or goes on from the wrong checkpoint, ends with another digest.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gfm_pipeline.apps.runtime.program import StopRequested, Task, run_program
from gfm_pipeline.core.contracts.attempts.stored_errors import ERRORS_FILE, error_key, group_key
from gfm_pipeline.core.contracts.task import ExitCode
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.core.contracts.training_result import DatasetErrors, StopReason, TrainResult
from gfm_pipeline.core.publish import is_published, publishing, read_manifest, verify
from gfm_pipeline.core.records import from_plain, to_plain
from pretend import fraction, mix

STEP = 10  # graphs
SECONDS = 0.01  # a step takes
SAVE_EVERY = 50  # graphs
FILE = "chain.json"


def load(folder: Path) -> dict[str, Any]:
    verify(folder, digests=True)
    chain: dict[str, Any] = json.loads((folder / FILE).read_text())
    return chain


def save(folder: Path, chain: dict[str, Any], meta: dict[str, Any], errors: bytes | None = None) -> str:
    with publishing(folder, "pretend.train", meta) as temporary:
        (temporary / FILE).write_text(json.dumps(chain))
        if errors is not None:
            (temporary / ERRORS_FILE).write_bytes(errors)
    return read_manifest(folder).digest


def starting_point(spec: TrainSpec) -> dict[str, Any]:
    """Return the newest checkpoint of earlier attempts, else the given one, else an untrained model."""
    found = [p for a in spec.previous_attempts for p in Path(a).glob("checkpoints/graphs-*") if is_published(p)]
    if found:
        return load(max(found, key=lambda p: p.name))
    if spec.checkpoint is not None:
        return load(Path(spec.checkpoint))
    datasets = [read_manifest(Path(d.path)).digest for d in spec.datasets]
    return {"graphs": 0, "link": mix(to_plain(spec.model), to_plain(spec.optimiser), spec.seed, datasets)}


def objective(spec: TrainSpec, graphs: int) -> float:
    """Return an error that falls with the graphs seen, to a floor that depends on the candidate."""
    return 0.1 + 0.5 * fraction(mix(to_plain(spec.model), to_plain(spec.optimiser))) + 20.0 / (graphs + 50)


def stored_errors(spec: TrainSpec, value: float) -> bytes:
    """Return errors of the size of an objective, which another candidate does not share."""
    import numpy as np
    from safetensors.numpy import save as written

    seed = int(1e9 * fraction(mix(to_plain(spec.model), to_plain(spec.optimiser))))
    groups = np.arange(60, dtype=np.int64) // 3
    drawn = np.random.default_rng(seed).normal(scale=value, size=(60, 1)).astype(np.float32)
    keys = [(error_key(d.name, "energy"), group_key(d.name, "energy")) for d in spec.datasets]
    return written({key: array for pair in keys for key, array in zip(pair, (drawn, groups), strict=True)})


def train(spec: TrainSpec, task: Task) -> tuple[TrainResult, ExitCode]:
    output = Path(spec.output)
    if is_published(output):
        manifest = read_manifest(output)
        return replace(from_plain(TrainResult, manifest.meta["result"]), digest=manifest.digest), ExitCode.OK
    chain = starting_point(spec)
    rule = spec.convergence
    end = spec.budget_graphs if rule is None else rule.max_graphs
    assert end is not None
    while chain["graphs"] < end:
        place = task.folder / "checkpoints" / f"graphs-{chain['graphs']:08d}"
        if task.stop_requested:
            save(place, chain, {})
            raise StopRequested
        if chain["graphs"] % SAVE_EVERY == 0 and not place.exists():
            save(place, chain, {})
        chain = {"graphs": chain["graphs"] + STEP, "link": mix(chain["link"], chain["graphs"])}
        time.sleep(SECONDS)
        value = objective(spec, chain["graphs"])
        task.report_progress(seconds=0.0, graphs=chain["graphs"], step=0, lr=1e-3, phase="stable", objective=value)
    errors = {d.name: DatasetErrors(value, value, 1.0, 1.0) for d in spec.datasets}
    reason = StopReason.BUDGET if rule is None else StopReason.CONVERGED
    graphs = chain["graphs"]
    result = TrainResult(reason, value, errors, graphs, graphs // STEP, 1, 0.1, 1000.0, str(output), None)
    stored = stored_errors(spec, value) if spec.store_errors else None
    return replace(result, digest=save(output, chain, {"result": to_plain(result)}, stored)), ExitCode.OK


if __name__ == "__main__":
    sys.exit(run_program(TrainSpec, train))
