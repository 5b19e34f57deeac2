"""The decisions, driven without any I/O: a pretend launcher finishes tasks in any order."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_results import plain_result
from site_cases import PLAIN, site
from workflow_cases import workflow

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import AttemptOutcome
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.data import ReadShardResult, SourceSettings
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.engine.decisions.decide import decide, opening
from gfm_pipeline.engine.decisions.plan import make_plan
from gfm_pipeline.engine.decisions.requests import Context, TaskRequest
from gfm_pipeline.engine.resources.requirements import decide_resources
from gfm_pipeline.engine.stages.ingest import ASSEMBLE, Ingest
from gfm_pipeline.engine.stages.table import NAMES
from gfm_pipeline.engine.stages.trials import TRAIN


def context(slots=2, **changes) -> Context:
    model = workflow(**{"search__asynchronous": False, **changes})
    sources = tuple(SourceSettings(name, s.reader, options=s.options) for name, s in model.data.sources.items())
    return Context(model, sources, {}, slots, 1, CampaignPaths(Path("/nowhere")), {})


def pretend_result(request: TaskRequest) -> tuple[AttemptOutcome, dict]:
    """Return an outcome that depends on the task alone, as a real training's does."""
    chance = random.Random(request.name)
    digest = f"digest of {request.name}"
    if request.program is not TRAIN:
        return AttemptOutcome.OK, plain_result(request.program.result, digest=digest)
    if chance.random() < 0.15 and request.stage == "search":
        return AttemptOutcome.DIVERGED, plain_result(TrainResult, objective=None)
    return AttemptOutcome.OK, plain_result(TrainResult, objective=chance.random(), digest=digest)


def drive(
    situation: Context, order: random.Random, fail: dict[str, AttemptOutcome] | None = None, propose=None
) -> list[ev.Event]:
    """Run a campaign to its end, finishing running tasks in a random order; return its events."""
    state, events, running = CampaignState(), [], {}

    def record(event):
        events.append(event)
        state.apply(event, float(len(events)))

    for _ in range(10_000):
        step = decide(situation, state)
        if step.events:
            for event in step.events:
                record(event)
            continue
        if step.proposal is not None and propose is not None:
            record(propose(situation, state, step.proposal))
            continue
        if step.proposal is not None:
            taken = len(state.stages[step.proposal.key].candidates())
            base = {
                "algorithm": "SchNet",
                "hidden": 8,
                "layers": 1,
                "cutoff": 5.0,
                "n_radial": 4,
                "force_head": "direct",
            }
            rest = {"learning_rate": 1e-3, "batch_size": 4, "force_weight": 1, "weight_decay": 0.0, "ema_decay": 0.9}
            made = tuple(
                ev.Candidate(f"c{taken + i:05d}", step.proposal.wave, base | rest) for i in range(step.proposal.size)
            )
            record(ev.WaveProposed(step.proposal.key, step.proposal.wave, made, "test", 0))
            continue
        if step.finished or step.failure:
            return events
        for request in step.tasks[: situation.slots - len(running)]:
            known = state.stages[request.key].tasks.get(request.name)
            record(ev.TaskStarted(request.key, request.name, 1 if known is None else known.attempt + 1))
            running[request.name] = request
        assert 0 < len(running) <= situation.slots
        name = order.choice(sorted(running))
        request = running.pop(name)
        outcome, result = pretend_result(request)
        if fail and name in fail:
            outcome, result = fail[name], None
        attempt = state.stages[request.key].tasks[name].attempt
        record(ev.TaskEnded(request.key, name, attempt, outcome, 1.0, "why", result))
    raise AssertionError("the campaign never ends")


def decisions(events):
    kinds = (ev.WaveProposed, ev.RungDecided, ev.MembersSelected, ev.StageDone)
    return sorted(repr(e) for e in events if isinstance(e, kinds))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(2, 20), st.integers(1, 5))
def test_decisions_do_not_depend_on_the_order_of_arrival(seed, slots, candidates, wave):
    situation = context(slots, search__candidates=candidates, search__wave=wave, search__rungs=[10, 20, 30])
    reference = drive(situation, random.Random(0))
    assert decisions(drive(situation, random.Random(seed))) == decisions(reference)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_every_candidate_trains_once_and_the_cap_holds(seed, candidates):
    situation = context(4, search__candidates=candidates, search__rungs=[10, 20, 40], search__reduction=2)
    events = drive(situation, random.Random(seed))
    trained = [e.task for e in events if isinstance(e, ev.TaskStarted) and "-r" in e.task]
    assert len(trained) == len(set(trained))
    for rung in range(3):
        assert sum(t.endswith(f"-r{rung}") for t in trained) <= candidates / 2**rung
    assert sum(t.endswith("-r0") for t in trained) == candidates


def test_stages_come_in_order_and_end():
    events = drive(context(), random.Random(1))
    assert [e.stage for e in events if isinstance(e, ev.StageOpened)] == list(NAMES)
    assert sum(isinstance(e, ev.StageDone) for e in events) == 4


def test_a_target_that_no_source_labels_fails_ingest_with_the_sentence():
    situation = context(targets={"energy": {}, "forces": {}, "dipole": {}})
    events = drive(situation, random.Random(1))
    assert isinstance(events[-1], ev.StageFailedEvent)
    assert events[-1].reason.startswith("No source of the workflow labels dipole: no record has a key called dipole,")
    assert "labels: {dipole: KEY}" in events[-1].reason


