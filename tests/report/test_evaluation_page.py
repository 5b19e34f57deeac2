"""The page of ``evaluate``: every target with labels, figures of a sample, the errors of all entries."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from gfm_pipeline.apps.deploy.errors_by_group import ErrorTable
from gfm_pipeline.apps.deploy.samples import EntrySample
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.contracts.evaluation import figure_key
from gfm_pipeline.core.contracts.targets import ENERGY

CAMPAIGN = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"


def test_the_page_holds_tables_and_figures_and_asks_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = []
    for k in range(6):
        atoms = bulk(("Cu", "Au")[k % 2], cubic=True)
        atoms.rattle(0.08, seed=k)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    write(tmp_path / "some <b>.extxyz", frames)
    page = tmp_path / "errors.html"
    command = ["evaluate", str(CAMPAIGN), str(tmp_path / "some <b>.extxyz"), "--report", str(page)]
    assert invoke(command) == 0
    shown = capsys.readouterr().out
    text = page.read_text()
    assert text.count("<svg") == 6  # three figures each of energies and forces
    assert "some &lt;b&gt;.extxyz" in text
    assert "<b>.extxyz" not in text
    assert not re.search(r"<(script|link|img|iframe)|url\((?!#)|[( ]src=|href=(?!.(#|data:))", text)
    (printed,) = re.findall(r"forces\W+all\W+all\W+72\W+([\d.]+)", shown)
    (cell,) = re.findall(r"forces, [^<]*</td><td[^>]*>all</td>.*?>72</td><td[^>]*>([\d.]+)</td>", text)
    assert float(printed) == pytest.approx(float(cell), rel=0.01)
    assert invoke(command) == 2
    assert "exists. Give another name, or --overwrite." in capsys.readouterr().err


def test_a_sample_of_many_entries_is_uniform_and_repeatable() -> None:
    def drawn() -> np.ndarray:
        sample = EntrySample(most=500)
        for k in range(100):
            values = np.arange(100.0) + 100 * k
            sample.add("energy", values, values + 1.0, np.ones(100), None)
        return sample.figures("d", 0.9)[figure_key("d", "energy", "label")]

    first = drawn()
    assert len(set(first)) == 500
    assert abs(first.mean() - 4999.5) < 5 * 2887 / np.sqrt(500)
    np.testing.assert_array_equal(first, drawn())


def test_tables_of_parts_add_up_to_that_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    whole, first, second = (ErrorTable((ENERGY,)) for _ in range(3))
    for k in range(12):
        atoms = bulk(("Cu", "Au")[k % 2]).repeat((1 + k % 3, 1, 1))
        label, error, interval = rng.normal(size=3)
        results = {"energy": label + error, "energy_std": 0.1, "energy_interval": abs(interval)}
        for table in (whole, first if k < 5 else second):
            table.add(("f", k), atoms, {"energy": label}, results, f"g{k % 2}")
    first.merge(second.state())
    assert {(e.by, e.group) for e in first.errors()} == {(e.by, e.group) for e in whole.errors()}
    for one, other in zip(
        sorted(first.errors(), key=lambda e: (e.by, e.group)),
        sorted(whole.errors(), key=lambda e: (e.by, e.group)),
        strict=True,
    ):
        assert (one.entries, one.coverage, one.coverage_error) == (other.entries, other.coverage, other.coverage_error)
        assert (one.mae, one.rmse) == pytest.approx((other.mae, other.rmse))
    assert [w.record for w in first.worst()] == [w.record for w in whole.worst()]
