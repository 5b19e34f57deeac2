"""One model on one or more datasets, without a campaign: one call trains it, one evaluates it."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.api.training_arguments import (
    check_counts,
    check_seed,
    check_target_names,
    checked_device,
    checked_weight,
    flat_hyperparameters,
)
from gfm_pipeline.core.contracts.properties.attributes import Attribute, conditioned
from gfm_pipeline.core.contracts.target_checks import check_together, describe_target
from gfm_pipeline.core.contracts.targets import DEFAULT, FORCES, Target, order_of
from gfm_pipeline.core.contracts.training import (
    DatasetRef,
    Device,
    ForceHead,
    ModelSettings,
    TrainSpec,
    settings_of,
)
from gfm_pipeline.core.contracts.training_result import DatasetErrors, TrainResult
from gfm_pipeline.core.errors import ConfigError, DataError, GFMError, Refused, Stopped

if TYPE_CHECKING:
    from gfm_pipeline.apps.dataset import Dataset
    from gfm_pipeline.apps.runtime.program import Task

WORK_SUFFIX = ".work"  # of the folder next to the result, with the checkpoints of an unfinished training
# The defaults that won at equal cost (docs/accuracy.md). The end of a training is known here, so the rate falls to it.
DEFAULTS: dict[str, Any] = {
    "hidden": 64, "layers": 3, "cutoff": 5.0, "learning_rate": 5e-3, "schedule": "cosine",
}  # fmt: skip
ATOMS_PER_STEP, LARGEST_BATCH = 64, 16
WARMUP_STEPS, WARMUP_SHARE = 50, 0.05  # the longest warm-up, and its largest share of all steps


def train_model(
    datasets: Dataset | Path | str | Sequence[Dataset | Path | str],
    output: Path | str,
    *,
    algorithm: str = "PaiNN",
    targets: Sequence[str | Target] | Mapping[str, float] | None = None,
    attributes: Sequence[Attribute] | None = None,
    graphs: int = 10_000,
    seed: int = 0,
    validate_every: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    **hyperparameters: Any,
) -> TrainResult:
    """Train one model until it has seen ``graphs`` structures, and publish its checkpoint.

    A call with the same ``output`` continues an interrupted training.

    Parameters
    ----------
    datasets
        One or several datasets, or their folders; each is a branch of the model.
    output
        Folder of the checkpoint, an input of ``evaluate_model``. A published checkpoint is not made again.
    algorithm
        Message passing algorithm.
    targets
        Targets of the model: names of targets in a dataset or of registered ones, or a mapping of names to weights
        of their losses, or `gfm_pipeline.core.contracts.targets.Target` records; None: energy and forces.
    attributes
        Graph attributes of the datasets besides charge and spin; None: all that they declare. ``condition_on`` names
        those that the model is told of.
    graphs
        Total number of structures in training, including repetitions.
    seed
        Seed of weights and order.
    validate_every
        Structures between validations; None: a fifth of ``graphs``.
    threads, device
        Threads and device of torch: ``cpu``, ``cuda`` (also GPUs of AMD) or ``xpu``.
    hyperparameters
        Those of ``search.space`` in docs/workflow.md, e.g. ``hidden=64, cutoff=5.0, force_weight=10``, and the
        algorithm's own as ``options={"sharpness": 2.0}``. Those of single targets are
        ``losses={"forces": "huber"}``, ``weights`` and ``final_weights``; ``TARGET.DATASET`` names one of one dataset.
        Without ``batch_size``, a batch has about 64 atoms on CPUs, and 16 structures on other devices; without
        ``warmup``, the rate rises over a twentieth of the steps, and over at most 50.

    Returns
    -------
    The result; its ``errors`` are those of the validation splits, in eV per atom and eV/Angstrom.

    Raises
    ------
    GFMError
        When a setting, a dataset or the disk is at fault; `Stopped` after Ctrl-C, with a checkpoint saved.
    """
    from gfm_pipeline.apps.runtime.program import StopRequested, Task
    from gfm_pipeline.apps.train.setup import CHECKPOINTS
    from gfm_pipeline.apps.train.task import train

    flat = flat_hyperparameters(algorithm, hyperparameters)
    check_counts(graphs=graphs, validate_every=validate_every, threads=threads)
    check_seed(seed)
    kind = checked_device(device)
    opened = [_opened(dataset) for dataset in _listed(datasets)]
    chosen = default_hyperparameters(opened, device, graphs) | flat
    wanted = _targets(targets, opened)
    if isinstance(targets, Mapping) and FORCES.name in targets:
        chosen["force_weight"] = checked_weight(FORCES.name, targets[FORCES.name])
    check_target_names(chosen, [target.name for target in wanted], [dataset.name for dataset in opened])
    model, optimiser = settings_of(chosen)
    check_together(wanted, direct_forces=model.force_head is ForceHead.DIRECT)
    known = _attributes(opened) if attributes is None else tuple(attributes)
    _check_conditioning(model, known)
    target = Path(output).resolve()
    work = target.with_name(target.name + WORK_SUFFIX)
    new = not work.exists()
    work.mkdir(parents=True, exist_ok=True)
    spec = TrainSpec(
        task=target.name,
        model=model,
        optimiser=optimiser,
        datasets=tuple(DatasetRef(dataset.name, str(dataset.path.resolve())) for dataset in opened),
        seed=seed,
        output=str(target),
        budget_graphs=graphs,
        previous_attempts=(str(work),),
        validate_every=max(1, graphs // 5) if validate_every is None else validate_every,
        threads=threads,
        device=kind,
        targets=wanted,
        attributes=known,
    )
    task = Task(work)
    try:
        with _stopped_by_ctrl_c(task):
            result, _ = train(spec, task)
    except StopRequested:
        raise Stopped("Stopped; a checkpoint is saved.", "Call train_model again to go on.") from None
    except GFMError:
        if new and not any((work / CHECKPOINTS).glob("*")):  # nothing to continue from
            shutil.rmtree(work, ignore_errors=True)
        raise
    return result


def evaluate_model(model: Path | str, dataset: Dataset | Path | str, split: str = "test") -> DatasetErrors:
    """Return the errors of a trained model on one split of a dataset.

    Parameters
    ----------
    model
        Folder of a checkpoint from ``train_model`` or from a campaign.
    dataset
        A dataset in the training of the model, or its folder; its name selects the branch of the model.
    split
        ``train``, ``validation`` or ``test``.

    Returns
    -------
    Mean absolute errors in eV per atom and eV/Angstrom, and in the units of other targets (``others``), together with
    those of a model that learned nothing.

    Raises
    ------
    GFMError
        When the checkpoint or the dataset cannot be used, or the model was not trained on a dataset of that name.
    """
    import numpy as np
    import torch

    from gfm_pipeline.apps.dataset import Dataset, GraphTable
    from gfm_pipeline.apps.train.checkpoint import load_model
    from gfm_pipeline.apps.train.validate import BATCH, error_sums, mean_errors
    from gfm_pipeline.core.contracts.data import Split

    trained = load_model(Path(model))
    opened = dataset if isinstance(dataset, Dataset) else Dataset.open(Path(dataset))
    if opened.name not in trained.datasets:
        raise DataError(
            f"The model was not trained on {opened.name!r}.", f"Its datasets: {', '.join(trained.datasets)}."
        )
    splits = {"train": Split.TRAIN, "validation": Split.VALIDATION, "test": Split.TEST}
    if split not in splits:
        raise DataError(f"There is no split {split!r}.", f"Use one of: {', '.join(splits)}.")
    branch, references = trained.datasets.index(opened.name), trained.card.references_of(opened.name)
    table = GraphTable.build(
        opened.columns(splits[split]),
        trained.card.spec.cutoff,
        branch,
        references,
        attributes=trained.card.spec.attributes,
    )
    every = np.arange(opened.statistics.n_structures[splits[split]], dtype=np.int64)
    sums = error_sums(trained.potential, table, every, BATCH, torch.device("cpu"))
    return mean_errors(trained.targets, sums)


def default_hyperparameters(datasets: Sequence[Dataset], device: str, graphs: int) -> dict[str, Any]:
    """Return the hyperparameters of a training that names none and sees ``graphs`` structures.

    On CPUs, where the cost of a step grows with its atoms, a batch has about `ATOMS_PER_STEP` atoms, and at most
    `LARGEST_BATCH` structures: more and smaller steps learn more at equal cost. Each atom has a force, so one large
    structure says as much per step as many small ones. Elsewhere small steps cost as much as large ones.

    The warm-up lasts `WARMUP_STEPS` steps, and in short trainings `WARMUP_SHARE` of them: a training of large cells may
    make no more than a hundred.
    """
    from gfm_pipeline.core.contracts.data import Split

    batch = LARGEST_BATCH
    if device == Device.CPU:
        facts = [dataset.statistics for dataset in datasets]
        structures = sum(f.n_structures[Split.TRAIN] for f in facts)
        atoms = sum(f.n_atoms[Split.TRAIN] for f in facts)
        batch = min(LARGEST_BATCH, max(1, round(ATOMS_PER_STEP * structures / max(1, atoms))))
    warmup = min(WARMUP_STEPS, max(1, round(WARMUP_SHARE * graphs / batch)))
    return DEFAULTS | {"batch_size": batch, "warmup": warmup}


def _listed(datasets: Any) -> list[Any]:
    return list(datasets) if isinstance(datasets, Sequence) and not isinstance(datasets, str) else [datasets]


def _opened(dataset: Dataset | Path | str) -> Dataset:
    from gfm_pipeline.apps.dataset import Dataset

    return dataset if isinstance(dataset, Dataset) else Dataset.open(Path(dataset))


def _targets(
    given: Sequence[str | Target] | Mapping[str, float] | None, datasets: Sequence[Dataset]
) -> tuple[Target, ...]:
    """Return the targets in the order of workflows; datasets define names that are not registered."""
    if given is None:
        return DEFAULT
    columns = [facts for dataset in datasets for facts in dataset.statistics.targets.values()]
    of_data = {facts.target.name: facts.target for facts in columns if facts.attribute is None}
    found = []
    for one in [given] if isinstance(given, str) else given:
        target = one if isinstance(one, Target) else of_data.get(one) or describe_target(one)
        found.append(
            replace(target, weight=checked_weight(target.name, given[target.name]))
            if isinstance(given, Mapping)
            else target
        )
    return tuple(sorted(found, key=order_of))


def _attributes(datasets: Sequence[Dataset]) -> tuple[Attribute, ...]:
    """Return the attributes that the datasets declare, which may not differ between them."""
    found: dict[str, Attribute] = {}
    for dataset in datasets:
        for one in dataset.statistics.attributes:
            if found.setdefault(one.name, one) != one:
                raise DataError(
                    f"The dataset {dataset.name} declares the attribute {one.name} otherwise than another dataset.",
                    "Ingest them from one workflow, or pass attributes.",
                )
    return tuple(sorted(found.values(), key=lambda one: one.name))


def _check_conditioning(model: ModelSettings, attributes: Sequence[Attribute]) -> None:
    """Refuse a model that is told of an unknown attribute; raises `ConfigError`."""
    try:
        conditioned(model.condition_on, attributes)
    except Refused as error:
        raise ConfigError(f"condition_on {error.message}.", error.hint) from error


@contextmanager
def _stopped_by_ctrl_c(task: Task) -> Iterator[None]:
    """Let Ctrl-C ask ``task`` to save and stop; Python handles signals only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.signal(signal.SIGINT, lambda *_: task.request_stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
