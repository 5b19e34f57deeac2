"""Training one model: a search rung or a run to convergence, resumable from any checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gfm_pipeline.core.contracts.hyperparameters import Hyperparameter, ValueKind, declared, table_of
from gfm_pipeline.core.contracts.optimisation.fine_tuning import WeightsOrigin
from gfm_pipeline.core.contracts.optimisation.settings import FIELDS, OptimiserSettings
from gfm_pipeline.core.contracts.properties.attributes import NONE, Attribute, names_in
from gfm_pipeline.core.contracts.targets import DEFAULT, FORCES, Target
from gfm_pipeline.core.contracts.task import Assignment, TaskSpec
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.core.strenum import StrEnum


class ForceHead(StrEnum):
    """Where forces come from."""

    CONSERVATIVE = "conservative"  # minus the gradient of the energy
    DIRECT = "direct"  # an equivariant or vector-weighted node head


class Compile(StrEnum):
    """When trainings compile their pass (`torch.compile`)."""

    NEVER = "never"
    AUTO = "auto"  # when it saves time
    ALWAYS = "always"


class Device(StrEnum):
    """Where tensors live, by torch's names: GPUs of AMD (ROCm) are ``cuda`` for torch, too."""

    CPU = "cpu"
    CUDA = "cuda"
    XPU = "xpu"


@dataclass(frozen=True)
class ModelSettings:
    """Architecture of a model; each declared field is a hyperparameter.

    ``algorithm`` names an algorithm (`gfm_pipeline.core.contracts.algorithms`), ``options`` holds its own
    hyperparameters; missing ones have the algorithm's defaults.
    """

    algorithm: str
    hidden: int = field(
        default=64,
        metadata=declared(ValueKind.WHOLE, "Width of node features.", low=1, high=16384, search=[32, 64, 128]),
    )
    layers: int = field(
        default=3, metadata=declared(ValueKind.WHOLE, "Message passing layers.", low=1, high=64, search=[2, 3, 4])
    )
    cutoff: float = field(
        default=5.0, metadata=declared(ValueKind.REAL, "Neighbour cutoff (Angstrom).", low=0.5, high=30.0, search=5.0)
    )
    n_radial: int = field(
        default=8, metadata=declared(ValueKind.WHOLE, "Radial basis functions.", low=1, high=512, search=8)
    )
    force_head: ForceHead = field(
        default=ForceHead.CONSERVATIVE,
        metadata=declared(
            ValueKind.NAME,
            "Forces are minus the gradient of the energy (conservative), or come from their own head (direct).",
            choices=tuple(map(str, ForceHead)),
            search="conservative",
        ),
    )
    repulsion: bool = field(
        default=False,
        metadata=declared(
            ValueKind.SWITCH,
            "Add the screened repulsion of nuclei (ZBL): atoms pushed together are repelled. Forces are conservative.",
        ),
    )
    condition_on: str = field(
        default=NONE,
        metadata=declared(
            ValueKind.NAME,
            "Graph attributes that models are told of besides atoms: none, charge, spin, one under `attributes` of the "
            "workflow, or several as in charge_and_spin.",
        ),
    )
    global_attention: bool = field(
        default=False,
        metadata=declared(
            ValueKind.SWITCH,
            "Attention between all atoms of a structure after message passing; periodic structures do not change.",
        ),
    )
    shallow_ensemble: int = field(
        default=1,
        metadata=declared(
            ValueKind.WHOLE,
            "Last layers of energies on one trunk; from 2 on, they give one model a spread of energies and forces.",
            low=1,
            high=1024,
        ),
    )
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def condition_names(self) -> tuple[str, ...]:
        """The names of the attributes in ``condition_on``."""
        return names_in(self.condition_on)


_OF_MODEL, _OF_OPTIMISER = table_of(ModelSettings), table_of(OptimiserSettings)
HYPERPARAMETERS: Mapping[str, Hyperparameter] = _OF_MODEL | _OF_OPTIMISER


def settings_of(chosen: Mapping[str, Any]) -> tuple[ModelSettings, OptimiserSettings]:
    """Return the settings of the model and of the optimiser from a candidate's hyperparameters.

    A candidate of an older journal may lack some; the declared defaults then apply.

    Raises
    ------
    ConfigError
        When a hyperparameter is unknown, or its value is of the wrong type.
    """
    model: dict[str, Any] = {"algorithm": chosen.get("algorithm"), "options": {}}
    optimiser: dict[str, Any] = {field: {} for field in FIELDS.values()}
    for name, value in chosen.items():
        what, _, target = name.partition(".")
        if target and what in FIELDS:
            optimiser[FIELDS[what]][target] = value
        elif name.startswith("options."):
            model["options"][name.removeprefix("options.")] = value
        elif name in _OF_OPTIMISER:
            optimiser[name] = value
        elif name in _OF_MODEL or name == "algorithm":
            model[name] = value
        else:
            raise ConfigError(
                f"The journal has a candidate with the hyperparameter {name!r}, which this version does not know.",
                "Go on with the version that wrote it, or start in a new campaign folder.",
            )
    try:
        return from_plain(ModelSettings, model), from_plain(OptimiserSettings, optimiser)
    except ValueError as error:
        raise ConfigError(
            f"The journal has a candidate whose hyperparameters do not fit: {error}.",
            "Restore the journal from a backup, or start in a new campaign folder.",
        ) from error


