"""Histograms of a dataset as numbers: nothing is lost, and they are those of the structures in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_numbers
from ingest_cases import ALLOYS, all_columns, run_all

from gfm_pipeline.apps.ingest.summary.histograms import coarser, of_sizes, of_values
from gfm_pipeline.apps.ingest.summary.references import residual
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.ingest.report import REPORT_DATA_FILE, Histogram, IngestReport
from gfm_pipeline.core.records import read_record


def test_histograms_count_what_the_dataset_holds(tmp_path: Path) -> None:
    result = run_all(tmp_path, SourceSettings("alloys", "emt-alloys", options=ALLOYS))
    stats, columns = result.statistics, all_columns(result)
    found = read_record(IngestReport, Path(result.output) / REPORT_DATA_FILE)
    assert (found.read, found.set_aside) == (len(columns), ())
    assert tuple(e.symbol for e in found.elements) == stats.elements
    graph = np.repeat(np.arange(len(columns)), columns.natoms)
    for element in found.elements:
        mine = columns.numbers == atomic_numbers[element.symbol]
        assert (element.atoms, element.structures) == (int(mine.sum()), len(np.unique(graph[mine])))
    assert found.sizes == Histogram((3.5, 4.5, 5.5, 6.5), tuple(np.bincount(columns.natoms, minlength=7)[4:].tolist()))
    energies = residual(columns, stats.reference)
    low, high = np.quantile(energies, [0.001, 0.999])
    assert found.energies.edges[0] == pytest.approx(low, abs=1e-9)
    assert found.energies.edges[-1] == pytest.approx(high, abs=1e-9)
    assert sum(found.energies.counts) == len(columns)
    forces = np.abs(columns.forces).ravel()
    assert (found.structures, found.components) == (len(columns), len(forces))
    middle = found.forces.edges[24]
    assert sum(found.forces.counts[:24]) == np.count_nonzero(forces < middle)
    assert sum(found.forces.counts) == len(forces)


def test_histograms_of_any_numbers_lose_none() -> None:
    sizes = {1: 3, 2: 1, 300: 5, 9000: 1}
    wide = of_sizes(sizes)
    assert (sum(wide.counts), len(wide.counts)) == (10, len(wide.edges) - 1)
    assert wide.counts[0] == 4
    assert wide.counts[-1] == 1
    many = of_sizes(dict.fromkeys(range(1, 97), 20) | {5000: 1})
    assert many == Histogram(tuple(0.5 + 2 * k for k in range(49)), (40,) * 47 + (41,))
    assert of_values(np.zeros(0)) == Histogram((), ())
    assert of_sizes({7: 4}) == Histogram((6.5, 7.5), (4,))
    assert of_values(np.full(9, 2.5)) == Histogram((2.5, 2.5), (9,))
    outlier = of_values(np.append(np.linspace(0.0, 1.0, 9999), 1e6))
    assert outlier.edges[-1] < 1.01
    assert sum(outlier.counts) == 10_000
    fine = of_values(np.linspace(0.0, 1.0, 1000))
    for bins in (1, 12, 13, 48, 100):
        joined = coarser(fine, bins)
        assert len(joined.counts) <= bins
        assert len(joined.edges) == len(joined.counts) + 1
        assert (joined.edges[0], joined.edges[-1]) == (fine.edges[0], fine.edges[-1])
        assert sum(joined.counts) == 1000
