"""Launches on a real Slurm: of several sizes beside each other, shared by trainings, and cut by the wall time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bed_campaigns import WORKFLOW, Run, pretended, reference, sizes_together
from machines import FRONTIER, PERLMUTTER, Machine

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow


MIXED = f"""{WORKFLOW.partition("search:")[0]}search:
  candidates: 8
  asynchronous: false
  wave: 4
  rungs: [100, 200, 400]
  reduction: 2
  space: {{algorithm: [SchNet, EGNN, PaiNN, PNA], hidden: [8, 16]}}
converge: {{members: 1, check_every: 100, max_graphs: 800}}
"""


def test_trials_of_one_two_and_four_nodes_beside_each_other(start):
    # Six nodes hold a wave and a half. The rest of the second wave is slow, and leaves room for two trainings on two
    # nodes, or one on four: the first wave's later rungs.
    run = start(PERLMUTTER, "resident", nodes=6, search=(1, 2, 4), converge=1, workflow=MIXED, step_seconds=0.1)
    run.pace(3.0, "c00006-r0", "c00007-r0")
    run.wait_for(lambda events: any(isinstance(e, ev.MembersSelected) for e in events))
    run.cancel()
    # None was sent to a worker pool that had been ended for another size's and was still thought alive.
    assert {e.cause for e in run.events() if isinstance(e, ev.TaskEnded) and e.task.startswith("c")} == {
        ev.Cause.FINISHED
    }
    moments = sizes_together(run)
    assert set().union(*moments) == {1, 2, 4}
    assert max(map(len, moments)) > 1


MANY = f"""{WORKFLOW.partition("search:")[0]}search:
  candidates: 12
  asynchronous: false
  wave: 8
  rungs: [100, 200]
  reduction: 2
  space: {{algorithm: [SchNet, EGNN], hidden: [8, 16], batch_size: [BATCH]}}
converge: {{members: 2, check_every: 100, max_graphs: 400}}
"""
FEW_LAUNCHES = "max_steps: 2\nmax_sub_node_nodes: 1"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same campaigns on this machine alone, by the size of a batch: a training has at most so many ranks."""
    return {n: reference(tmp_path_factory.mktemp("many"), MANY.replace("BATCH", str(n))) for n in (3, 8)}


def start_many(start, many, machine: Machine, nodes: str | tuple[int, ...], mode: str, seconds: float = 0.05):
    """Start the campaign whose launches are few; return it with the same one that ran on one machine."""
    batch = 3 if nodes == "auto" else 8
    asked = MANY.replace("BATCH", str(batch))
    run = start(machine, mode, search=nodes, converge=1, workflow=asked, limits=FEW_LAUNCHES, step_seconds=seconds)
    return run, many[batch]


def launches_are_right(run: Run, largest: int) -> None:
    """All trainings of the search shared launches, the fullest by ``largest``, each with its own ranks and GPUs."""
    machine = run.machine
    launches = [
        json.loads(p.read_text())["members"] for p in run.campaign.glob("stages/search-*/launches/*/group.json")
    ]
    assert max(map(len, launches)) == largest
    # Ended trainings left their places to others, with numbers beyond those of the first.
    assert any(member["number"] >= len(launch) for launch in launches for member in launch)
    members = {p.parent.parent.name for p in run.campaign.glob("stages/search-*/tasks/*/attempt-*/wrap.json")}
    finished = run.finished()
    searched = [s for s in run.starts() if s.task.startswith("c")]
    assert members == {s.task for s in searched}
    complete = 0
    for started in (s for s in searched if (s.task, s.attempt) in finished):
        seen = run.seen(started)
        assert list(started.nodes) == run.nodes_of(started)
        # Pretended ranks do not wait for each other, so one that comes late to a place may miss its training.
        ranks = [int(one["RANK"] or 0) for one in seen]
        assert set(ranks) <= set(range(machine.ranks))
        complete += ranks == list(range(machine.ranks))
        slots = [machine.rank_gpus[i : i + machine.ranks] for i in range(0, machine.gpus, machine.ranks)]
        masks = [one[machine.mask] for one in seen]
        assert masks in [[str(slot[rank]) for rank in ranks] for slot in slots]
    assert complete >= largest


def test_trainings_on_parts_of_nodes_share_a_launch_and_outlive_its_death(start, many):
    """They go on from their checkpoints, in other launches."""
    run, alone = start_many(start, many, PERLMUTTER, "auto", "resident", 0.5)
    ranks = PERLMUTTER.ranks
    run.wait_for(lambda _: sum(len(run.seen(s)) == ranks for s in run.training()) >= 4)
    step = next(run.campaign.glob("stages/search-*/launches/*/step")).read_text().strip()
    run.bed.command("scancel", "--signal=KILL", step)
    run.wait_for(lambda events: any(isinstance(e, ev.TaskEnded) and e.cause is ev.Cause.TROUBLE for e in events))
    run.pace(0.05)
    run.to_the_end()
    pretended.assert_same(run.folder, alone)
    launches_are_right(run, 4)


@pytest.mark.parametrize(
    ("machine", "nodes", "mode", "largest"),
    [
        (FRONTIER, (1, 1), "resident", 2),
        pytest.param(PERLMUTTER, "auto", "pilot", 4, marks=pytest.mark.long),
    ],
    ids=["whole-nodes", "parts-of-nodes-pilot"],
)
def test_trainings_share_a_launch(start, many, machine, nodes, mode, largest):
    run, alone = start_many(start, many, machine, nodes, mode)
    run.to_the_end()
    pretended.assert_same(run.folder, alone)
    launches_are_right(run, largest)


def test_the_wall_time_ends_in_the_middle_of_the_search(start, whole):
    """Warned, the driver saves and leaves; the job after it goes on where this one stopped."""
    run = start(PERLMUTTER, "resident", hours=2 / 60, step_seconds=15)  # a trial of the first rung has ten
    run.wait_for(lambda events: any(isinstance(e, ev.DriverEnded) for e in events))
    run.pace(0.01)
    run.to_the_end()
    pretended.assert_same(run.folder, whole)
    assert len([e for e in run.events() if isinstance(e, ev.DriverStarted)]) > 1
    stopped = [e for e in run.events() if isinstance(e, ev.TaskEnded) and e.cause is ev.Cause.STOPPED]
    assert stopped
    assert {e.reason for e in stopped} == {"asked to stop; checkpoint saved"}
    assert {e.task.partition("-")[2] for e in stopped} <= {"r0", "r1"}  # trials of the search
