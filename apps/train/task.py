"""One training task: where it starts, when it validates, saves and stops, and what it leaves behind."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfm_pipeline.apps.dataset import Dataset, GraphTable
from gfm_pipeline.apps.dataset.batching.graph_source import Held, OnDisk, Source, read_table
from gfm_pipeline.apps.dataset.neighbors.batched import lister_on
from gfm_pipeline.apps.dataset.neighbors.edges import Lister, list_edges
from gfm_pipeline.apps.runtime.program import StopRequested, Task
from gfm_pipeline.apps.train.allocator import keep_freed_memory
from gfm_pipeline.apps.train.checkpoint import Card, Checkpoint, Position, load, newest, save
from gfm_pipeline.apps.train.convergence import TrainingStatus, criterion_of, judge
from gfm_pipeline.apps.train.device import CPU, torch_device
from gfm_pipeline.apps.train.distributed import ALONE, Ranks, joined
from gfm_pipeline.apps.train.sampler import Sampler
from gfm_pipeline.apps.train.schedule import Phase, anneal_after
from gfm_pipeline.apps.train.trainer import Diverged, Tables, Trainer
from gfm_pipeline.apps.train.validate import subset
from gfm_pipeline.core.contracts.data import DatasetStatistics, Split
from gfm_pipeline.core.contracts.task import PROGRESS_FILE, ExitCode
from gfm_pipeline.core.contracts.training import DatasetErrors, StopReason, TrainResult, TrainSpec
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.core.publish import is_published, read_manifest
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.models import ModelSpec

CHECKPOINTS = "checkpoints"  # folder of the attempt
KEEP = 2  # checkpoints of an attempt: the newest, and one in case it is damaged
PULSE_SECONDS = 5.0
SAMPLE = 2048  # structures of a split on disk whose neighbours are counted for the scales of a model
SPARSE = 64  # ranks from which on each reads its own graphs only, not whole blocks


class Progress:
    """Writes ``progress.jsonl``, leaving out what earlier attempts of the task already wrote."""

    def __init__(self, task: Task, earlier: Sequence[Path]) -> None:
        self._task = task
        self._written = max((last_graphs(folder / PROGRESS_FILE) for folder in earlier), default=-1)
        self._last = time.monotonic()

    def checked(self, trainer: Trainer, score: float, errors: dict[str, DatasetErrors], loss: float | None) -> None:
        """Write the line of a validation."""
        brief = {k: {"energy_mae": e.energy_mae, "force_mae": e.force_mae} for k, e in errors.items()}
        self._write(trainer, train_loss=loss, objective=score, errors=brief)

    def pulse(self, trainer: Trainer) -> None:
        """Write a line without objective every few seconds, so that a long stretch between validations shows life."""
        if time.monotonic() - self._last >= PULSE_SECONDS:
            self._write(trainer, train_loss=trainer.train_loss)

    def _write(self, trainer: Trainer, **values: Any) -> None:
        position = trainer.position
        self._last = time.monotonic()
        if position.graphs <= self._written:
            return
        self._task.progress(
            force=True,
            seconds=round(position.task_seconds, 3),
            graphs=position.graphs,
            step=position.steps,
            lr=trainer.rate,
            phase=str(position.phase),
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


def check(spec: TrainSpec) -> None:
    """Refuse what cannot be run; raises `ConfigError`."""
    if (spec.budget_graphs is None) == (spec.convergence is None):
        raise ConfigError(f"Task {spec.task} needs either budget_graphs or convergence, not both and not neither.")
    if not spec.datasets:
        raise ConfigError(f"Task {spec.task} names no dataset.")
    optimiser = spec.optimiser
    if optimiser.batch_size < 1 or spec.validate_every < 1 or not optimiser.learning_rate > 0:
        raise ConfigError(f"Task {spec.task} needs batch_size, validate_every and learning_rate above zero.")
    if spec.micro_batch is not None and spec.micro_batch < 1:
        raise ConfigError(f"Task {spec.task} needs a micro_batch above zero.")
    if spec.ranks < 1:
        raise ConfigError(f"Task {spec.task} needs at least one rank.")
    if optimiser.batch_size < spec.ranks:
        raise ConfigError(
            f"Task {spec.task} shares batches of {optimiser.batch_size} graphs between {spec.ranks} ranks: "
            "some would have none.",
            f"Use at most {optimiser.batch_size} ranks, or a larger batch_size.",
        )
    rule = spec.convergence
    if rule is not None and (rule.check_every < 1 or rule.patience < 1 or not rule.anneal_fraction > 0):
        raise ConfigError(f"Task {spec.task} needs check_every, patience and anneal_fraction above zero.")


def _scales(statistics: Sequence[DatasetStatistics]) -> list[float]:
    """Return the unit of the loss of each dataset (eV/Angstrom; of energies: times 1 Angstrom).

    It is the RMS of the forces. A dataset without forces has that of the others, so that one unit of energy weighs the
    same in all; where none has forces, the scatter of its energies, which are all that is learned.
    """
    known = [s.force_rms for s in statistics if s.force_rms > 0]
    if known:
        shared = float(np.sqrt(np.mean(np.square(known))))
        return [s.force_rms if s.force_rms > 0 else shared for s in statistics]
    return [s.energy_std if s.energy_std > 0 else 1.0 for s in statistics]


def new_card(spec: TrainSpec, statistics: Sequence[DatasetStatistics], tables: Sequence[GraphTable]) -> Card:
    """Return the card of an untrained model: its scales are facts of the training split.

    Raises
    ------
    DataError
        When no two atoms of a dataset are within the cutoff: a model would see lone atoms only.
    """
    counted = [table.degrees() for table in tables]
    for dataset, table, neighbours in zip(spec.datasets, tables, counted, strict=True):
        if not neighbours.any() and bool((table.natoms > 1).any()):
            raise DataError(
                f"No two atoms of dataset {dataset.name} are within the cutoff of {spec.model.cutoff:g} Angstrom: "
                "its graphs have no edges.",
                "Raise search.space.cutoff, or correct length_unit of the source.",
            )
    degrees = np.concatenate(counted)
    rms = _scales(statistics)
    model = spec.model
    return Card(
        spec=ModelSpec(
            **vars(model),
            n_datasets=len(statistics),
            avg_neighbours=max(1.0, float(degrees.mean())),
            avg_log_degree=max(0.1, float(np.log1p(degrees).mean())),
            force_rms=float(np.sqrt(np.mean(np.square(rms)))),
        ),
        datasets=tuple(d.name for d in spec.datasets),
        references={d.name: dict(s.reference) for d, s in zip(spec.datasets, statistics, strict=True)},
        force_rms=tuple(rms),
        model=model,
        optimiser=spec.optimiser,
        seed=spec.seed,
    )


def starting_point(spec: TrainSpec) -> Checkpoint | None:
    """Return what to go on from: this task's newest whole checkpoint, else the given one, else None.

    Raises
    ------
    IntegrityError
        When the given checkpoint is damaged.
    ConfigError
        When it is of another model or other datasets.
    """
    attempts = [Path(folder) / CHECKPOINTS for folder in spec.previous_attempts]
    found = newest(folder for place in attempts for folder in place.glob("graphs-*"))
    if found is None and spec.checkpoint is not None:
        given = load(Path(spec.checkpoint))
        found = replace(given, position=given.position.for_new_task())
    if found is None:
        return None
    names = tuple(d.name for d in spec.datasets)
    if found.card.model != spec.model or found.card.datasets != names:
        raise ConfigError(
            f"Task {spec.task} goes on from a checkpoint of another model or other datasets "
            f"({found.card.model.algorithm} on {', '.join(found.card.datasets)}).",
            "Architecture and datasets must stay as they were when a model is trained on.",
        )
    return replace(found, card=replace(found.card, optimiser=spec.optimiser, seed=spec.seed))


def open_source(
    spec: TrainSpec,
    dataset: Dataset,
    number: int,
    reference: Mapping[str, float],
    ranks: int,
    lister: Lister = list_edges,
) -> Source:
    """Return the training split of a dataset: in memory when it is no larger than the window, else on disk.

    A folder without index is held in memory too: it cannot be said what its graphs cost before they are read.
    """
    index = dataset.index(Split.TRAIN)
    cutoff = spec.model.cutoff
    if index is None or len(index) <= spec.window:
        return Held(read_table(dataset, Split.TRAIN, cutoff, number, reference, lister=lister))
    window = 0 if ranks >= SPARSE else spec.window
    return OnDisk(dataset, Split.TRAIN, index, cutoff, number, reference, window, lister)


def prepare(spec: TrainSpec, ranks: Ranks = ALONE, device: torch.device = CPU) -> Trainer:
    """Read the data and build or restore the model.

    Every rank opens the data; rank 0 alone looks for checkpoints and says what it found.

    Raises
    ------
    GFMError
        When the data, the checkpoint or the settings cannot be used.
    """
    start = starting_point(spec) if ranks.rank == 0 else None
    card, position = None if start is None else start.card, None if start is None else start.position
    if ranks.size > 1:
        plain = ranks.told(None if start is None else [to_plain(start.card), to_plain(start.position)])
        card, position = (None, None) if plain is None else (from_plain(Card, plain[0]), from_plain(Position, plain[1]))
    lister = lister_on(device)
    train: list[Source] = []
    validation, statistics, samples = {}, [], []
    for k, ref in enumerate(spec.datasets):
        dataset = Dataset.open(Path(ref.path))
        statistics.append(dataset.statistics)
        reference = dataset.statistics.reference if card is None else card.references[ref.name]
        source = open_source(spec, dataset, k, reference, ranks.size, lister)
        train.append(source)
        if card is None and ranks.rank == 0:
            # ingest shuffles: the first structures are as good as any
            samples.append(
                source.table(np.arange(len(source) if source.block is None else min(len(source), SAMPLE)))[0]
            )
        chosen = (
            None
            if spec.validation_limit is None
            else subset(dataset.statistics.n_structures[Split.VALIDATION], spec.validation_limit)
        )
        validation[ref.name] = read_table(dataset, Split.VALIDATION, spec.model.cutoff, k, reference, chosen, lister)
    if card is None:
        made = new_card(spec, statistics, samples) if ranks.rank == 0 else None
        card = made if made is not None and ranks.size == 1 else from_plain(Card, ranks.told(to_plain(made)))
    blocks = [source.block for source in train]
    window = max(1, spec.window // max((block for block in blocks if block is not None), default=spec.window))
    sampler = Sampler([len(t) for t in train], spec.temperature, spec.seed, blocks, window)
    tables = Tables(tuple(train), validation)
    state = None if start is None else start.state
    return Trainer(card, tables, spec.optimiser, sampler, state, position, spec.micro_batch, ranks, device)


def train(spec: TrainSpec, task: Task) -> tuple[TrainResult, ExitCode]:
    """Run one training task in ``task.folder``, alone or as one of its ranks.

    Raises
    ------
    StopRequested
        After saving a checkpoint, when asked to stop.
    GFMError
        When the task cannot be run or the disk refuses.
    """
    check(spec)
    device = torch_device(spec.device)
    with joined(spec.ranks, spec.device, device) as ranks:
        task.rank = ranks.rank
        return _train(spec, task, ranks, device)


def _train(spec: TrainSpec, task: Task, ranks: Ranks, device: torch.device) -> tuple[TrainResult, ExitCode]:
    output = Path(spec.output)
    earlier = None
    if ranks.rank == 0 and is_published(output):  # an earlier attempt died between publishing and its result
        manifest = read_manifest(output)
        earlier = [manifest.meta["result"], manifest.digest]
    earlier = ranks.told(earlier)
    if earlier is not None:
        return replace(from_plain(TrainResult, earlier[0]), digest=earlier[1]), ExitCode.OK
    keep_freed_memory()
    torch.set_num_threads(spec.threads)
    trainer = prepare(spec, ranks, device)
    try:
        reason = _loop(spec, task, trainer)
    except Diverged as error:
        return _result(trainer, StopReason.DIVERGED, str(error)), ExitCode.DIVERGED
    finally:
        trainer.close()
    result = replace(_result(trainer, reason, _summary(spec, trainer, reason)), checkpoint=str(output))
    if ranks.rank == 0:
        # Times stay out of the artefact: equal trainings have equal digests, however often they were interrupted.
        position = replace(trainer.position, task_seconds=0.0)
        manifest = save(output, trainer.card, position, trainer.state(), {"result": to_plain(result)})
        result = replace(result, digest=manifest.digest)
    ranks.meet()  # none leaves before rank 0 has saved: launchers end what is left after the first
    return result, ExitCode.OK


def _loop(spec: TrainSpec, task: Task, trainer: Trainer) -> StopReason:
    rule, ranks = spec.convergence, trainer.ranks
    every = spec.validate_every if rule is None else rule.check_every
    progress = Progress(task, [Path(folder) for folder in spec.previous_attempts])
    saved = time.monotonic()
    if trainer.position.next_validation == 0:
        trainer.position = replace(trainer.position, next_validation=(trainer.position.graphs // every + 1) * every)
    while True:
        stopping = task.stopping
        if stopping if ranks.size == 1 else trainer.asked_to_stop:
            _save_here(task, trainer)
            ranks.meet()
            raise StopRequested
        ended = _ended(spec, trainer)
        if ended is not None and trainer.card.graphs == trainer.position.graphs and trainer.card.objective is not None:
            return ended
        if ended is not None or trainer.position.graphs >= trainer.position.next_validation:
            _check(spec, trainer, progress, every)
            continue
        if time.monotonic() - saved >= spec.checkpoint_every_seconds:
            _save_here(task, trainer)
            saved = time.monotonic()
        trainer.step(stopping)
        progress.pulse(trainer)


def _ended(spec: TrainSpec, trainer: Trainer) -> StopReason | None:
    """Return why training ends here, or None."""
    position = trainer.position
    if spec.budget_graphs is not None:
        return StopReason.BUDGET if position.graphs >= spec.budget_graphs else None
    if position.phase is Phase.STABLE or position.anneal is None:
        return None
    return position.stopping if position.graphs >= position.anneal.end else None


def _check(spec: TrainSpec, trainer: Trainer, progress: Progress, every: int) -> None:
    """Validate, report, and begin the anneal phase when it is time."""
    loss = trainer.train_loss
    score, errors = trainer.validate(spec.validation_limit)
    progress.checked(trainer, score, errors, loss)
    position = replace(trainer.position, next_validation=(trainer.position.graphs // every + 1) * every)
    rule = spec.convergence
    if rule is not None and position.phase is Phase.STABLE:
        position = replace(position, history=(*position.history, (position.graphs, score)))
        status = judge(position.history, position.graphs, rule)
        if status is not TrainingStatus.IMPROVING:
            reason = StopReason.CONVERGED if status is TrainingStatus.PLATEAU else StopReason.LIMIT
            anneal = anneal_after(position.graphs, rule.anneal_fraction)
            position = replace(position, phase=Phase.ANNEAL, anneal=anneal, stopping=reason)
    trainer.position = position


def _save_here(task: Task, trainer: Trainer) -> None:
    """Save a checkpoint in the attempt's folder and drop all but the newest ones; rank 0 does, for all."""
    if trainer.ranks.rank > 0:
        return
    place = task.folder / CHECKPOINTS
    save(place / f"graphs-{trainer.position.graphs:012d}", trainer.card, trainer.position, trainer.state())
    task.saved(trainer.position.graphs)
    for old in sorted(place.glob("graphs-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def _summary(spec: TrainSpec, trainer: Trainer, reason: StopReason) -> str:
    position, rule = trainer.position, spec.convergence
    if rule is None or position.anneal is None:
        return f"Reached the budget of {spec.budget_graphs} graphs."
    start = position.anneal.start
    if reason is StopReason.CONVERGED:
        return f"{criterion_of(rule).reason(rule)}; annealed from {start} to {position.graphs} graphs."
    return f"Reached {rule.max_graphs} graphs while still improving; annealed from {start} to {position.graphs} graphs."


def _result(trainer: Trainer, reason: StopReason, message: str) -> TrainResult:
    position, card = trainer.position, trainer.card
    diverged = reason is StopReason.DIVERGED
    return TrainResult(
        stop_reason=reason,
        objective=None if diverged else card.objective,
        errors={} if diverged else card.errors,
        graphs=position.graphs,
        steps=position.steps,
        parameters=trainer.n_parameters,
        seconds=position.task_seconds,
        graphs_per_second=position.task_graphs / position.task_seconds if position.task_seconds > 0 else 0.0,
        checkpoint=None,
        digest=None,
        message=message,
    )
