"""What is advised, and what the command says to people, to programs, and of bad input."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import BaseModel
from simulations import MACHINE, RESOURCES, WORKFLOW, simulation

from gfm_pipeline.cli.main import invoke
from gfm_pipeline.simulate.advice import best, spares
from gfm_pipeline.simulate.request import simulated
from gfm_pipeline.simulate.result import SimulationOutcome, Variant
from gfm_pipeline.simulate.scenario import ScenarioModel

DOCS = Path(__file__).parents[2] / "docs" / "simulate.md"


def test_spare_nodes_are_enough_for_the_failures_of_a_job():
    rate = 1 / (1.8 * 3600 * 16_384) * 8  # of a node of eight GPUs
    assert spares(rate, 8192, 12.0) == 35  # a mean of 26.7, and Poisson's scatter
    assert spares(rate, 8192, 1.0) < spares(rate, 8192, 12.0)
    assert spares(0.0, 8192, 12.0) == 0


def test_the_cheapest_of_those_that_are_not_much_slower_is_best():
    large, small, tiny = (Variant(n, (1,), h, h, n * h, 0.9) for n, h in ((8, 1.0), (4, 1.2), (1, 3.0)))
    assert best([large, small, tiny]) is small


def test_other_allocations_are_compared(tmp_path):
    found = simulated(simulation(tmp_path, "scenario.cost.scale=30"), compare=True)
    assert found.advice is not None
    assert found.advice.best in found.advice.variants
    assert [v.nodes for v in found.advice.variants] == [8, 4, 16, 8]
    assert found.advice.variants[1].hours > found.advice.variants[0].hours  # on half of the nodes
    assert [v.trial_nodes for v in found.advice.variants][3] == (2, 2)


def files(folder: Path) -> list[str]:
    (folder / "w.yaml").write_text(WORKFLOW + RESOURCES)
    (folder / "machine.yaml").write_text(MACHINE.replace("MODE", "resident"))
    return ["simulate", str(folder / "w.yaml"), "--site", str(folder / "machine.yaml")]


def test_the_command_prints_text_and_json(tmp_path, capsys):
    assert invoke([*files(tmp_path), "--no-compare", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    assert "Nothing was run" in text
    for word in ("occupancy", "node-hours", "kWh", "tail of a stage", "by Daly", "spare nodes"):
        assert word in text
    assert invoke([*files(tmp_path), "--no-compare", "--seed", "3", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["scenario"]["seed"] == 3
    assert {f.name for f in fields(SimulationOutcome)} <= data.keys()
    assert not (tmp_path / "campaigns").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "scenario.failures.mean_hour=1"], "Did you mean 'mean_hours'"),
        (["--set", "scenario.failures.mean_hours=-1"], "--set scenario.failures.mean_hours"),
        (["--scenario", "nowhere.yaml"], "There is no scenario file nowhere.yaml"),
        (["--scenario", "BAD"], "bad.yaml:2: "),
        (["--from", "nowhere"], "nowhere holds no campaign"),
        (["--set", "search.candidates=0"], "search.candidates"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, words, said):
    (tmp_path / "bad.yaml").write_text("batch:\n  wait_hours: soon\n")
    words = [str(tmp_path / "bad.yaml") if word == "BAD" else word for word in words]
    assert invoke([*files(tmp_path), *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out


def test_a_simulation_and_a_campaign_never_share_a_folder(tmp_path, capsys):
    words = [*files(tmp_path), "--no-compare", "--campaign", str(tmp_path / "c")]
    assert invoke(words) == 0
    assert invoke(["status", str(tmp_path / "c"), "--json"]) == 0
    assert invoke(words) == 2
    assert "holds a simulation already" in capsys.readouterr().err
    assert invoke(["plan", *files(tmp_path)[1:], "--campaign", str(tmp_path / "c")]) == 2
    assert "a simulation, whose results are made up" in capsys.readouterr().err


def test_the_page_lists_every_key_with_its_default():
    page = DOCS.read_text()

    def keys(model: type[BaseModel], before: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found += keys(inner, f"{before}{name}.")
            else:
                found.append(f"| `{before}{name}` | `{json.dumps(field.default)}` | {field.description} |")
        return found

    missing = [row for row in keys(ScenarioModel) if row not in page]
    assert not missing
