"""The model card: description, training data, accuracy, and limits of the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gfm_pipeline.apps.calibrate.card_sources import how_to_cite, sources
from gfm_pipeline.apps.train.checkpoint import ModelCard
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.evaluation import DatasetReport, QuantityReport
from gfm_pipeline.core.contracts.targets import Target

_PACKAGES = ("gfm-pipeline", "torch", "numpy", "scipy", "ase", "adios2")

_HOW = (
    "Calibrated deviation s = sqrt((scale × spread)² + floor² + (share × length of the vector)²), interval = mean ± "
    "quantile × s. The floor falls with the number of atoms and grows with the distance to the training data. Scale, "
    "floor and share are of the largest likelihood of Student's t, in units of the smallest miscalibration area; the "
    "quantile is split-conformal, for each element where it has enough atoms. All were fitted on the validation split, "
    "for each dataset and quantity. The error of the coverage treats whole trajectories as one."
)


def model_card(
    members: Mapping[str, ModelCard],
    statistics: Sequence[DatasetStatistics],
    reports: Mapping[str, DatasetReport],
    level: float,
    seed: int,
    test_sets: Mapping[str, tuple[DatasetStatistics, DatasetReport]] | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return ``MODEL_CARD.md``; equal inputs give equal text (no dates, no paths)."""
    named = test_sets or {}
    judged = {**reports, **{name: report for name, (_, report) in named.items()}}
    parts = [
        "# Calibrated ensemble of interatomic potentials",
        f"{len(members)} members, {len(statistics)} datasets (one branch each). Energies in eV, forces in eV/Å; "
        "energies below are per atom.",
        "## Use",
        "```python\nfrom gfm_pipeline.apps.calculator import GFMCalculator\n\n"
        f'atoms.calc = GFMCalculator.from_ensemble("ENSEMBLE_FOLDER", dataset="{statistics[0].name}")\n'
        'atoms.get_potential_energy(), atoms.calc.results["energy_interval"]\n```',
        "Intended for structures like those of the chosen dataset: same elements, same kind of bonding, near the "
        "sampled temperatures and strains. The dataset decides the branch, and with it the level of theory.",
        "## Data",
        _data([*statistics, *(facts for facts, _ in named.values())]),
        _of_test_sets(named),
        f"### Sources\n\n{sources(data)}" if data else "",
        "### Reference energies",
        _references(statistics),
        "## Members",
        _members(members),
        _weights(list(members), reports),
        "## Accuracy on the test split",
        _accuracy(judged),
        _nothing(judged),
        "\n".join(f"- **{name} should not be used**: {d}." for name, r in reports.items() for d in r.doubts()),
        "## Uncertainty on the test split",
        _uncertainty(judged, level),
        _HOW,
        _scores(judged),
        _groups(judged),
        _differences(judged),
        _limits(reports),
        _domains(judged),
        "## Where it fails",
        "- No long-range electrostatics or dispersion beyond the cutoff times the number of layers.\n"
        "- No charge, no spin, no magnetism: one energy a geometry.\n"
        "- No stress was trained; cells should not be relaxed with it.\n"
        "- Elements a dataset does not hold are refused. Structures far from the data are not refused: `in_domain` is "
        "false, their intervals carry no promise, and an ensemble's spread may stay small where its error is large.\n"
        "- Force components of a structure, and frames of a trajectory, have correlated errors; the intervals hold "
        "on average over structures, not for each.",
        f"## How to cite\n\n{how_to_cite(data)}" if data else "",
        "## Versions and seeds",
        "\n".join(f"- {name} {found}" for name in _PACKAGES if (found := _version(name)) is not None)
        + f"\n- seed of the calibration stage {seed}; members' seeds are in the table above",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in cells])


def _data(statistics: Sequence[DatasetStatistics]) -> str:
    head = ("Dataset", "Elements", "Train", "Validation", "Test", "Largest", "Force RMS, eV/Å", "Set aside")
    rows = [
        (
            s.name,
            " ".join(s.elements),
            *(f"{s.n_structures.get(split, 0):,}" for split in Split),
            f"{s.max_atoms} atoms",
            f"{s.force_rms:.4g}",
            str(s.n_quarantined),
        )
        for s in statistics
    ]
    return _table(head, rows)


