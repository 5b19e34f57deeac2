"""Small simulations for tests: the workflow, two machines, and how one is run."""

from __future__ import annotations

from pathlib import Path

from gfm_pipeline.simulate.request import SimulationRequest, simulated
from gfm_pipeline.simulate.result import SimulationOutcome

WORKFLOW = """\
name: simulated
seed: 3
data:
  sources: {alloys: {reader: emt-alloys, shards: 2}}
search:
  candidates: 24
  asynchronous: false
  wave: 8
  rungs: [20000, 60000]
  reduction: 3
  proposals: random
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [32, 64]
    batch_size: [64, 128]
    learning_rate: {low: 1e-4, high: 1e-2, scale: log}
converge: {members: 2, check_every: 20000, max_graphs: 200000}
"""
RESOURCES = """\
resources: {search: {nodes: 1, ranks_per_node: 4}, converge: {nodes: 2, ranks_per_node: 4}}
allocation: {nodes: 8, hours: 4}
"""
MACHINE = """\
extends: slurm
name: machine
description: A machine that is simulated
node: {cores: 64, gpus: 4}
gpu: {runtime: cuda, visible_variable: CUDA_VISIBLE_DEVICES}
scheduler:
  default_queue: batch
  queues: {batch: {bins: [{max_nodes: 64, max_hours: 12}], as_of: 2026-11, source: tests}}
driver: {mode: MODE, spare_share: 0.0}
energy: {node_watts: 2000}
"""


def simulation(
    folder: Path, *overrides: str, mode: str = "resident", text: str = WORKFLOW + RESOURCES
) -> SimulationRequest:
    """Write a workflow and a machine into ``folder``, and return what to simulate."""
    (folder / "w.yaml").write_text(text)
    (folder / "machine.yaml").write_text(MACHINE.replace("MODE", mode))
    quiet = ("scenario.stragglers.share=0", "scenario.curve.diverged=0")
    return SimulationRequest(folder / "w.yaml", str(folder / "machine.yaml"), overrides=(*quiet, *overrides))


def run(folder: Path, *overrides: str, mode: str = "resident", text: str = WORKFLOW + RESOURCES) -> SimulationOutcome:
    """Simulate, and return what was found."""
    return simulated(simulation(folder, *overrides, mode=mode, text=text), compare=False)
