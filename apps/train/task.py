"""One training task: start, validation, saving, stop, and result."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gfm_pipeline.apps.dataset.batching.graph_source import mean_edges
from gfm_pipeline.apps.runtime.program import StopRequested, Task
from gfm_pipeline.apps.train.checkpoint import save
from gfm_pipeline.apps.train.compiled import compiled_pass, compiles
from gfm_pipeline.apps.train.convergence import TrainingStatus, criterion_of, judge
from gfm_pipeline.apps.train.device import keep_freed_memory, peak_memory, torch_device
from gfm_pipeline.apps.train.distributed import Communicator, process_group
from gfm_pipeline.apps.train.schedule import Phase, anneal_after
from gfm_pipeline.apps.train.setup import CHECKPOINTS, check, prepare
from gfm_pipeline.apps.train.stored_errors import stored_errors
from gfm_pipeline.apps.train.trainer import Diverged, Trainer
from gfm_pipeline.apps.train.validate import Validation
from gfm_pipeline.core.contracts.attempts.stored_errors import ERRORS_FILE
from gfm_pipeline.core.contracts.task import PROGRESS_FILE, ExitCode
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.core.publish import is_published, read_manifest
from gfm_pipeline.core.records import from_plain, to_plain

KEEP = 2  # checkpoints per attempt: the newest, and one in case the newest is damaged
PULSE_SECONDS = 5.0


class ProgressWriter:
    """Writes ``progress.jsonl`` without the lines that earlier attempts of the task already wrote."""

    def __init__(self, task: Task, earlier: Sequence[Path]) -> None:
        self._task = task
        self._written = max((last_graphs(folder / PROGRESS_FILE) for folder in earlier), default=-1)
        self._last = time.monotonic()

    def checked(self, trainer: Trainer, found: Validation, loss: float | None) -> None:
        """Write the line of a validation."""
        brief = {
            name: {"energy_mae": e.energy_mae, "force_mae": e.force_mae}
            | {f"{name}_mae": other.mae for name, other in e.others.items()}
            for name, e in found.errors.items()
        }
        measured = {"objective": found.objective, "objective_error": found.standard_error, "errors": brief}
        self._write(trainer, train_loss=loss, **measured)

    def pulse(self, trainer: Trainer) -> None:
        """Write a line without objective every few seconds, as a sign of progress between validations."""
        if time.monotonic() - self._last >= PULSE_SECONDS:
            self._write(trainer, train_loss=trainer.train_loss)

    def _write(self, trainer: Trainer, **values: Any) -> None:
        state = trainer.state
        self._last = time.monotonic()
        if state.graphs <= self._written:
            return
        self._task.report_progress(
            force=True,
            seconds=round(state.task_seconds, 3),
            graphs=state.graphs,
            step=state.steps,
            lr=trainer.rate,
            phase=str(state.phase),
            **values,
        )


def last_graphs(path: Path) -> int:
    """Return the largest number of graphs in a progress file, -1 without one; a torn last line does not count."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return -1
    return max((_graphs_of(line) for line in lines), default=-1)


def _graphs_of(line: str) -> int:
    try:
        return int(json.loads(line)["graphs"])
    except (ValueError, KeyError, TypeError):
        return -1


def train(spec: TrainSpec, task: Task) -> tuple[TrainResult, ExitCode]:
    """Run one training task in ``task.folder``, alone or as one of its ranks.

    Raises
    ------
    StopRequested
        After saving a checkpoint, on request to stop.
    GFMError
        When the task cannot be run or the disk refuses.
    """
    check(spec)
    device = torch_device(spec.device)
    with process_group(spec.ranks, spec.device, device) as communicator:
        task.rank = communicator.rank
        return _train(spec, task, communicator, device)


def _train(
    spec: TrainSpec, task: Task, communicator: Communicator, device: torch.device
) -> tuple[TrainResult, ExitCode]:
    output = Path(spec.output)
    earlier = None
    if communicator.rank == 0 and is_published(output):  # an earlier attempt died between publishing and its result
        manifest = read_manifest(output)
        earlier = [manifest.meta["result"], manifest.digest]
    earlier = communicator.broadcast_object(earlier)
    if earlier is not None:
        return replace(from_plain(TrainResult, earlier[0]), digest=earlier[1]), ExitCode.OK
    keep_freed_memory()
    torch.set_num_threads(spec.threads)
    trainer = prepare(spec, communicator, device)
    if compiles(spec, mean_edges(trainer.splits.train)):
        trainer.training_pass = compiled_pass(trainer.model)
    try:
        reason = _loop(spec, task, trainer)
    except Diverged as error:
        return _result(trainer, StopReason.DIVERGED, str(error)), ExitCode.DIVERGED
    finally:
        trainer.close()
    result = replace(_result(trainer, reason, _summary(spec, trainer, reason)), checkpoint=str(output))
    if communicator.rank == 0:
        # The artefact contains no times, so that equal trainings have equal digests, even with interruptions.
        state = replace(trainer.state, task_seconds=0.0)
        others = {ERRORS_FILE: _errors(spec, trainer, device)} if spec.store_errors else {}
        manifest = save(output, trainer.card, state, trainer.tensors(), {"result": to_plain(result)}, others)
        result = replace(result, digest=manifest.digest)
    communicator.barrier()  # no rank exits before rank 0 has saved: launchers end the others after the first exit
    return result, ExitCode.OK


