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
from gfm_pipeline.api.training_defaults import (
    MODEL,
    begun_model,
    default_compile,
    default_hyperparameters,
    default_model,
)
from gfm_pipeline.core.contracts.properties.attributes import Attribute, conditioned
from gfm_pipeline.core.contracts.target_checks import check_together, describe_target
from gfm_pipeline.core.contracts.targets import DEFAULT, FORCES, Target, order_of
from gfm_pipeline.core.contracts.training import (
    Compile,
    DatasetRef,
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

_COMPILE = {True: Compile.ALWAYS, False: Compile.NEVER}
WORK_SUFFIX = ".work"  # of the folder next to the result, with the checkpoints of an unfinished training


def train_model(
    datasets: Dataset | Path | str | Sequence[Dataset | Path | str],
    output: Path | str,
    *,
    algorithm: str | None = None,
    targets: Sequence[str | Target] | Mapping[str, float] | None = None,
    attributes: Sequence[Attribute] | None = None,
    graphs: int = 10_000,
    seed: int = 0,
    validate_every: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    compile: bool | None = None,
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
        Message passing algorithm; None: PaiNN of 64 channels and three layers, or MACE of 32 channels and two layers
        where ``graphs`` are 20 passes over the training structures or more, or, on CPUs and where a structure has more
        than 2,000 edges on average, EGNN of 32 channels and two layers, which costs a fifth per edge.
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
    compile
        Whether the pass is compiled (`torch.compile`; one to two minutes at the start, then two to three times faster,
        checked against eager mode); None: where the length of the training makes it pay.
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

    check_counts(graphs=graphs, validate_every=validate_every, threads=threads)
    check_seed(seed)
    kind = checked_device(device)
    if compile not in (None, True, False):
        raise ConfigError(
            f"compile must be True, False or None, not {compile!r}.", "None compiles where it saves time."
        )
    opened = [_opened(dataset) for dataset in _listed(datasets)]
    target = Path(output).resolve()
    work = target.with_name(target.name + WORK_SUFFIX)
    begun = begun_model(work / CHECKPOINTS)
    model_defaults = MODEL if algorithm is not None else default_model(opened, device, graphs) | begun
    chosen = default_hyperparameters(opened, device, graphs) | model_defaults
    chosen |= flat_hyperparameters(algorithm or chosen["algorithm"], hyperparameters)
    wanted = _targets(targets, opened)
    if isinstance(targets, Mapping) and FORCES.name in targets:
        chosen["force_weight"] = checked_weight(FORCES.name, targets[FORCES.name])
    check_target_names(chosen, [target.name for target in wanted], [dataset.name for dataset in opened])
    model, optimiser = settings_of(chosen)
    check_together(wanted, direct_forces=model.force_head is ForceHead.DIRECT)
    known = _attributes(opened) if attributes is None else tuple(attributes)
    _check_conditioning(model, known)
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
        compile=default_compile(opened, graphs) if compile is None else _COMPILE[bool(compile)],
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
