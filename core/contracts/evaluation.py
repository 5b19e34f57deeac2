"""Predictions of ensemble members, calibration of their spread, and the deployable ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gfm_pipeline.core.contracts.policies import ENSEMBLE, PolicyChoice
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Target
from gfm_pipeline.core.contracts.task import Assignment, TaskSpec
from gfm_pipeline.core.contracts.training import DatasetRef, Device, TestSetRef

# Files of a published ensemble folder, beside ``members/<name>/`` (the checkpoints) and the manifest
CALIBRATION_FILE = "calibration.json"
EVALUATION_FILE = "evaluation.json"
FIGURES_FILE = "evaluation.npz"
MODEL_CARD_FILE = "MODEL_CARD.md"
DOMAIN_FOLDER = "domain"  # a file per member and dataset: features of the training split as the member computes them
DATA_FILE = "data.json"  # statistics, provenance and digest of each dataset
MEMBERS_FOLDER = "members"
ABSURD_ENERGY, ABSURD_SHARE, ABSURD_FORCES = 1.0, 10.0, 2.0  # eV/atom; times the error of a model without learning


@dataclass(frozen=True)
class PredictSpec(TaskSpec):
    """Predict validation and test splits, a sample of the training split, and test sets, with one member.

    Publishes under ``output`` one ``<dataset>-<split>.npz`` each with ``energy`` [G] (eV, references added),
    ``forces`` [N, 3] (eV/Angstrom), ``natoms`` [G], ``group`` [G] (index of the trajectory or family), the
    labels ``energy_label``, ``forces_label``, and ``energy_reference`` [G] (eV), in dataset order; of every other
    target of the model the same, references added, under its name.
    A program of one rank.
    """

    member: str
    checkpoint: str
    datasets: tuple[DatasetRef, ...]
    output: str
    batch_size: int = 64
    threads: int = 1
    device: Device = Device.CPU
    test_sets: tuple[TestSetRef, ...] = ()

    def inputs(self) -> tuple[str, ...]:
        """Return the member's checkpoint, the datasets and the test sets."""
        return (self.checkpoint, *(one.path for one in self.datasets), *(one.path for one in self.test_sets))

    def assigned(self, given: Assignment) -> PredictSpec:
        """Return the spec of one attempt, with its device."""
        return replace(self, device=Device(given.device))


@dataclass(frozen=True)
class PredictResult:
    """The folder of a member's predictions."""

    output: str
    digest: str
    seconds: float
    graphs_per_second: float


@dataclass(frozen=True)
class MemberRef:
    """One ensemble member: its checkpoint and its predictions."""

    name: str
    checkpoint: str
    predictions: str


@dataclass(frozen=True)
class CalibrateSpec(TaskSpec):
    """Fit the calibration on validation, judge it on test, and publish the deployable ensemble."""

    members: tuple[MemberRef, ...]
    datasets: tuple[DatasetRef, ...]
    level: float  # nominal coverage of the intervals, e.g. 0.9
    output: str
    seed: int
    uncertainty: PolicyChoice = ENSEMBLE
    test_sets: tuple[TestSetRef, ...] = ()

    def inputs(self) -> tuple[str, ...]:
        """Return the checkpoint and the predictions of each member, the datasets and the test sets."""
        members = (path for member in self.members for path in (member.checkpoint, member.predictions))
        return (*members, *(one.path for one in self.datasets), *(one.path for one in self.test_sets))


@dataclass(frozen=True)
class GroupCoverage:
    """How often intervals contain the label in one group of the test split: ``by`` element or size.

    ``error`` is the standard error, of bootstrap samples of whole clusters (trajectories, parent cells).
    """

    by: str
    group: str
    n: int
    clusters: int
    coverage: float
    error: float