def _of_test_sets(named: Mapping[str, object]) -> str:
    if not named:
        return ""
    return (
        "DATASET@NAME is the test set NAME of a dataset: no model learned from it, and the weights and the calibration "
        "of the dataset predict it."
    )


def _references(statistics: Sequence[DatasetStatistics]) -> str:
    rows = [
        (s.name, s.reference_from, ", ".join(f"{e} {value:.6f}" for e, value in sorted(s.reference.items())))
        for s in statistics
    ]
    table = _table(("Dataset", "From", "eV"), rows)
    guessed = [
        f"- {s.name}: the data do not determine the reference energies of each element (rank {s.reference_rank} of "
        f"{len(s.elements)}); what they leave open is from a table, {s.reference_prior}. Total energies of "
        "compositions that are no combination of those in the data may be several eV off; the calculator warns "
        "of them and gives no finite interval."
        for s in statistics
        if s.reference_undetermined
    ]
    return "\n\n".join((table, "\n".join(guessed))) if guessed else table


def _members(members: Mapping[str, ModelCard]) -> str:
    head = ("Member", "Algorithm", "Hidden", "Layers", "Cutoff, Å", "Forces", "Learning rate", "Graphs seen", "Seed")
    rows = [
        (
            name,
            card.model.algorithm,
            str(card.model.hidden),
            str(card.model.layers),
            f"{card.model.cutoff:g}",
            str(card.model.force_head),
            f"{card.optimiser.learning_rate:.3g}",
            f"{card.graphs:,}",
            str(card.seed),
        )
        for name, card in members.items()
    ]
    origins = [
        f"- {name} was fine-tuned from member {one.member} of {one.ensemble} (SHA-256 {one.digest}); branches: "
        + ", ".join(f"{dataset} from {branch}" for dataset, branch in one.branches.items())
        + ". Graphs count from there."
        for name, card in members.items()
        if (one := card.origin) is not None
    ]
    return "\n\n".join([_table(head, rows), *(["\n".join(origins)] if origins else [])])


def _weights(members: Sequence[str], reports: Mapping[str, DatasetReport]) -> str:
    rows = [
        (name, *(f"{r.weights.get(m, 0.0):.3f}" for m in members), f"{r.effective_members or len(members):.2f}")
        for name, r in reports.items()
        if r.weights
    ]
    if not rows:
        return ""
    text = (
        "Mean and spread weigh the members, for each dataset on its own, by shares that were fitted on the "
        "validation split and shrunk towards equal ones; all targets have the same. Effective members: "
        "1 / sum of squared shares, never below the root of their number."
    )
    return "\n\n".join(("### Weights", _table(("Dataset", *members, "Effective members"), rows), text))


def _quantities(reports: Mapping[str, DatasetReport]) -> list[tuple[str, Target, QuantityReport]]:
    return [(name, target, part) for name, report in reports.items() for target, part in report.quantities() if part.n]


def _accuracy(reports: Mapping[str, DatasetReport]) -> str:
    head = ("Dataset", "Quantity", "MAE", "RMSE", "Best member MAE", "Learns nothing MAE", "Entries")
    rows = [
        (
            name,
            target.label,
            *(f"{target.shown_factor * x:.4g}" for x in (q.mae, q.rmse, q.best_member_mae, q.null_mae)),
            f"{q.n:,}",
        )
        for name, target, q in _quantities(reports)
    ]
    return _table(head, rows)


def _nothing(reports: Mapping[str, DatasetReport]) -> str:
    """Return the predictions of a model that learned nothing for each target."""
    texts = {target.name: target.learned_nothing for _, target, _ in _quantities(reports)}
    return "Learns nothing: " + "; ".join(f"{name}: {nothing}" for name, nothing in texts.items()) + "."


