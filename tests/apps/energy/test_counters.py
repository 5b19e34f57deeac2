"""Counters that wrap around, begin anew, stand still or are gone; each joule is read once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from counter_tree import CrayTree, RaplTree
from hypothesis import given
from hypothesis import strategies as st

from gfm_pipeline.apps.energy.counter_mark import Mark, advance
from gfm_pipeline.apps.energy.node_meter import NodeMeter, readable
from gfm_pipeline.core.contracts.energy import (
    SOURCES,
    CounterReading,
    EnergyLabel,
    EnergyPlan,
    EnergyScope,
    EnergyUse,
    source_order,
    total,
)
from gfm_pipeline.core.errors import ConfigError

RANGE = 1000.0


def reading(joules: float, ranged: bool = True) -> CounterReading:
    return CounterReading(joules, EnergyScope.PACKAGE, 0.1, RANGE if ranged else None)


@given(st.lists(st.floats(0.0, RANGE * 0.9), min_size=1, max_size=30), st.floats(0.0, RANGE))
def test_a_counter_that_wraps_around_loses_nothing(steps, first):
    mark, counted, shown = Mark(0.0, first), 0.0, first
    for number, step in enumerate(steps):
        shown = (shown + step) % RANGE
        found = advance(mark, reading(shown), number + 1.0)
        mark, counted = found.mark, counted + found.joules
        assert found.guess == 0.0
    assert counted == pytest.approx(sum(steps), abs=1e-6)


def test_one_that_begins_anew_goes_on_at_its_mean_power_for_the_time_that_was_lost():
    mark = advance(Mark(0.0, 100.0), reading(600.0, ranged=False), 5.0).mark  # 100 W
    found = advance(mark, reading(3.0, ranged=False), 7.0)
    assert (found.joules, found.guess) == (200.0, 200.0)
    assert advance(found.mark, reading(103.0, ranged=False), 8.0).joules == pytest.approx(100.0)


def test_a_gap_is_guessed_and_the_guess_is_replaced_when_the_counter_comes_back():
    mark = advance(Mark(0.0, 0.0), reading(500.0, ranged=False), 5.0).mark  # 100 W
    assert advance(mark, None, 8.0).joules == 0.0  # nobody is nervous after 3 s
    gone = advance(mark, None, 25.0)
    assert (gone.joules, gone.guess) == (2000.0, 2000.0)
    back = advance(gone.mark, reading(1500.0, ranged=False), 30.0)
    assert gone.joules + back.joules == pytest.approx(1000.0)
    assert gone.guess + back.guess == 0.0


def test_a_counter_that_stands_still_is_not_at_work():
    mark = advance(Mark(0.0, 0.0), reading(500.0), 5.0).mark
    assert advance(mark, reading(500.0), 45.0).joules == pytest.approx(100.0 * 40)


def test_the_counter_of_a_node_has_the_others_in_it(tmp_path):
    cray, rapl = CrayTree(tmp_path / "cray", 5000.0), RaplTree(tmp_path / "rapl")
    roots = {"pm_counters": str(cray.root), "rapl": str(rapl.root)}
    meter = NodeMeter(EnergyPlan(source_order(), roots))
    assert meter.source == "pm_counters"
    assert {name: r.joules for name, r in meter.read().items()} == {"pm_counters:node": 5000.0}
    assert meter.read()["pm_counters:node"].period_seconds == 0.1


def test_processors_are_read_with_their_memory_and_neither_cores_nor_the_sensor_of_all(tmp_path):
    rapl = RaplTree(tmp_path / "rapl")
    meter = NodeMeter(EnergyPlan(("pm_counters", "rapl"), {"pm_counters": str(tmp_path), "rapl": str(rapl.root)}))
    assert meter.source == "rapl"
    assert "No such file" in meter.trouble["pm_counters"]
    zones = [name.removeprefix("rapl:") for name in meter.read()]
    assert zones == ["intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:1:1"]
    assert {r.range_joules for r in meter.read().values()} == {RaplTree.RANGE / 1e6}


@pytest.mark.parametrize("text", ["", "12 W 3 us", "many J 3 us", "\x00\x00"])
def test_a_file_that_is_no_counter_is_named(tmp_path, text):
    cray = CrayTree(tmp_path / "cray")
    (cray.root / "energy").write_text(text)
    found, trouble = readable(("pm_counters",), {"pm_counters": str(cray.root)})
    assert not found
    assert "energy" in trouble["pm_counters"]


def test_sources_are_tried_in_the_declared_order_and_packages_may_add_some():
    assert source_order()[:4] == ("pm_counters", "nvml", "amd_smi", "rapl")
    with pytest.raises(ConfigError, match=r"no energy source 'rapls'.*\n?.*Did you mean rapl"):
        SOURCES.describe("rapls")


def test_a_sum_is_as_sure_as_its_least_sure_part():
    uses = [
        EnergyUse(10.0, 1.0, EnergyLabel.MEASURED, "nvml+rapl", 2.0),
        EnergyUse(5.0, 2.0, EnergyLabel.ATTRIBUTED, "rapl", 1.0),
    ]
    assert total(uses) == EnergyUse(15.0, 3.0, EnergyLabel.ATTRIBUTED, "nvml+rapl", 3.0)
    modelled = EnergyUse(1.0, None, EnergyLabel.MODELLED, "node model", 1.0)
    assert total([*uses, modelled]).label is EnergyLabel.MODELLED
    assert total([*uses, modelled]).error is None
    assert total([]) is None


def test_nothing_heavy_is_imported_to_count():
    heavy = "'torch', 'numpy', 'pydantic'"
    code = f"import sys, gfm_pipeline.apps.energy.attempt_meter; print(*(m for m in ({heavy}) if m in sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""