@dataclass(frozen=True)
class QuantityReport:
    """One quantity (per-atom energy, or force components) of one dataset, on the test split.

    Spread is the ensemble's standard deviation. ``rank_correlation`` is Spearman's between spread and absolute error;
    ``coverage_raw`` is that of the interval mean +- z * spread before calibration. ``scale`` and ``floor`` give the
    calibrated standard deviation sqrt((scale * spread)**2 + floor**2); ``quantile`` the conformal factor q: the
    calibrated interval is mean +- q * calibrated deviation. ``coverage_error`` is the standard error of
    ``coverage_calibrated`` with trajectories as clusters, ``excess_error`` that of ``mae`` minus ``best_member_mae``;
    ``ence_*`` and ``crps_*`` are the expected normalised calibration error and the continuous ranked probability score;
    ``guaranteed`` is False when validation was too small for the finite-sample promise at this level.
    ``calibration_error`` (root mean square over levels) and ``sharpness`` (root mean variance) describe the calibrated
    deviation. So do ``auroc_worst`` and ``auprc_worst``, which measure how well it finds the tenth of the entries with
    the largest errors, and ``ause``, the area under its sparsification error. None: not measured, or nothing to find.
    ``n`` is 0 when a split has no labels of this quantity; the other fields then have no meaning.
    """

    mae: float
    rmse: float
    null_mae: float
    best_member_mae: float
    coverage_raw: float
    coverage_calibrated: float
    interval_halfwidth: float  # mean of the calibrated half-width, same unit as mae
    rank_correlation: float
    nll_raw: float
    nll_calibrated: float
    miscalibration_raw: float
    miscalibration_calibrated: float
    scale: float
    floor: float
    quantile: float
    n: int
    coverage_error: float = 0.0
    ence_raw: float | None = None
    ence_calibrated: float | None = None
    crps_raw: float | None = None
    crps_calibrated: float | None = None
    guaranteed: bool = True
    calibration_error: float | None = None
    sharpness: float | None = None
    auroc_worst: float | None = None
    auprc_worst: float | None = None
    ause: float | None = None
    groups: tuple[GroupCoverage, ...] = ()
    excess_error: float | None = None


@dataclass(frozen=True)
class DomainReport:
    """How well the distance to the training split detects unfamiliar structures, on the test split.

    At most a share of ``false_alarms`` of structures like those of the dataset is beyond it, and ``found`` of the test
    split is.
    """

    false_alarms: float
    found: float


@dataclass(frozen=True)
class DifferenceReport:
    """Differences of energies of pairs of structures on the test split: ``n`` pairs, per atom of the first (eV)."""

    n: int
    mae: float
    coverage: float
    interval_halfwidth: float


@dataclass(frozen=True)
class DatasetReport:
    """Test results of the ensemble on one dataset; values of structures that are extensive are per atom.

    ``others`` are targets other than energy and forces, by name, and ``declared`` holds their declarations.
    `quantities` returns all targets. ``weights`` of the members, by name, sum to one and were fitted on validation
    (empty: equal weights); ``effective_members`` is 1 / sum(weights**2), None where weights are empty.
    """

    energy: QuantityReport
    forces: QuantityReport
    n_structures: int
    weights: dict[str, float] = field(default_factory=dict)
    effective_members: float | None = None
    others: dict[str, QuantityReport] = field(default_factory=dict)
    declared: dict[str, Target] = field(default_factory=dict)
    domain: DomainReport | None = None
    difference: DifferenceReport | None = None

    def quantities(self) -> list[tuple[Target, QuantityReport]]:
        """Return every target with its results; ``n`` is 0 for a target without labels in the test split."""
        others = [(self.declared[name], report) for name, report in self.others.items()]
        return [(ENERGY, self.energy), (FORCES, self.forces), *others]

    def doubts(self) -> tuple[str, ...]:
        """Return reasons not to use the ensemble: errors on the test split too large for a sound model."""
        energy, forces = self.energy, self.forces
        sentences = []
        if energy.n and (energy.mae > ABSURD_ENERGY or energy.mae > ABSURD_SHARE * max(energy.null_mae, 1e-3)):
            sentences.append(
                f"the energy MAE is {1000 * energy.mae:,.4g} meV/atom, and references alone have "
                f"{1000 * energy.null_mae:,.4g}"
            )
        if forces.n and forces.null_mae and forces.mae > ABSURD_FORCES * forces.null_mae:
            sentences.append(f"the force MAE is {forces.mae / forces.null_mae:.3g} times that of zero forces")
        for name, report in self.others.items():
            if report.n and report.null_mae and report.mae > ABSURD_FORCES * report.null_mae:
                nothing = self.declared[name].learned_nothing
                sentences.append(f"the MAE of {name} is {report.mae / report.null_mae:.3g} times that of {nothing}")
        return tuple(sentences)


