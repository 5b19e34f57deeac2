"""Complete checkpoints: all data to continue training, and to predict.

A checkpoint is a published folder (`gfm_pipeline.core.publish`) with three files:

- ``model.json``: a `ModelCard`; the architecture, the datasets and their reference energies;
- ``model.pt``: the EMA weights by name, which every validation and prediction uses;
- ``state.pt``: raw weights, EMA, the optimiser's state, RNG and the `TrainingState` in schedule, sampler and stopper.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfm_pipeline.apps.train.schedule import Anneal, Phase
from gfm_pipeline.core.contracts.optimisation.fine_tuning import WeightsOrigin
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.contracts.targets import ENERGY, References, Target
from gfm_pipeline.core.contracts.training import ModelSettings
from gfm_pipeline.core.contracts.training_result import DatasetErrors, StopReason
from gfm_pipeline.core.errors import GFMError, IntegrityError
from gfm_pipeline.core.publish import Manifest, publishing, read_manifest, storage_errors, verify, write_record
from gfm_pipeline.core.records import from_plain, read_record, to_plain
from gfm_pipeline.models import ModelSpec, Potential

CARD_FILE = "model.json"
WEIGHTS_FILE = "model.pt"
STATE_FILE = "state.pt"
PRODUCER = "gfm_pipeline.apps.train 1"


@dataclass(frozen=True)
class ModelCard:
    """The description of a model without its weights.

    Parameters
    ----------
    spec
        Description of the model.
    datasets
        Names of the dataset heads, in order.
    references
        Maps a dataset and an element symbol to the reference energy (eV); its keys are the elements of the dataset.
    force_rms
        Force scale of each dataset in the loss, eV/Angstrom.
    model, optimiser, seed
        The settings of its training.
    graphs, steps
        Seen in the model's life.
    objective, errors
        Results of the last validation; None and empty before the first.
    target_references
        Maps a dataset to the references of its targets other than the energy.
    target_scales
        Maps a target to its scale in the loss for each dataset, divided by the dataset's weight. For energy and forces
        without an entry it is ``force_rms``, as in models described before 2026-12.
    attributes
        Maps a dataset to the smallest and largest total charge and spin multiplicity of its training split, by name.
    unstated
        Maps a dataset to the attributes that some of its structures do not state.
    origin
        The member of an earlier ensemble whose weights the training started from; None: random weights.
    """

    spec: ModelSpec
    datasets: tuple[str, ...]
    references: dict[str, dict[str, float]]
    force_rms: tuple[float, ...]
    model: ModelSettings
    optimiser: OptimiserSettings
    seed: int
    graphs: int = 0
    steps: int = 0
    objective: float | None = None
    errors: dict[str, DatasetErrors] = field(default_factory=dict)
    target_references: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    target_scales: dict[str, tuple[float, ...]] = field(default_factory=dict)
    attributes: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    unstated: dict[str, tuple[str, ...]] = field(default_factory=dict)
    origin: WeightsOrigin | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of the model."""
        return self.spec.targets

    def scales(self) -> dict[str, tuple[float, ...]]:
        """Return the scale of each target in the loss, per dataset."""
        return {target.name: self.target_scales.get(target.name, self.force_rms) for target in self.targets}

    def references_of(self, dataset: str) -> References:
        """Return the references of a dataset: subtracted from its labels, and added to predictions of its branch."""
        return {ENERGY.name: self.references[dataset], **self.target_references.get(dataset, {})}


@dataclass(frozen=True)
class TrainingState:
    """The state of a training. The sampler's position is ``graphs``; the learning rate follows from the rest.

    Parameters
    ----------
    graphs, steps
        Seen in the model's life.
    phase, anneal, stopping
        Phase of the schedule; from the start of the anneal phase on, its limits and its reason.
    history
        (graphs, objective) of this task's checks at constant rate, for the convergence criterion.
    best
        (graphs, objective) of the best validation of the model's life.
    recent
        (objective, standard error) of the last validations of the model's life, oldest first.
    next_validation
        Number of graphs at the next validation.
    loss_sum, loss_count
        Training loss since the last validation.
    direct_until
        Number of graphs at which direct forces end; 0: there are none, or none any more. None: not decided.
    task_graphs, task_seconds
        Graphs seen and time spent in this task, over all attempts.
    schedule
        Memory of the learning rate schedule between validations.
    """

    graphs: int = 0
    steps: int = 0
    phase: Phase = Phase.STABLE
    anneal: Anneal | None = None
    stopping: StopReason | None = None
    history: tuple[tuple[int, float], ...] = ()
    best: tuple[int, float] | None = None
    recent: tuple[tuple[float, float], ...] = ()
    next_validation: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    task_graphs: int = 0
    task_seconds: float = 0.0
    schedule: dict[str, float] = field(default_factory=dict)
    direct_until: int | None = None

    def for_new_task(self) -> TrainingState:
        """Return the initial state of a new task: constant rate, and an empty history."""
        return replace(
            self,
            phase=Phase.STABLE,
            anneal=None,
            stopping=None,
            history=(),
            next_validation=0,
            task_graphs=0,
            task_seconds=0.0,
        )