def _uncertainty(reports: Mapping[str, DatasetReport], level: float) -> str:
    head = (
        "Dataset", "Quantity", f"Coverage of {100 * level:g} % intervals, raw", "calibrated", "Mean half-width",
        "Rank correlation", "Scale", "Floor", "Quantile",
    )  # fmt: skip
    rows = [
        (
            name,
            target.label,
            f"{100 * q.coverage_raw:.1f} %",
            f"{100 * q.coverage_calibrated:.1f} ± {100 * q.coverage_error:.1f} %",
            f"{target.shown_factor * q.interval_halfwidth:.4g}",
            f"{q.rank_correlation:.2f}",
            f"{q.scale:.4g}",
            f"{target.shown_factor * q.floor:.4g}",
            f"{q.quantile:.4g}",
        )
        for name, target, q in _quantities(reports)
    ]
    return _table(head, rows)


def _scores(reports: Mapping[str, DatasetReport]) -> str:
    """Return the quality of the calibrated deviation."""

    def shown(value: float | None, factor: float = 1.0) -> str:
        return "-" if value is None else f"{factor * value:.3g}"

    rows = [
        (
            name,
            target.label,
            shown(q.nll_calibrated),
            shown(q.crps_calibrated, target.shown_factor),
            f"{q.miscalibration_raw:.3f} → {q.miscalibration_calibrated:.3f}",
            shown(q.calibration_error),
            shown(q.sharpness, target.shown_factor),
            shown(q.auroc_worst),
            shown(q.auprc_worst),
            shown(q.ause),
        )
        for name, target, q in _quantities(reports)
        if q.sharpness is not None
    ]
    head = (
        "Dataset", "Quantity", "NLL", "CRPS", "Miscalibration area", "Calibration error", "Sharpness", "AUROC", "AUPRC",
        "AUSE",
    )  # fmt: skip
    text = "AUROC and AUPRC: how well s finds the tenth with the largest errors; AUSE: how far it is from their order."
    return f"{_table(head, rows)}\n\n{text}" if rows else ""


def _groups(reports: Mapping[str, DatasetReport]) -> str:
    """Return the coverage of each group of the test split."""
    rows = [
        (name, target.label, f"{g.by} {g.group}", f"{100 * g.coverage:.1f} ± {100 * g.error:.1f} %", f"{g.n:,}")
        for name, target, q in _quantities(reports)
        for g in q.groups
    ]
    if not rows:
        return ""
    head = ("Dataset", "Quantity", "Group", "Coverage", "Entries")
    return f"### Coverage of groups\n\n{_table(head, rows)}\n\nErrors are of bootstrap samples of whole trajectories."


def _differences(reports: Mapping[str, DatasetReport]) -> str:
    """Return the results for differences of energies."""
    rows = [
        (name, *(f"{1000.0 * x:.4g}" for x in (d.mae, d.interval_halfwidth)), f"{100 * d.coverage:.1f} %", f"{d.n:,}")
        for name, r in reports.items()
        if (d := r.difference) is not None and d.n
    ]
    if not rows:
        return ""
    head = ("Dataset", "MAE, meV/atom", "Mean half-width, meV/atom", "Coverage", "Pairs")
    text = "Pairs of test structures of proportional compositions; the calculator's `energy_difference` gives these."
    return f"### Differences of energies\n\n{_table(head, rows)}\n\n{text}"


def _domains(reports: Mapping[str, DatasetReport]) -> str:
    """Return how structures unlike the training data are detected."""
    rows = [
        (name, f"{100 * r.domain.false_alarms:g} %", f"{100 * r.domain.found:.1f} %")
        for name, r in reports.items()
        if r.domain is not None
    ]
    if not rows:
        return ""
    table = _table(("Dataset", "False alarms, nominal", "on the test split"), rows)
    return (
        "### In or out of domain\n\nA structure is out of domain (`in_domain` is false) when the features of an atom, "
        "or of its atoms on average, are farther from those of the training split than in nearly all structures of "
        "validation, and nearly all training structures from the rest of that split. Intervals of such "
        f"structures are wider in proportion, and carry no promise.\n\n{table}"
    )


def _limits(reports: Mapping[str, DatasetReport]) -> str:
    small = [f"{name} ({target.name})" for name, target, q in _quantities(reports) if not q.guaranteed]
    if not small:
        return ""
    return f"Validation was too small for the finite-sample guarantee at this level for {', '.join(small)}."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