@pytest.mark.parametrize("task", ["read-alloys-00000", "assemble-alloys", "m00", "predict-m01", "fit"])
def test_a_failed_task_fails_its_stage_with_the_reason(task):
    events = drive(context(), random.Random(1), fail={task: AttemptOutcome.PERMANENT})
    assert isinstance(events[-1], ev.StageFailedEvent)
    assert events[-1].reason == f"{task}: why"


def test_retryable_failures_are_bounded():
    events = drive(context(), random.Random(1), fail={"assemble-alloys": AttemptOutcome.RETRYABLE})
    assert sum(isinstance(e, ev.TaskStarted) and e.task == "assemble-alloys" for e in events) == 3
    assert isinstance(events[-1], ev.StageFailedEvent)


def test_a_failed_candidate_does_not_fail_the_search():
    events = drive(context(), random.Random(1), fail={"c00001-r0": AttemptOutcome.PERMANENT})
    assert sum(isinstance(e, ev.StageDone) for e in events) == 4


def test_too_few_finite_candidates_fail_the_search():
    bad = {f"c{i:05d}-r0": AttemptOutcome.PERMANENT for i in range(3)}
    events = drive(context(), random.Random(1), fail=bad)
    assert isinstance(events[-1], ev.StageFailedEvent)
    assert re.match("only [01] of 4 candidates", events[-1].reason)


DOWNSTREAM = {
    "seed": list(NAMES),
    "data__validation": list(NAMES),
    "search__candidates": ["search", "converge", "calibrate"],
    "converge__patience": ["converge", "calibrate"],
    "calibrate__level": ["calibrate"],
    "limits": [],
}
VALUES = {
    "seed": 9,
    "data__validation": 0.2,
    "search__candidates": 5,
    "converge__patience": 9,
    "calibrate__level": 0.5,
    "limits": {"task_hours": 1},
}


@pytest.mark.parametrize("change", DOWNSTREAM)
def test_a_setting_changes_exactly_its_downstream(change):
    state = CampaignState()
    for time, event in enumerate(drive(context(), random.Random(1))):
        state.apply(event, float(time))
    situation, here = context(**{change: VALUES[change]}), site(PLAIN)
    plan = make_plan(situation, state, here, decide_resources(situation.workflow, here))
    assert [s.name for s in plan.stages if s.action != "done"] == DOWNSTREAM[change]
    if DOWNSTREAM[change]:
        first = next(s for s in plan.stages if s.action != "done")
        assert any("->" in line for line in first.why)


@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ({}, None),
        ({"search__space__cutoff": [4.0, 5.5]}, None),
        ({"data__edges": "stored"}, 5.0),
        ({"data__edges": "stored", "search__space__cutoff": [4.0, 5.5]}, 5.5),
        ({"data__edges": "stored", "search__space__per_algorithm": {"EGNN": {"cutoff": {"low": 4, "high": 7}}}}, 7.0),
    ],
)
def test_edges_are_stored_within_the_largest_cutoff_where_asked(changes, within):
    situation, state = context(**changes), CampaignState()
    opened = opening(situation, state, "ingest")
    state.apply(opened, 0.0)
    (read,) = decide(situation, state).tasks
    state.apply(ev.TaskStarted(opened.key, read.name, 1), 1.0)
    result = plain_result(ReadShardResult, digest="d")
    state.apply(ev.TaskEnded(opened.key, read.name, 1, AttemptOutcome.OK, 1.0, "", result), 2.0)
    (join,) = decide(situation, state).tasks
    assert (join.program, join.spec.edges_within) == (ASSEMBLE, within)
    # without stored edges the key is that of campaigns from before there were any
    said = {key: value for key, value in Ingest().settings(situation).items() if key == "edges_within"}
    assert said == ({} if within is None else {"edges_within": within})


def test_more_slots_change_no_key():
    state = CampaignState()
    assert opening(context(2), state, "ingest").key == opening(context(64), state, "ingest").key


def test_the_last_source_is_joined_when_it_can_be_compared_with_the_others():
    two = {
        "alloys": {"reader": "emt-alloys", "options": {"parents": 3}},
        "more": {"reader": "emt-alloys", "options": {"parents": 4}},
    }
    situation = context(data__sources=two)
    events = drive(situation, random.Random(3))
    order = [(type(e), e.task) for e in events if isinstance(e, (ev.TaskStarted, ev.TaskEnded))]
    assert order.index((ev.TaskEnded, "assemble-alloys")) < order.index((ev.TaskStarted, "assemble-more"))
    state = CampaignState()
    for number, event in enumerate(events):
        if isinstance(event, ev.TaskStarted) and event.task == "assemble-more":
            (request,) = decide(situation, state).tasks
            break
        state.apply(event, float(number))
    assert request.spec.compared
    assert request.spec.others == (str(request.spec.output).replace("more", "alloys"),)
    assert set(request.spec.others) < set(request.spec.inputs())


def test_splits_together_make_other_datasets_and_splits_apart_the_ones_there_were():
    ingest = Ingest()
    apart, together = (context(data__split_across_sources=how) for how in ("apart", "together"))
    assert "split_across_sources" not in ingest.settings(apart)
    assert ingest.settings(together) == {**ingest.settings(apart), "split_across_sources": "together"}
    (source,) = ingest.settings(apart)["sources"].values()
    assert not {"split_key", "file_splits"} & set(source)
