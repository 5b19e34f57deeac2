"""What is known of the data of a campaign, as tables of text."""

from __future__ import annotations

from gfm_pipeline.apps.contracts.data import DatasetStatistics, Split
from gfm_pipeline.report.tables import Column, Table
from gfm_pipeline.report.text import count, milli, significant
from gfm_pipeline.report.view import CampaignView

_SPLIT_NAMES = {Split.TRAIN: "train", Split.VALIDATION: "validation", Split.TEST: "test"}


def datasets(view: CampaignView) -> Table:
    """Statistics of every dataset."""
    rows = tuple(_dataset_row(facts) for facts in view.datasets)
    columns = (
        Column("Dataset"), Column("Elements"), Column("Structures (train / validation / test)", True),
        Column("Atoms", True), Column("Groups", True), Column("Largest", True), Column("Force RMS, eV/Å", True),
        Column("Energy std, meV/atom", True), Column("References"), Column("Set aside", True),
    )  # fmt: skip
    return Table(columns, rows, "Splits are by whole groups: frames of one trajectory never sit on two sides.")


def _dataset_row(facts: DatasetStatistics) -> tuple[str, ...]:
    return (
        facts.name,
        " ".join(facts.elements),
        " / ".join(count(facts.n_structures.get(split, 0)) for split in _SPLIT_NAMES),
        count(sum(facts.n_atoms.values())),
        count(sum(facts.n_groups.values())),
        f"{count(facts.max_atoms)} atoms",
        significant(facts.force_rms),
        milli(facts.energy_std),
        f"{facts.reference_from} (rank {facts.reference_rank})",
        count(facts.n_quarantined),
    )


def quarantine(view: CampaignView) -> Table:
    """List records set aside, by reason."""
    rows = tuple(
        (facts.name, reason, count(number))
        for facts in view.datasets
        for reason, number in sorted(facts.reasons.items(), key=lambda item: (-item[1], item[0]))
    )
    return Table((Column("Dataset"), Column("Reason"), Column("Records", True)), rows)


def label_warnings(view: CampaignView) -> Table:
    """List what looks wrong about records that were kept: units, signs, cells."""
    rows = tuple((facts.name, sentence) for facts in view.datasets for sentence in facts.warnings)
    return Table((Column("Dataset"), Column("Warning")), rows)