def _errors(spec: TrainSpec, trainer: Trainer, device: torch.device) -> bytes:
    return stored_errors(trainer.average, trainer.card, spec, trainer.micro_batch, device)


def _loop(spec: TrainSpec, task: Task, trainer: Trainer) -> StopReason:
    rule, communicator = spec.convergence, trainer.communicator
    every = spec.validate_every if rule is None else rule.check_every
    progress = ProgressWriter(task, [Path(folder) for folder in spec.previous_attempts])
    saved = time.monotonic()
    if trainer.state.next_validation == 0:
        trainer.state = replace(trainer.state, next_validation=(trainer.state.graphs // every + 1) * every)
    while True:
        stopping = task.stop_requested
        if stopping if communicator.size == 1 else trainer.stop_requested:
            _save_here(task, trainer)
            communicator.barrier()
            raise StopRequested
        ended = _ended(spec, trainer)
        if ended is not None and trainer.card.graphs == trainer.state.graphs and trainer.card.objective is not None:
            return ended
        if ended is not None or trainer.state.graphs >= trainer.state.next_validation:
            _check(spec, trainer, progress, every)
            continue
        if time.monotonic() - saved >= spec.checkpoint_every_seconds:
            _save_here(task, trainer)
            saved = time.monotonic()
        trainer.step(stopping)
        progress.pulse(trainer)


def _ended(spec: TrainSpec, trainer: Trainer) -> StopReason | None:
    """Return why training ends here, or None."""
    state = trainer.state
    if spec.budget_graphs is not None:
        return StopReason.BUDGET if state.graphs >= spec.budget_graphs else None
    if state.phase is Phase.STABLE or state.anneal is None:
        return None
    return state.stopping if state.graphs >= state.anneal.end else None


def _check(spec: TrainSpec, trainer: Trainer, progress: ProgressWriter, every: int) -> None:
    """Validate, report, and begin the anneal phase when due."""
    loss = trainer.train_loss
    found = trainer.validate(spec.validation_limit)
    progress.checked(trainer, found, loss)
    state = replace(trainer.state, next_validation=(trainer.state.graphs // every + 1) * every)
    rule = spec.convergence
    if rule is not None and state.phase is Phase.STABLE and not trainer.directly:
        state = replace(state, history=(*state.history, (state.graphs, found.objective)))
        status = judge(state.history, state.graphs, rule)
        if status is not TrainingStatus.IMPROVING:
            reason = StopReason.CONVERGED if status is TrainingStatus.PLATEAU else StopReason.LIMIT
            anneal = anneal_after(state.graphs, rule.anneal_fraction)
            state = replace(state, phase=Phase.ANNEAL, anneal=anneal, stopping=reason)
    trainer.state = state


def _save_here(task: Task, trainer: Trainer) -> None:
    """Save a checkpoint in the attempt's folder and remove all but the newest; only rank 0 does this."""
    trainer.settle()  # steps that diverged are not saved
    if trainer.communicator.rank > 0:
        return
    place = task.folder / CHECKPOINTS
    save(place / f"graphs-{trainer.state.graphs:012d}", trainer.card, trainer.state, trainer.tensors())
    task.report_saved(trainer.state.graphs)
    for old in sorted(place.glob("graphs-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def _summary(spec: TrainSpec, trainer: Trainer, reason: StopReason) -> str:
    state, rule = trainer.state, spec.convergence
    if rule is None or state.anneal is None:
        return f"Reached the budget of {spec.budget_graphs} graphs."
    start = state.anneal.start
    if reason is StopReason.CONVERGED:
        return f"{criterion_of(rule).reason(rule)}; annealed from {start} to {state.graphs} graphs."
    return f"Reached {rule.max_graphs} graphs while still improving; annealed from {start} to {state.graphs} graphs."


def _result(trainer: Trainer, reason: StopReason, message: str) -> TrainResult:
    state, card = trainer.state, trainer.card
    diverged = reason is StopReason.DIVERGED
    objective, error = (None, None) if diverged else _judged(trainer, reason)
    return TrainResult(
        stop_reason=reason,
        objective=objective,
        errors={} if diverged else card.errors,
        graphs=state.graphs,
        steps=state.steps,
        parameters=trainer.n_parameters,
        seconds=state.task_seconds,
        graphs_per_second=state.task_graphs / state.task_seconds if state.task_seconds > 0 else 0.0,
        checkpoint=None,
        digest=None,
        message=message,
        objective_error=error,
        peak_memory_gb=peak_memory(trainer.device) / 1e9,
    )


def _judged(trainer: Trainer, reason: StopReason) -> tuple[float | None, float | None]:
    """Return the objective of a training, and its standard error.

    For a rung it is the best of the last validations, so that a single bad one decides nothing. For a member, which is
    deployed in its final state, it is the last one.
    """
    recent = trainer.state.recent
    if not recent:  # validated by an earlier version
        return trainer.card.objective, None
    return min(recent) if reason is StopReason.BUDGET else recent[-1]
