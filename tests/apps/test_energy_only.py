"""Sources without forces: read for their energies, learned from, and judged by them alone."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from source_cases import crystals, ingest, joined
from training_cases import small_spec

from gfm_pipeline.apps.calibrate.fit import calibrate
from gfm_pipeline.apps.calibrate.predict import predict
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.dataset.inspect import head, verify
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.checkpoint import load
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.data import ForceSign, SourceSettings, Split
from gfm_pipeline.core.contracts.evaluation import CalibrateSpec, MemberRef, PredictSpec
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.contracts.ingest.report import REPORT_DATA_FILE, Histogram, IngestReport
from gfm_pipeline.core.contracts.sources import force_label
from gfm_pipeline.core.contracts.training import DatasetRef
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.core.records import read_record

N = 160


def table(path: Path) -> Path:
    """Write cubic salts of three sizes and four anions, whose energy is a parabola of the lattice constant."""
    rng = np.random.default_rng(5)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["material_id", "energy", "cif"])
        for k in range(N):
            anion, a = ("H", "F", "Cl", "O")[k % 4], float(rng.uniform(2.4, 3.4))
            cell = Structure(Lattice.cubic(a), ["Na", anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
            writer.writerow([f"m{k}", -8.0 - k % 4 + 6.0 * (a - 2.9) ** 2, cell.to(fmt="cif")])
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceSettings:
    path = table(tmp_path_factory.mktemp("cif") / "salts.csv")
    return SourceSettings(
        "salts", "cif-csv", (str(path),), {"cif": "cif"}, group_key="material_id", forces_are=ForceSign.NONE
    )


def test_all_records_are_kept_and_the_report_says_that_there_are_no_forces(
    tmp_path: Path, source: SourceSettings
) -> None:
    dataset = Dataset.open(ingest(tmp_path / "in", source, max_quarantined=0.0), digests=True)
    columns, facts = joined(dataset), dataset.statistics
    assert (len(columns), facts.n_quarantined) == (N, 0)
    assert np.isnan(columns.forces).all()
    assert (facts.force_rms, set(facts.null_force_mae.values())) == (0.0, {0.0})
    assert min(facts.null_energy_mae.values()) > 0.05
    assert verify(dataset)["structures"] == N
    assert {line.max_force for lines in head(dataset, 3).values() for line in lines} == {None}
    report = (dataset.path / "ingest_report.md").read_text()
    numbers = read_record(IngestReport, dataset.path / REPORT_DATA_FILE)
    assert (numbers.structures, numbers.components, numbers.forces) == (N, 0, Histogram((), ()))
    assert sum(numbers.energies.counts) == N
    assert "Energies alone are read" in report
    assert "## Absolute force components (eV/Å)\n\n```\nnone\n```" in report


def test_the_preview_shows_energies(source: SourceSettings) -> None:
    seen = preview(PreviewSpec(source, 1))
    assert (seen.read, seen.usable, seen.forces) == (N, N, None)
    assert seen.energies is not None
    assert seen.units["force label"] == "none"
    assert {look.name: look.passed for look in seen.checks}["distances of neighbours"]


def test_training_learns_the_energies_and_calibrates_them_alone(tmp_path: Path, source: SourceSettings) -> None:
    ref = DatasetRef("salts", str(ingest(tmp_path / "in", source)))
    spec = small_spec((ref,), tmp_path / "model")
    spec = replace(spec, model=replace(spec.model, cutoff=4.0), budget_graphs=2400, validate_every=800)
    (tmp_path / "train").mkdir()
    result, _ = train(spec, Task(tmp_path / "train"))
    errors = result.errors["salts"]
    assert errors.energy_mae < 0.5 * errors.null_energy_mae
    assert (errors.force_mae, errors.null_force_mae) == (0.0, 0.0)
    card = load(tmp_path / "model").card
    assert card.force_rms == (Dataset.open(Path(ref.path)).statistics.energy_std,)
    (tmp_path / "task").mkdir()
    predict(PredictSpec("a", str(tmp_path / "model"), (ref,), str(tmp_path / "seen")), Task(tmp_path / "task"))
    member = MemberRef("a", str(tmp_path / "model"), str(tmp_path / "seen"))
    found = calibrate(CalibrateSpec((member,), (ref,), 0.9, str(tmp_path / "fit"), 1), Task(tmp_path / "task"))
    report = found.datasets["salts"]
    assert report.energy.n == Dataset.open(Path(ref.path)).statistics.n_structures[Split.TEST]
    assert report.energy.mae < 0.5 * report.energy.null_mae
    assert report.forces.n == 0


def test_forces_are_wanted_unless_the_source_says_that_it_has_none(tmp_path: Path, source: SourceSettings) -> None:
    with pytest.raises(DataError, match=f"all {N} were set aside \\({N} x no forces\\)"):
        ingest(tmp_path / "in", replace(source, forces_are=ForceSign.FORCES))
    # and forces that are there are not read when it says so
    ignored = SourceSettings(
        "cu", "ase", (str(crystals(tmp_path / "cu.xyz", 40)),), group_key="@record", forces_are=ForceSign.NONE
    )
    assert np.isnan(joined(Dataset.open(ingest(tmp_path / "ignored", ignored))).forces).all()


def test_a_reader_without_forces_needs_no_word_about_them() -> None:
    assert force_label("cif-csv", None) is force_label("cif-csv", ForceSign.NONE) is ForceSign.NONE
    assert force_label("ase", None) is ForceSign.FORCES
    assert force_label("ase", ForceSign.NONE) is ForceSign.NONE
    with pytest.raises(ConfigError, match="gives no gradients"):
        force_label("cif-csv", ForceSign.GRADIENTS)


def test_real_oxides_are_read_for_their_energies(tmp_path: Path, real_data: Path) -> None:
    files = (str(real_data / "oxides" / "oxides.db"),)
    oxides = SourceSettings("oxides", "ase", files, forces_are=ForceSign.NONE)
    dataset = Dataset.open(ingest(tmp_path / "in", oxides, max_quarantined=0.99))
    assert set(dataset.statistics.reasons) <= {"no energy", "duplicate"}
    assert sum(dataset.statistics.n_structures.values()) > 100