def flat_settings(model: ModelSettings, optimiser: OptimiserSettings) -> dict[str, Any]:
    """Return the settings of a model and of an optimiser as those of a candidate; the inverse of `settings_of`."""
    plain: dict[str, Any] = to_plain(model)
    options = plain.pop("options")
    flat = plain | {f"options.{name}": value for name, value in options.items()}
    for name, value in to_plain(optimiser).items():
        what = next((what for what, of_targets in FIELDS.items() if of_targets == name), None)
        flat |= {name: value} if what is None else {f"{what}.{target}": one for target, one in value.items()}
    return flat


@dataclass(frozen=True)
class DatasetRef:
    """A published dataset folder, by name (its branch in the model) and place."""

    name: str
    path: str


@dataclass(frozen=True)
class TestSetRef:
    """A published test set, by name and place, and the dataset whose branch of the model predicts it."""

    name: str
    path: str
    dataset: str

    __test__ = False  # no class of tests


@dataclass(frozen=True)
class Convergence:
    """Train at constant rate until the validation stops improving, then anneal, then stop.

    The program validates the EMA weights every ``check_every`` graphs. It anneals the learning rate to zero over
    ``anneal_fraction`` of the graphs seen so far when ``criterion`` (one of
    `gfm_pipeline.core.contracts.policies.CRITERIA`, with its ``options``) is met or ``max_graphs`` (counted over the
    model's whole life) is reached. The default criterion is met when the objective has improved by less than
    ``min_delta`` (relative) over the last ``patience`` checks. The run is ``converged`` in the first case and ``limit``
    in the second.
    """

    check_every: int
    patience: int
    min_delta: float
    max_graphs: int
    anneal_fraction: float
    criterion: str = "plateau"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainSpec(TaskSpec):
    """Train until ``budget_graphs`` graphs were seen in the model's life, or until ``convergence``.

    Parameters
    ----------
    checkpoint
        Published checkpoint folder to continue from; None: start from random weights.
    previous_attempts
        Folders of earlier attempts of this same task, newest last; training continues from the newest valid checkpoint
        in them, bit for bit.
    output
        Folder to publish the final checkpoint in.
    validation_limit
        Largest number of validation graphs per dataset (a fixed subset); None: all.
    temperature
        Datasets are sampled with probability proportional to n**(1/temperature).
    micro_batch
        Graphs in memory at a time on a rank; None: its whole share of the batch. The optimiser steps and results equal
        those of the whole batch, up to the rounding of sums.
    ranks
        Processes that train together, each on its share of every batch. Steps and results equal those of one rank up to
        the rounding of sums. With the same number of ranks they are equal bit for bit.
    device
        Device of each rank; a rank that sees several devices uses the first.
    window
        Number of structures of a training split that a rank holds in memory and shuffles together. Smaller splits stay
        in memory whole, with their edges; larger splits are read in whole blocks during training. The order of the
        graphs depends on this number.
    targets
        Targets that the model learns. The weight of the forces is ``optimiser.force_weight``.
    attributes
        Graph attributes of the datasets, in addition to total charge and spin multiplicity.
    horizon
        Length of the schedules, in graphs of the model's life; it may span several tasks. None: this task's graphs.
    store_errors
        Whether the checkpoint also has the errors on a sample of the validation splits
        (`gfm_pipeline.core.contracts.attempts.stored_errors`).
    origin
        The member of an earlier ensemble whose weights the training starts from, if there is no checkpoint.
    """

    task: str
    model: ModelSettings
    optimiser: OptimiserSettings
    datasets: tuple[DatasetRef, ...]
    seed: int
    output: str
    budget_graphs: int | None = None
    convergence: Convergence | None = None
    checkpoint: str | None = None
    previous_attempts: tuple[str, ...] = ()
    validate_every: int = 2000
    validation_limit: int | None = None
    checkpoint_every_seconds: float = 60.0
    temperature: float = 2.0
    threads: int = 1
    micro_batch: int | None = None
    ranks: int = 1
    device: Device = Device.CPU
    window: int = 16_384
    targets: tuple[Target, ...] = DEFAULT
    attributes: tuple[Attribute, ...] = ()
    horizon: int | None = None
    compile: Compile = Compile.NEVER
    store_errors: bool = False
    origin: WeightsOrigin | None = None

    @property
    def schedule_graphs(self) -> int | None:
        """Length of the schedules, in graphs of the model's life."""
        last = self.budget_graphs if self.convergence is None else self.convergence.max_graphs
        return last if self.horizon is None else self.horizon

    def inputs(self) -> tuple[str, ...]:
        """Return the checkpoint from which the training continues, and the datasets."""
        start = () if self.checkpoint is None else (self.checkpoint,)
        return (*start, *(dataset.path for dataset in self.datasets))

    def assigned(self, given: Assignment) -> TrainSpec:
        """Return the spec of one attempt, with earlier checkpoints, ranks and device."""
        return replace(
            self,
            previous_attempts=given.previous_attempts,
            micro_batch=given.micro_batch if given.micro_batch is not None else self.micro_batch,
            ranks=given.ranks,
            threads=given.threads,
            device=Device(given.device),
            compile=Compile(given.compile),
        )

    @property
    def divisible_batch(self) -> int | None:
        """Graphs per optimiser step."""
        return int(self.optimiser.batch_size)


def target_weights(targets: Sequence[Target], optimiser: OptimiserSettings) -> dict[str, float]:
    """Return the default weight of each target in the loss; the weight of forces is a hyperparameter."""
    return {t.name: optimiser.force_weight if t.name == FORCES.name else t.weight for t in targets}
