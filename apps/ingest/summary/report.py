"""``ingest_report.md``: the contents of a dataset, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gfm_pipeline.apps.ingest.summary.histograms import coarser
from gfm_pipeline.apps.ingest.summary.provenance import lines as provenance_lines
from gfm_pipeline.apps.ingest.summary.statistics import Totals
from gfm_pipeline.core.contracts.data import QUARANTINE_FILE, AssembleSpec, Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics, NeighbourStatistics
from gfm_pipeline.core.contracts.ingest.report import Histogram, IngestReport
from gfm_pipeline.core.contracts.layout import EdgeLayout, Provenance
from gfm_pipeline.core.contracts.targets import Rank

_BAR = 40
_LINES = 12


def _histogram(found: Histogram, scale: float = 1.0) -> list[str]:
    """Return lines ``low .. high count bar`` in a fence, the edges times ``scale``."""
    if not found.counts:
        return ["```", "none", "```"]
    if not found.edges[-1] > found.edges[0]:
        return ["```", f"{scale * found.edges[0]:12.4g} (all {found.counts[0]} values)", "```"]
    drawn = coarser(found, _LINES)
    bar = _BAR / max(drawn.counts)
    edges = [scale * edge for edge in drawn.edges]
    lines = [
        f"{a:11.4g} .. {b:11.4g} {n:9d} {'#' * round(n * bar)}".rstrip()
        for a, b, n in zip(edges[:-1], edges[1:], drawn.counts, strict=True)
    ]
    return ["```", *lines, "```"]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]


def _bars(rows: Sequence[tuple[str, int]]) -> list[str]:
    """Return a line ``name count bar`` each, in a fence."""
    scale, width = _BAR / max(1, *(n for _, n in rows)), max(len(name) for name, _ in rows)
    return ["```", *(f"{name:>{width}} {n:10d} {'#' * round(n * scale)}".rstrip() for name, n in rows), "```"]


def _neighbour_lines(neighbours: Sequence[NeighbourStatistics]) -> list[str]:
    header = ("cutoff, Å", "mean", "exp of mean log(d + 1), less 1", "fewest", "most", "atoms without any")
    rows = [
        (
            f"{n.cutoff:g}",
            f"{n.mean:.1f}",
            f"{math.expm1(n.mean_log):.1f}",
            str(n.minimum),
            str(n.maximum),
            str(n.isolated),
        )
        for n in neighbours
    ]
    return ["Of the atoms of the training split; a cutoff should leave few without any.", "", *_table(header, rows)]


def _block(title: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _edge_lines(edges: EdgeLayout) -> list[str]:
    total = sum(extent.n_edges for extent in edges.splits.values())
    unpacked = sum(extent.unpacked for extent in edges.splits.values())
    lines = [f"{total} within {edges.cutoff:g} Å are stored, 8 bytes each."]
    if unpacked:
        lines.append(
            f"{unpacked} structures have one that cannot be stored (too many atoms, or positions far outside the "
            "cell): theirs are listed when they are read."
        )
    return lines


def _target_lines(stats: DatasetStatistics, found: IngestReport) -> list[str]:
    """Return one row per target other than energy and forces, then a description of its labels."""
    splits = list(stats.n_structures)
    header = (
        "target",
        "unit",
        *(f"known, {split}" for split in splits),
        "scale",
        "learns nothing, testset",
        "reference",
    )
    rows = []
    of_targets = {name: facts for name, facts in stats.targets.items() if facts.attribute is None}
    for name, facts in of_targets.items():
        factor, unit = facts.target.shown_factor, facts.target.printed_unit
        means = ", ".join(f"{symbol} {value:.6g}" for symbol, value in facts.reference.items())
        rows.append(
            (
                name,
                unit or "-",
                *(str(facts.known.get(split, 0)) for split in splits),
                f"{factor * facts.scale:.4g}",
                f"{factor * facts.null[Split.TEST]:.4g}" if facts.known.get(Split.TEST) else "-",
                f"{means} {facts.target.unit}".strip() if means else "none",
            )
        )
    lines = ["The scale is the RMS of the training split after references.", "", *_table(header, rows)]
    for name in of_targets:
        histogram = found.targets[name]
        target = stats.targets[name].target
        what = "minus its reference" if target.rank is Rank.SCALAR else "absolute components"
        lines += ["", f"{name}, {what} ({target.printed_unit or 'a number'})", ""]
        lines += _histogram(histogram, target.shown_factor)
    return lines


def _attribute_lines(stats: DatasetStatistics, found: IngestReport) -> list[str]:
    """Return one row per declared graph attribute, then the distribution of its values."""
    splits = list(stats.n_structures)
    rows = [
        (
            one.name,
            one.unit or "-",
            *(str(stats.targets[one.name].known.get(split, 0)) for split in splits),
            one.shown(one.neutral),
            ", ".join(one.categories) or "-",
        )
        for one in stats.attributes
    ]
    lines = _table(("attribute", "unit", *(f"known, {split}" for split in splits), "neutral", "categories"), rows)
    for one in stats.attributes:
        lines += ["", f"{one.name} ({'position of the category' if one.categories else one.unit or 'a number'})", ""]
        lines += _histogram(found.targets[one.name])
    return lines


def render(
    spec: AssembleSpec,
    stats: DatasetStatistics,
    totals: Totals,
    found: IngestReport,
    origin: Provenance,
    edges: EdgeLayout | None = None,
) -> str:
    """Return the report as Markdown."""
    total, atoms = sum(stats.n_structures.values()), sum(stats.n_atoms.values())
    split_rows = [
        (
            split,
            str(n),
            f"{100 * n / total:.1f} %",
            str(stats.n_atoms[split]),
            str(stats.n_groups[split]),
            f"{1000 * stats.null_energy_mae[split]:.1f}",
            f"{stats.null_force_mae[split]:.3f}",
        )
        for split, n in stats.n_structures.items()
        if n
    ]
    element_rows = [
        (element.symbol, str(element.atoms), str(element.structures), f"{stats.reference[element.symbol]:.6f}")
        for element in found.elements
    ]
    fractions = f"{100 * spec.validation:.1f} % validation, {100 * spec.test:.1f} % test"
    lines = [f"# {stats.name}", "", f"{total} structures, {atoms} atoms, reader {spec.source.reader}."]
    lines += origin.conversions
    if origin.warnings:
        lines += _block("Warnings", [f"- {sentence}" for sentence in origin.warnings])
    lines += _block("Provenance", provenance_lines(origin))
    split_header = (
        "split",
        "structures",
        "share",
        "atoms",
        "groups",
        "learns nothing, meV/atom",
        "learns nothing, eV/Å",
    )
    wanted = f"Asked for: {fractions}; whole groups are assigned."
    if (test_of := spec.source.test_of) is not None:
        wanted = f"A test set of {test_of}: all records, its references and its models."
    lines += _block("Splits", [wanted, "", *_table(split_header, split_rows)])
    rank = f"Reference energies: {stats.reference_from}, rank {stats.reference_rank} of {len(stats.elements)}."
    if stats.reference_undetermined:
        rank += f" What the compositions leave open is from a table, {stats.reference_prior}: see the warnings."
    if stats.reference_residual is not None:
        rank += (
            f" What they leave of the training energies has an RMS of {1000 * stats.reference_residual:.1f} meV/atom."
        )
    header = ("element", "atoms", "structures", "reference energy, eV")
    present = [(element.symbol, element.atoms) for element in found.elements]
    lines += _block("Elements", [rank, "", *_table(header, element_rows), "", *_bars(present)])
    sizes = sorted(totals.sizes.items())
    if len(sizes) <= 20:
        lines += _block("Sizes", _bars([(f"{n} atoms", c) for n, c in sizes]))
    else:
        lines += _block("Sizes (atoms)", _histogram(found.sizes))
    lines += _block("Energy minus references (meV/atom)", _histogram(found.energies, 1000.0))
    lines += _block("Absolute force components (eV/Å)", _histogram(found.forces))
    if len(stats.targets) > len(stats.attributes):
        lines += _block("Further targets", _target_lines(stats, found))
    if stats.attributes:
        lines += _block("Graph attributes", _attribute_lines(stats, found))
    if stats.neighbours:
        lines += _block("Neighbours", _neighbour_lines(stats.neighbours))
    if edges is not None:
        lines += _block("Edges", _edge_lines(edges))
    if found.set_aside:
        rows = [
            (k.reason, str(k.records), f"{100 * k.records / found.read:.3g} %", f"{k.file}, record {k.index}")
            for k in found.set_aside
        ]
        quarantined = f"{stats.n_quarantined} of {found.read} records read, each named in {QUARANTINE_FILE}."
        lines += _block("Set aside", [quarantined, "", *_table(("reason", "records", "share", "first"), rows)])
    else:
        lines += _block("Set aside", ["Nothing."])
    if found.labels.keys:
        keys = [
            (k.key, k.kind, k.shape, str(k.records), k.use, ", ".join(f"{v}: {n}" for v, n in k.values.items()))
            for k in found.labels.keys
        ]
        key_header = ("key", "what it is", "shape", "records", "used as", "values")
        lines += _block(
            "Labels and metadata", ["What the records have, and what it was used as.", "", *_table(key_header, keys)]
        )
    if found.passed_over:
        over = [f"- {n} records: {reason}" for reason, n in found.passed_over.items()]
        lines += _block("Passed over", ["Sound, and not for this source; not among the records read.", "", *over])
    return "\n".join(lines) + "\n"
