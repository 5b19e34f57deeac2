"""Questions to the programs that put finished ensembles to use: one file of a model, predictions, errors on files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.contracts.task import Assignment, TaskSpec
from gfm_pipeline.core.strenum import StrEnum

BUNDLE_SUFFIX = ".gfm"
PACKAGE_SUFFIX = ".pt2"  # of a package that C++ runs
FIGURES_FILE, TARGETS_FILE = "figures.npz", "targets.json"
MOST_REFUSED = 20  # structures that were refused are named up to this number


class OutOfDomain(StrEnum):
    """What is done with a structure that is unlike the training data."""

    ANSWER = "answer"  # `in_domain` is false
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True)
class ExportSpec:
    """Write the newest ensemble of ``model`` (a campaign, or the folder of an ensemble) to the file ``output``.

    ``dataset``, ``device`` and ``dtype`` are those of a package (`PACKAGE_SUFFIX`). ``decisions`` is a section of
    Markdown that the model card gets in addition.
    """

    model: str
    output: str
    overwrite: bool = False
    dataset: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    decisions: str = ""


@dataclass(frozen=True)
class BundleFacts:
    """The written bundle."""

    output: str
    digest: str
    size: int
    members: tuple[str, ...]
    datasets: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class PredictFilesSpec:
    """Predict the structures of ``source`` with an ensemble, and compare with their labels where ``evaluate``.

    Parameters
    ----------
    model
        A campaign, the folder of an ensemble, or a file that was exported.
    source
        Files of structures, what reads them, and what their labels are.
    output
        File of predictions, whose suffix says the format; None: none is written.
    dataset
        The dataset head; None where there is one.
    by_group
        Errors are given for each group of the source, too.
    batch_atoms
        Atoms that are computed together.
    figures
        Existing folder for the arrays of the figures of an evaluation (`FIGURES_FILE`) and the targets
        (`TARGETS_FILE`); None: none are written.
    """

    model: str
    source: SourceSettings
    output: str | None = None
    dataset: str | None = None
    evaluate: bool = False
    by_group: bool = False
    batch_atoms: int = 2048
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    overwrite: bool = False
    limits: ReadLimits = field(default_factory=ReadLimits)
    on_out_of_domain: OutOfDomain = OutOfDomain.ANSWER
    figures: str | None = None


@dataclass(frozen=True)
class ErrorsOf:
    """Errors of a target over some of the structures: ``by`` what they were grouped (``all``, ``element``, ...).

    In the unit of the target's errors; ``coverage`` is the share of labels inside the intervals, and ``coverage_error``
    its standard error, in which entries of one structure depend on each other. None without intervals.
    """

    target: str
    unit: str
    by: str
    group: str
    entries: int
    mae: float
    rmse: float
    coverage: float | None
    coverage_error: float | None = None


@dataclass(frozen=True)
class WorstStructure:
    """A structure with the largest error of a target: the largest of its entries."""

    target: str
    unit: str
    file: str
    record: int
    formula: str
    error: float


@dataclass(frozen=True)
class PredictFacts:
    """Facts of predictions. ``refused`` gives reasons for the first of the ``n_refused`` unanswered structures."""

    output: str | None
    dataset: str
    targets: tuple[str, ...]
    structures: int
    atoms: int
    seconds: float
    n_refused: int
    refused: tuple[str, ...]
    warnings: dict[str, int]
    errors: tuple[ErrorsOf, ...] = ()
    worst: tuple[WorstStructure, ...] = ()
    unlabelled: int = 0
    outside: int | None = None  # structures unlike the training data; None: the ensemble cannot tell
    level: float | None = None  # nominal coverage of the intervals


@dataclass(frozen=True)
class SelectSpec:
    """Choose ``n`` structures of the files of ``predict`` to label, and write them to ``output``.

    ``training`` are the folders of the datasets the model was trained on; (): these are not known.
    """

    predict: PredictFilesSpec
    output: str
    n: int
    training: tuple[str, ...] = ()


@dataclass(frozen=True)
class SelectFacts:
    """The structures that were chosen from ``pool`` structures.

    ``uncertainty`` is the mean over those chosen, and over the pool: of forces in eV/Angstrom, or of the energy in
    eV/atom. ``out_of_domain`` of those chosen are unlike the training data; None where that is not known. ``files``
    says how many are from each. ``compared``: the training data were at hand; ``n_overlap`` structures are in them.
    """

    output: str
    dataset: str
    pool: int
    chosen: int
    out_of_domain: int | None
    uncertainty: float
    uncertainty_of_pool: float
    files: dict[str, int]
    compared: bool
    n_overlap: int
    overlap: tuple[str, ...]
    n_refused: int
    refused: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class PredictPartSpec(TaskSpec):
    """Predict one part of the structures of a predict stage.

    Publishes under ``output`` the file ``predictions.FORMAT``, ``refused.csv`` with every structure without prediction,
    and ``part.json`` (`PartFacts`). A program of one rank.

    Parameters
    ----------
    predict
        The model and the structures; its own ``output`` is not used.
    part
        Number of the part; the source has ``source.shards`` parts.
    format
        Suffix of the file, without its dot.
    """

    predict: PredictFilesSpec
    part: int
    format: str
    output: str

    def inputs(self) -> tuple[str, ...]:
        """Return the folder of the ensemble."""
        return (self.predict.model,)

    def assigned(self, given: Assignment) -> PredictPartSpec:
        """Return the spec of one attempt, with its device and threads."""
        return replace(self, predict=replace(self.predict, device=given.device, threads=given.threads))


@dataclass(frozen=True)
class PredictPartResult:
    """A part of predictions. ``outside`` structures are unlike the training data; None: the ensemble cannot tell."""

    output: str
    digest: str
    structures: int
    n_refused: int
    outside: int | None
    seconds: float


@dataclass(frozen=True)
class JoinPartsSpec(TaskSpec):
    """Sum the counts and errors of all parts; publishes ``summary.json``, ``refused.csv``, and ``errors.csv``."""

    parts: tuple[str, ...]
    output: str

    def inputs(self) -> tuple[str, ...]:
        """Return the folders of the parts."""
        return self.parts


@dataclass(frozen=True)
class JoinPartsResult:
    """Facts of all predictions of a stage."""

    output: str
    digest: str
    structures: int
    n_refused: int
    outside: int | None
    errors: tuple[ErrorsOf, ...]
