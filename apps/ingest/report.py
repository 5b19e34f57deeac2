"""``ingest_report.md``: what is in a dataset, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.contracts.data import AssembleSpec, DatasetStatistics, Split
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.apps.ingest.references import residual

_BAR = 40


def histogram(values: NDArray[np.float64], bins: int = 12) -> list[str]:
    """Return lines ``low .. high count bar``; the outermost per mille of each side share the end bins."""
    low, high = (float(v) for v in np.quantile(values, [0.001, 0.999]))
    if not high > low:
        return [f"{low:12.4g} (all {len(values)} values)"]
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    scale = _BAR / counts.max()
    return [
        f"{a:11.4g} .. {b:11.4g} {n:9d} {'#' * round(n * scale)}"
        for a, b, n in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _block(title: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def render(
    spec: AssembleSpec, stats: DatasetStatistics, splits: Mapping[Split, Columns], notes: tuple[str, ...]
) -> str:
    """Return the report as Markdown."""
    total = sum(stats.n_structures.values())
    split_rows = [
        (
            str(split),
            str(stats.n_structures[split]),
            f"{100 * stats.n_structures[split] / total:.1f} %",
            str(stats.n_atoms[split]),
            str(stats.n_groups[split]),
            f"{1000 * stats.null_energy_mae[split]:.1f}",
            f"{stats.null_force_mae[split]:.3f}",
        )
        for split in splits
    ]
    numbers = np.concatenate([c.numbers for c in splits.values()])
    natoms = np.concatenate([c.natoms for c in splits.values()])
    with_element = dict.fromkeys(np.unique(numbers).tolist(), 0)
    for columns in splits.values():
        present, composition = columns.composition()
        for z, count in zip(present.tolist(), np.count_nonzero(composition, axis=0).tolist(), strict=True):
            with_element[z] += count
    element_rows = [
        (chemical_symbols[z], str(int((numbers == z).sum())), str(n), f"{stats.reference[chemical_symbols[z]]:.6f}")
        for z, n in with_element.items()
    ]
    energy = 1000 * np.concatenate([residual(c, stats.reference) for c in splits.values()])
    forces = np.concatenate([np.abs(c.forces.astype(np.float64)).ravel() for c in splits.values()])
    wanted = f"{100 * spec.validation:.1f} % validation, {100 * spec.test:.1f} % test"
    sizes, counts = np.unique(natoms, return_counts=True)
    size_lines = [f"{n} atoms: {c}" for n, c in zip(sizes.tolist(), counts.tolist(), strict=True)]
    lines = [f"# {stats.name}", "", f"{total} structures, {len(numbers)} atoms, reader {spec.source.reader}.", *notes]
    split_header = (
        "split",
        "structures",
        "share",
        "atoms",
        "groups",
        "learns nothing, meV/atom",
        "learns nothing, eV/Å",
    )
    lines += _block(
        "Splits", [f"Asked for: {wanted}; whole groups are assigned.", "", *_table(split_header, split_rows)]
    )
    rank = f"Reference energies: {stats.reference_from}, rank {stats.reference_rank} of {len(stats.elements)}."
    if stats.reference_rank < len(stats.elements):
        rank += " The compositions do not determine all of them: the smallest-norm solution is used."
    header = ("element", "atoms", "structures", "reference energy, eV")
    lines += _block("Elements", [rank, "", *_table(header, element_rows)])
    if len(sizes) <= 20:
        lines += _block("Sizes", ["- " + line for line in size_lines])
    else:
        lines += _block("Sizes (atoms)", ["```", *histogram(natoms.astype(np.float64)), "```"])
    lines += _block("Energy minus references (meV/atom)", ["```", *histogram(energy), "```"])
    lines += _block("Absolute force components (eV/Å)", ["```", *histogram(forces), "```"])
    if stats.reasons:
        rows = [(reason, str(n)) for reason, n in stats.reasons.items()]
        set_aside = [f"{stats.n_quarantined} records, each named in quarantine.jsonl."]
        lines += _block("Set aside", [*set_aside, "", *_table(("reason", "records"), rows)])
    else:
        lines += _block("Set aside", ["Nothing."])
    return "\n".join(lines) + "\n"
