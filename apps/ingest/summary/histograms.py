"""Histograms of a dataset as numbers, for the report of the campaign and for people."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.summary.statistics import Totals
from gfm_pipeline.core.contracts.ingest.label_keys import LabelInventory
from gfm_pipeline.core.contracts.ingest.report import ElementCount, Histogram, IngestReport, SetAside

BINS = 48
_TAIL = 0.001  # of each side shares the outermost bin, so that one outlier does not make all the rest one bar


def of_values(values: NDArray[np.float64]) -> Histogram:
    """Return the histogram of numbers [G], possibly none; if nearly all are equal, one bin of zero width holds all."""
    if not len(values):
        return Histogram((), ())
    low, high = (float(v) for v in np.quantile(values, [_TAIL, 1.0 - _TAIL]))
    if not high > low:
        return Histogram((low, low), (len(values),))
    counts, edges = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def of_sizes(sizes: Mapping[int, int]) -> Histogram:
    """Return the histogram of whole numbers from their counts; all bins hold equally many whole numbers."""
    values = np.array(sorted(sizes), dtype=np.int64)
    often = np.array([sizes[n] for n in values.tolist()], dtype=np.int64)
    below = np.cumsum(often)
    low, high = (int(values[np.searchsorted(below, share * below[-1])]) for share in (_TAIL, 1.0 - _TAIL))
    width = -(-(high - low + 1) // BINS)
    bins = -(-(high - low + 1) // width)
    counts = np.zeros(bins, np.int64)
    np.add.at(counts, np.clip((values - low) // width, 0, bins - 1), often)
    return Histogram(tuple(low - 0.5 + width * k for k in range(bins + 1)), tuple(counts.tolist()))


def coarser(histogram: Histogram, bins: int) -> Histogram:
    """Return the histogram with neighbouring bins joined to at most ``bins``."""
    step = -(-len(histogram.counts) // bins)
    starts = range(0, len(histogram.counts), step)
    edges = (*(histogram.edges[k] for k in starts), histogram.edges[-1])
    return Histogram(edges, tuple(sum(histogram.counts[k : k + step]) for k in starts))


def ingest_report(
    totals: Totals, read: int, set_aside: tuple[SetAside, ...], passed_over: dict[str, int], labels: LabelInventory
) -> IngestReport:
    """Return the report of a source after reading ``read`` records."""
    return IngestReport(
        read=read,
        set_aside=set_aside,
        elements=tuple(
            ElementCount(chemical_symbols[z], totals.atoms_of[z], totals.structures_with[z])
            for z in sorted(totals.atoms_of)
        ),
        sizes=of_sizes(totals.sizes),
        energies=of_values(totals.energies()),
        forces=of_values(totals.forces()),
        structures=sum(s.structures for s in totals.sums.values()),
        components=sum(3 * s.force_atoms for s in totals.sums.values()),
        passed_over=passed_over,
        labels=labels,
        targets={name: of_values(one.values()) for name, one in totals.of_targets.items()},
    )
