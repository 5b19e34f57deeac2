"""Models of other packages through all four stages, stopped and resumed twice, exported, and asked for forces.

One is the pair potential of docs/add-an-algorithm.md, any callable of its own; the others are mace-torch and nequip
where they are installed. Each is searched beside an algorithm of ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
from ase.build import bulk
from foreign_packages import OPTIONS, own_results, skip_unless_installed
from lab_package import install

from gfm_pipeline import Campaign
from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.deploy.bundle import load_bundle
from gfm_pipeline.campaign import events as ev

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of packages of their own age

WORKFLOW = """\
name: foreign
seed: 3
data:
  sources:
    alloys:
      reader: emt-alloys
      options: {{parents: 30, children: 2, sizes: [4], metals: [Cu, Au]}}
  validation: 0.25
  test: 0.25
search:
  candidates: 2
  asynchronous: false
  rungs: [160]
  space:
    algorithm: [{name}, {ours}]
    hidden: 8
    layers: 2
    cutoff: 4.5
    learning_rate: 0.01
    batch_size: 8
    per_algorithm:
      {options}
converge: {{members: 2, check_every: 160, patience: 1, max_graphs: 320}}
"""
SITE = """\
name: here
description: This machine
scheduler: {{kind: local}}
slots: 2
compile_training: never
driver: {{address: 127.0.0.1}}
environment: {{PYTHONPATH: "{path}"}}
"""


@pytest.fixture(scope="module", params=["Pairs", *OPTIONS])
def finished(request, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Yield the algorithm, and the folder of a campaign that was stopped in search and in converge."""
    name = request.param
    skip_unless_installed(name)
    folder = tmp_path_factory.mktemp(name.lower())
    path = [str(folder / "site-packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("OMP_NUM_THREADS", "1")
        if name == "Pairs":
            install(folder / "site-packages")
            patch.syspath_prepend(path[0])
        ours = "Gated" if name == "Pairs" else "SchNet"
        options = "{" + ", ".join(f"options.{key}: {value}" for key, value in OPTIONS.get(name, {}).items()) + "}"
        own = "Gated: {options.gates: 1}" if name == "Pairs" else f"{name}: {options}"
        (folder / "w.yaml").write_text(WORKFLOW.format(name=name, ours=ours, options=own))
        (folder / "site.yaml").write_text(SITE.format(path=os.pathsep.join(path)))
        campaign = folder / "campaigns" / "foreign"
        process = runs.start(folder, "run", "w.yaml", "--site", "site.yaml")
        for begun in ("c0", "m0"):
            runs.wait_for(campaign / "journal.jsonl", _is_begun(begun, process))
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(timeout=120) == 3, (folder / "driver.log").read_text()[-3000:]
            process = runs.start(folder, "resume", "campaigns/foreign")
        assert process.wait(timeout=400) == 0, (folder / "driver.log").read_text()[-3000:]
        yield name, campaign


def _is_begun(prefix: str, process: subprocess.Popen[bytes]) -> Callable[[ev.Event], bool]:
    def begun(event: ev.Event) -> bool:
        assert process.poll() is None, "the driver ended early; see driver.log"
        return isinstance(event, ev.TaskStarted) and event.task.startswith(prefix)

    return begun


def test_it_is_searched_converged_and_calibrated_beside_ours(finished) -> None:
    name, folder = finished
    stories = runs.starts(folder / "journal.jsonl")
    trained = {task: story for task, story in stories.items() if task[0] in "cm"}
    assert len(trained) == 4
    assert all(story[-1] == "ok" and set(story) <= {"start", "ok", "preempted"} for story in trained.values()), trained
    assert any("preempted" in story for story in trained.values())
    cards = [json.loads(p.read_text()) for p in folder.glob("stages/converge-*/**/model.json")]
    by_algorithm = {card["spec"]["algorithm"]: card for card in cards}
    assert set(by_algorithm) == {name, "Gated" if name == "Pairs" else "SchNet"}
    view = Campaign(folder).status()
    assert [stage.status for stage in view.stages] == ["done"] * 4
    assert view.calibration is not None
    report = view.calibration.datasets["alloys"]
    assert 0 < report.forces.mae < report.forces.null_mae


def test_its_exported_ensemble_gives_forces_that_are_gradients_and_its_own_numbers(finished, tmp_path) -> None:
    name, folder = finished
    runs.output(folder.parents[1], "export", "campaigns/foreign", "--output", str(tmp_path / "model.gfm"))
    calculator = GFMCalculator(tmp_path / "model.gfm", dtype="float64")
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.symbols[::3] = "Au"
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator
    forces, h = atoms.get_forces(), 1e-4
    for atom, axis in ((0, 0), (5, 2)):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * h
            moved.calc = calculator
            ends.append(moved.get_potential_energy())
        assert (ends[1] - ends[0]) / (2 * h) == pytest.approx(forces[atom, axis], abs=1e-5)
    assert np.abs(forces).max() > 1e-2
    if name in OPTIONS:
        alone = member_alone(load_bundle(tmp_path / "model.gfm"), name)
        atoms.calc = GFMCalculator(alone, dtype="float64")
        potential = alone.members[0].potential.double()
        unit = potential.spec.force_rms * potential.node_energy.scale.item()
        np.testing.assert_allclose(atoms.get_forces(), unit * own_results(potential, atoms)["forces"], atol=1e-6)


def member_alone(ensemble: Ensemble, algorithm: str) -> Ensemble:
    """Return an ensemble of the member of one algorithm."""
    (place,) = [k for k, m in enumerate(ensemble.members) if m.card.spec.algorithm == algorithm]
    member, calibration = ensemble.calibration.members[place], ensemble.calibration
    datasets = {name: replace(one, weights={}) for name, one in calibration.datasets.items()}
    alone = replace(calibration, members=(member,), datasets=datasets)
    return replace(ensemble, members=(ensemble.members[place],), calibration=alone)