@dataclass(frozen=True)
class CalibrateResult:
    """The calibrated ensemble and its evaluation on the test split of each dataset, and on named test sets."""

    output: str
    digest: str
    level: float
    datasets: dict[str, DatasetReport]
    seconds: float
    test_sets: dict[str, DatasetReport] = field(default_factory=dict)

    @property
    def judged(self) -> dict[str, DatasetReport]:
        """Reports of all datasets, then of all test sets."""
        return {**self.datasets, **self.test_sets}


@dataclass(frozen=True)
class FloorModel:
    """Dependence of the floor of a deviation, which is stated for an entry of typical size and distance.

    Attributes
    ----------
    relative
        Error of a component of a vector in addition to the floor, as a share of the vector's length.
    size_power
        The floor falls with this power of the atoms over ``typical_size``.
    distance_power
        The floor grows with this power of the distance to the training data over ``typical_distance``, from
        ``nearest`` to 1, the threshold of the domain. Beyond it the whole deviation grows in proportion.
    vanishing
        Vector components that all members predict below this value vanish by symmetry in known environments, and their
        floor falls with them. 0: no component does.
    """

    relative: float = 0.0
    size_power: float = 0.0
    typical_size: float = 1.0
    distance_power: float = 0.0
    typical_distance: float = 1.0
    nearest: float = 0.0
    vanishing: float = 0.0


@dataclass(frozen=True)
class QuantityCalibration:
    """Parameters that convert a spread to an interval; `QuantityReport` explains the fields. ``n`` 0: none exist.

    ``model`` is of the floor; None, of earlier versions: it is constant. ``by_element`` maps elements to own quantiles.
    """

    scale: float
    floor: float
    quantile: float
    level: float
    n: int
    guaranteed: bool
    model: FloorModel | None = None
    by_element: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DomainCalibration:
    """Limits of the distances of the farthest atom and, unless from an earlier version, of the mean, ``average``.

    A structure like the ``n``, of these ``left_out`` of training, is beyond with probability ``false_alarms`` at most.
    """

    threshold: float
    false_alarms: float
    n: int
    guaranteed: bool
    average: float | None = None
    left_out: int = 0


@dataclass(frozen=True)
class DifferenceCalibration:
    """Calibration of differences of energies of structures whose compositions are proportional.

    ``energy`` is per atom of the first structure; its distance is that between the two structures, in units of
    ``separation``, instead of the distance to the training data.
    """

    energy: QuantityCalibration
    separation: float


@dataclass(frozen=True)
class DatasetCalibration:
    """Calibration of one dataset (branch), with the elements its labels hold.

    ``weights`` of the members, by name, sum to one and apply to all targets; empty: equal weights. ``others`` are
    targets other than energy and forces. ``undetermined`` [D][S] are directions in the space of compositions, over
    ``elements``, in which the dataset's reference energies are a guess.
    """

    energy: QuantityCalibration
    forces: QuantityCalibration
    elements: tuple[str, ...]
    weights: dict[str, float] = field(default_factory=dict)
    undetermined: tuple[tuple[float, ...], ...] = ()
    others: dict[str, QuantityCalibration] = field(default_factory=dict)
    domain: DomainCalibration | None = None
    difference: DifferenceCalibration | None = None

    def of(self, target: str) -> QuantityCalibration | None:
        """Return the calibration of a target, or None."""
        found = {ENERGY.name: self.energy, FORCES.name: self.forces, **self.others}.get(target)
        return found if found is not None and found.n else None


@dataclass(frozen=True)
class EnsembleCalibration:
    """Content of ``calibration.json``: the members, in order, and the calibration of each dataset.

    ``uncertainty`` is the measure of the raw spread.
    """

    schema_version: int
    level: float
    members: tuple[str, ...]
    datasets: dict[str, DatasetCalibration]
    uncertainty: PolicyChoice = ENSEMBLE


def figure_key(dataset: str, quantity: str, field: str) -> str:
    """Return the name of an array in ``evaluation.npz``.

    ``quantity`` is the name of a target: ``energy`` (eV/atom, relative to the references), ``forces`` (components,
    eV/Angstrom), or another (components, per atom where it is extensive and of structures). ``field`` is ``label``,
    ``mean``, ``spread`` or ``deviation`` (calibrated), [n <= 3000] of the test split, or ``curve_expected``,
    ``curve_raw`` or ``curve_calibrated`` [101], expected against observed coverage.
    """
    return f"{dataset}/{quantity}/{field}"