@dataclass(frozen=True)
class CheckpointTensors:
    """The tensors of a training: weights and EMA, optimiser state, torch's RNG, and learned numbers of the loss.

    Without a state of the optimiser, a new training starts from the weights.
    """

    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimiser: dict[str, Any]
    rng: Tensor
    loss: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_weights(cls, weights: dict[str, Tensor]) -> CheckpointTensors:
        """Return the start of a new training from weights."""
        return cls(weights, weights, {}, torch.get_rng_state())


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    card: ModelCard
    state: TrainingState
    tensors: CheckpointTensors


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to predict: EMA weights in a `Potential`, and its card."""

    potential: Potential
    card: ModelCard

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the dataset heads, in order."""
        return self.card.datasets

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of the model."""
        return self.card.targets

    @property
    def references(self) -> dict[str, dict[str, float]]:
        """Dataset to element symbol to reference energy (eV)."""
        return self.card.references


def _write_tensors(path: Path, value: Any) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with storage_errors(path):
        path.write_bytes(buffer.getvalue())


def _read_tensors(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise IntegrityError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error


def save(
    folder: Path,
    card: ModelCard,
    state: TrainingState,
    tensors: CheckpointTensors,
    meta: dict[str, Any] | None = None,
    others: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Publish a checkpoint as ``folder``, completely or not at all.

    ``meta`` goes into its manifest; ``others`` are further files, by name.

    Raises
    ------
    StorageError
        When the disk refuses.
    """
    with publishing(folder, PRODUCER, {} if meta is None else meta) as temporary:
        write_record(temporary / CARD_FILE, card)
        _write_tensors(temporary / WEIGHTS_FILE, tensors.ema)
        saved = {
            "position": to_plain(state),
            "weights": tensors.weights,
            "ema": tensors.ema,
            "optimiser": tensors.optimiser,
            "rng": tensors.rng,
        }
        if tensors.loss:
            saved["loss"] = tensors.loss
        _write_tensors(temporary / STATE_FILE, saved)
        for name, content in (others or {}).items():
            with storage_errors(temporary / name):
                (temporary / name).write_bytes(content)
    return read_manifest(folder)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint to continue training.

    Raises
    ------
    IntegrityError
        When a file is missing, changed or not a checkpoint.
    """
    verify(folder, digests=True)
    card = read_record(ModelCard, folder / CARD_FILE)
    data = _read_tensors(folder / STATE_FILE)
    try:
        state = from_plain(TrainingState, data["position"])
        tensors = CheckpointTensors(data["weights"], data["ema"], data["optimiser"], data["rng"], data.get("loss", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{folder / STATE_FILE} is not a training state: {str(error).splitlines()[0]}.") from error
    return Checkpoint(card, state, tensors)


def load_model(folder: Path) -> TrainedModel:
    """Read a model for prediction: EMA weights, evaluation mode, float32.

    Raises
    ------
    IntegrityError
        When a file is missing, changed, or its weights do not fit its card.
    """
    verify(folder, digests=True)
    card = read_record(ModelCard, folder / CARD_FILE)
    potential = Potential(card.spec)
    try:
        potential.load_state_dict(_read_tensors(folder / WEIGHTS_FILE))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder}: the weights do not fit {CARD_FILE}: {str(error).splitlines()[0]}.") from error
    return TrainedModel(potential.eval(), card)  # torch's evaluation mode; this is no eval of text


def newest(folders: Iterable[Path]) -> Checkpoint | None:
    """Return the complete checkpoint with most graphs among ``folders``, or None."""
    found: Checkpoint | None = None
    for folder in sorted(folders, key=lambda f: f.name, reverse=True):  # names contain the number of graphs
        if found is not None:
            break
        try:
            found = load(folder)
        except (GFMError, OSError):
            continue  # a damaged checkpoint costs the work since the previous one, not the run
    return found


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in main memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
