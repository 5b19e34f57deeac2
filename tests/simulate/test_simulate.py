"""A simulated campaign is driven by the driver of real ones, and what it finds is what was put in."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from simulations import RESOURCES, WORKFLOW, run, simulation

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.simulate.cluster import Cluster, Held
from gfm_pipeline.simulate.ledger import Ledger, Use
from gfm_pipeline.simulate.request import simulated
from gfm_pipeline.simulate.result import daly, young

EXACT = (
    "scenario.cost.scatter=0",
    "scenario.cost.hand_over_seconds=0",
    "scenario.cost.startup_seconds=0",
    "scenario.cost.workers_seconds=0",
    "scenario.cost.checkpoint_seconds=0",
    "scenario.driver.start_seconds=0",
    "scenario.driver.end_seconds=0",
    "scenario.driver.proposal_seconds=0",
    "scenario.driver.candidate_seconds=0",
    "scenario.driver.result_seconds=0",
    "scenario.failures.mean_hours=null",
)


def events(folder: Path) -> list[ev.Event]:
    return [ev.from_entry(e.kind, e.data) for e in read(folder / "journal.jsonl")]


@pytest.mark.parametrize("mode", ["resident", "pilot"])
def test_a_campaign_is_done_in_a_simulation_and_its_journal_is_one(tmp_path, mode):
    asked = replace(simulation(tmp_path, mode=mode), folder=tmp_path / "simulated")
    found = simulated(asked, compare=False)
    assert found.outcome == "done"
    assert (found.candidates, found.jobs) == (24, 1)
    state = load_state(tmp_path / "simulated" / "journal.jsonl")
    assert [s.outputs is not None for s in state.stages.values()] == [True] * 4
    ended = [e for e in events(tmp_path / "simulated") if isinstance(e, ev.TaskEnded)]
    assert found.completions == len(ended)
    assert sum(found.uses.values()) == pytest.approx(found.node_hours)
    assert found.waited_hours == 0.0
    assert found.kwh == pytest.approx(found.node_hours * 2.0 * (found.occupancy + 0.4 * (1 - found.occupancy)))


def test_the_same_seed_gives_the_same_simulation_and_another_one_another(tmp_path):
    first, again, other = (run(tmp_path, f"scenario.seed={seed}") for seed in (1, 1, 2))
    assert replace(first, processor_seconds=0) == replace(again, processor_seconds=0)
    assert other.hours != first.hours


def test_tasks_take_what_the_formula_says(tmp_path):
    """One candidate on one node: times add up to the second."""
    text = WORKFLOW.replace("candidates: 24", "candidates: 1").replace("wave: 8", "wave: 1")
    text = text.replace("rungs: [20000, 60000]", "rungs: [20000]").replace("members: 2", "members: 1")
    steps = 20000 / 64  # with a batch of 64, whose work is nothing beside the step itself
    found = run(
        tmp_path, *EXACT, "scenario.cost.step_seconds=1.0", "scenario.cost.rank_flops=1e30", "scenario.cost.latency=0",
        "scenario.cost.bandwidth=1e30", "search.space.batch_size=64", "converge.max_graphs=20000",
        "converge.check_every=20000", "scenario.cost.other_seconds={}", text=text + RESOURCES,
    )  # fmt: skip
    others = 5 * 60.0 - 60.0  # two shards are read side by side, then one is joined; predicted, fitted
    trained = steps + 20000 * 0.25 / 64
    assert found.hours * 3600 == pytest.approx(others + trained, rel=0.02)
    assert found.uses.get(Use.DRIVER, 0.0) == 0.0


def test_the_wall_time_ends_a_job_and_the_next_one_goes_on(tmp_path):
    found = run(tmp_path, "allocation.hours=0.4", "scenario.cost.scale=20", "scenario.batch.wait_hours=0.5")
    assert found.outcome == "done"
    assert found.jobs > 2
    assert found.waited_hours > 0
    assert found.uses[Use.JOB_END] > 0
    assert found.uses.get(Use.LOST, 0.0) < 0.05 * found.node_hours  # asked to leave, trainings save


def test_nodes_that_fail_are_excluded_and_what_was_not_saved_is_done_again(tmp_path):
    asked = simulation(tmp_path, "scenario.failures.mean_hours=0.3", "scenario.failures.at_gpus=32",
                       "scenario.cost.scale=30", "scenario.cost.checkpoint_every=600")  # fmt: skip
    found = simulated(replace(asked, folder=tmp_path / "simulated"), compare=False)
    assert found.outcome == "done"
    assert found.failures > 2
    assert found.uses[Use.LOST] > 0
    excluded = {e.node for e in events(tmp_path / "simulated") if isinstance(e, ev.NodeExcluded)}
    assert excluded
    retried = [e for e in events(tmp_path / "simulated") if isinstance(e, ev.TaskStarted) and e.attempt > 1]
    assert retried
    for start in retried:  # never on the node that failed under it
        assert not excluded & set(start.nodes)


def test_jobs_that_are_cancelled_lose_what_was_not_saved(tmp_path):
    found = run(tmp_path, "scenario.batch.cancel_hours=1", "scenario.cost.scale=30")
    assert (found.outcome, found.jobs > 1, found.uses[Use.LOST] > 0) == ("done", True, True)


def test_a_silent_batch_system_delays_blocks_and_nothing_else(tmp_path):
    prompt = run(tmp_path, mode="pilot")
    slow = run(tmp_path, "scenario.batch.silent_share=0.5", "scenario.batch.answer_seconds=30", mode="pilot")
    assert slow.outcome == "done"
    assert slow.completions == prompt.completions
    assert slow.hours > prompt.hours


def test_slow_nodes_make_a_campaign_longer(tmp_path):
    plain, slow = run(tmp_path), run(tmp_path, "scenario.stragglers.share=1", "scenario.stragglers.factor=2")
    assert slow.hours > 1.5 * plain.hours


def test_the_simulated_time_ends(tmp_path):
    found = run(tmp_path, "scenario.hours=0.2")
    assert found.outcome == "not done after 0.2 h"
    assert found.hours == pytest.approx(0.2, abs=0.01)


def test_tasks_that_share_launches_are_simulated_too(tmp_path):
    asked = simulation(tmp_path, "site.launch.max_steps=2", "site.launch.max_sub_node_nodes=1")
    found = simulated(replace(asked, folder=tmp_path / "simulated"), compare=False)
    assert found.outcome == "done"
    launches = list((tmp_path / "simulated").glob("stages/search-*/launches/*"))
    assert found.uses[Use.HELD] > 0
    # Places of ended tasks went to others: the two launches of the search get tasks as long as there are any.
    started = [e for e in events(tmp_path / "simulated") if isinstance(e, ev.TaskStarted) and e.task.startswith("c0")]
    assert len(started) >= 24 + 8
    assert 0 < len(launches) <= 4


def test_node_time_is_told_apart():
    now = [0.0]
    ledger = Ledger(lambda: now[0], spare_share=0.25)
    ledger.held(8)
    now[0] += 10  # workers start
    ledger.taken(4.0)
    ledger.waits(Use.ROOM)
    now[0] += 10
    ledger.left(4.0, {Use.WORK: 10.0})
    now[0] += 1  # before the driver comes to it
    ledger.waits(Use.TAIL)
    ledger.down()
    now[0] += 10
    ledger.let_go(8, 1)
    assert ledger.total() == 8 * 31
    assert sum(ledger.seconds.values()) == ledger.total()
    assert ledger.seconds[Use.JOB_START] == 6 * 10
    assert ledger.seconds[Use.DRIVER] == 4 * 1
    assert ledger.seconds[Use.ROOM] == 2 * 10 + 2 * 1
    assert ledger.seconds[Use.TAIL] == 6 * 10
    assert ledger.seconds[Use.SPARE] == 2 * 21 + 1 * 10
    assert ledger.seconds[Use.DOWN] == 10
    assert ledger.occupancy() == 40 / (8 * 31)


def test_the_intervals_of_young_and_daly():
    assert young(60.0, 86_400.0) == pytest.approx(math.sqrt(2 * 60 * 86_400))
    assert daly(60.0, 86_400.0) == pytest.approx(3179.0, rel=0.01)
    assert daly(300.0, 100.0) == 100.0  # saving takes longer than nodes last


def test_stages_and_last_trainings_run_in_jobs_of_their_size(tmp_path):
    """The nodes of every job fit what it runs, results stay the same, and the campaign pays for fewer node-hours."""
    found = {}
    for name, least in (("split", 4), ("whole", "null")):
        folder = tmp_path / name
        folder.mkdir()
        own = ("resources.search.nodes=1", "resources.converge.nodes=1", "scenario.cost.scale=30")
        asked = simulation(folder, *own, f"allocation.split_nodes={least}", "allocation.split_seconds=60")
        found[name] = simulated(replace(asked, folder=folder / "simulated"), compare=False)
    jobs = [e.nodes for e in events(tmp_path / "split" / "simulated") if isinstance(e, ev.JobIntended)]
    assert (jobs[0], max(jobs), found["whole"].jobs) == (1, 8, 1)
    stages = {name: members(tmp_path / name / "simulated") for name in found}
    assert stages["split"] == stages["whole"]
    assert found["split"].outcome == found["whole"].outcome == "done"
    assert found["split"].node_hours < 0.8 * found["whole"].node_hours
    assert found["split"].occupancy > found["whole"].occupancy + 0.1
    held, in_search = 0, set()
    for event in events(tmp_path / "split" / "simulated"):
        if isinstance(event, ev.NodesHeld):
            held = event.nodes
        elif isinstance(event, ev.TaskEnded) and event.task.endswith("-r1"):
            in_search.add(held)
    assert len(in_search) > 1, "the search did not hand over its last trainings"


def members(folder: Path) -> list[str]:
    (chosen,) = (e for e in events(folder) if isinstance(e, ev.MembersSelected))
    return [member.candidate for member in chosen.members]


def test_a_failed_node_ends_all_tasks_of_the_launch_that_has_it(tmp_path, monkeypatch):
    """As `srun` ends a step of which a node has failed: the tasks on its other nodes go on from their checkpoints."""
    asked = simulation(tmp_path, "site.launch.max_steps=2", "site.launch.max_sub_node_nodes=1",
                       "scenario.cost.scale=30")  # fmt: skip
    failing: list[Cluster] = []

    def fail_once(cluster: Cluster, held: Held) -> None:
        """Let the fourth node of the first job fail in the search, and no other node."""
        if not failing:
            failing.append(cluster)
            monkeypatch.setattr(cluster._random, "randrange", lambda _: 3)
            held.failure = cluster._clock.after(2300.0, lambda: cluster._fail(held))

    monkeypatch.setattr(Cluster, "_next_failure", fail_once)
    found = simulated(replace(asked, folder=tmp_path / "simulated"), compare=False)
    assert (found.outcome, found.failures) == ("done", 1)
    assert sum(found.uses.values()) == pytest.approx(found.node_hours)
    assert found.uses[Use.LOST] > 0
    ended = [e for e in events(tmp_path / "simulated") if isinstance(e, ev.TaskEnded)]
    lost = [e for e in ended if e.reason.startswith("the launch it shared ended (exit code 143")]
    assert len(lost) == 4  # one task per node of the launch
    done = {e.task for e in ended if e.cause is ev.Cause.FINISHED}
    assert {e.task for e in lost} <= done


def test_trainings_that_would_take_for_ever_end_the_simulation_with_the_reason(tmp_path):
    found = run(tmp_path, "scenario.cost.scale=1e308")
    assert found.outcome.startswith("failed: By the rates of the scenario, training c0")
