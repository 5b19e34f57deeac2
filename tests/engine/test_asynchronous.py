"""An asynchronous search proposes when places become free, and its journal says from what."""

from __future__ import annotations

import random
from concurrent.futures import Future

import pytest
from test_decide import context, pretend_result
from test_replay import journal

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.stage_state import TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.engine.decisions.decide import decide
from gfm_pipeline.engine.decisions.proposals import wave_question
from gfm_pipeline.engine.decisions.replay import replayed
from gfm_pipeline.engine.decisions.requests import Proposal
from gfm_pipeline.engine.stages.search_size import wanted_now
from gfm_pipeline.engine.wave_proposer import Proposer


class Slow:
    """Answers a proposal a few events after it was asked, as a process does."""

    def __init__(self):
        self.wanted = self.question = None

    def wave(self, situation, state, wanted, late):
        if self.question is None:
            self.wanted, self.question = wanted, wave_question(situation, state, wanted)
            return None if late else self.wave(situation, state, wanted, late)
        question, self.question = self.question, None
        return question.answered()


class Never:
    """Never answers."""

    def __init__(self, asked_for):
        self.asked_for = asked_for

    def submit(self, question):
        self.asked_for.append(question)
        return Future()

    def close(self):
        pass


def driven(situation, seed: int, slow: str = "") -> tuple[list[ev.Event], list[int]]:
    """Run a campaign; return its events, and the idle places at each end of a training while there are candidates.

    ``slow`` names a training that does not end before nothing else is left to run.
    """
    draw, state, events, running, idle = random.Random(seed), CampaignState(), [], {}, []
    proposer = Slow()

    def record(event):
        events.append(event)
        state.apply(event, float(len(events)))

    while True:
        step = decide(situation, state)
        if step.events:
            for event in step.events:
                record(event)
            continue
        if step.finished or step.failure:
            return events, idle
        for request in step.tasks[: situation.slots - len(running)]:
            record(ev.TaskStarted(request.key, request.name, 1))
            running[request.name] = request
        if step.proposal is not None:
            wave = proposer.wave(situation, state, step.proposal, late=bool(running))
            if wave is not None:
                record(wave)
                continue
        search = state.stage("search")
        if search is not None and 0 < len(search.candidates()) < situation.workflow.search.candidates:
            idle.append(situation.slots - len(running))
        name = draw.choice([n for n in sorted(running) if n != slow] or [slow])
        request = running.pop(name)
        record(ev.TaskEnded(request.key, name, 1, *pretend_result(request)[:1], 1.0, "", pretend_result(request)[1]))


def asked(slots=6, candidates=40, **more):
    changes = {"asynchronous": True, "candidates": candidates, "rungs": [10, 20, 30], **more}
    return context(slots, **{f"search__{name}": value for name, value in changes.items()})


def test_no_place_waits_for_the_slowest_candidate_and_the_journal_derives_again(tmp_path):
    """One training lasts as long as the whole search: others go on past it, from rung to rung."""
    events, idle = driven(asked(4, 14, proposals="random"), 1, slow="c00002-r0")
    started = [e.task for e in events if isinstance(e, ev.TaskStarted)]
    ended = [e.task for e in events if isinstance(e, ev.TaskEnded)]
    assert ended.index("c00002-r0") > max(ended.index(f"c{i:05d}-r0") for i in range(14) if i != 2)
    assert any(name.endswith("-r2") for name in ended[: ended.index("c00002-r0")])
    assert len(started) == len(set(started))
    assert max(idle) <= 1  # the place that has just become free
    proposed = [e for e in events if isinstance(e, ev.WaveProposed)]
    at = {id(e): n + 1 for n, e in enumerate(events)}  # the journal has the campaign's creation before them
    assert any(e.upto < at[id(e)] for e in proposed)  # others ended while it was being computed
    assert [c.wave for e in proposed for c in e.candidates] == [i // 4 for i in range(14)]
    # The test's own state did not fold the creation that journals begin with.
    shifted = [ev.WaveProposed(**{**vars(e), "upto": e.upto + 1}) if e in proposed else e for e in events]
    counts = replayed(journal(shifted, tmp_path))
    assert counts["waves of candidates"] == len(proposed) > 6
    assert counts["decisions at rungs"] > 7


def test_proposals_of_a_surrogate_are_derived_again(tmp_path):
    events, _ = driven(asked(3, 8), 4)
    proposed = [e for e in events if isinstance(e, ev.WaveProposed)]
    shifted = [ev.WaveProposed(**{**vars(e), "upto": e.upto + 1}) if e in proposed else e for e in events]
    assert any(e.told and e.origin == "batch-local-gp" for e in proposed)
    assert replayed(journal(shifted, tmp_path))["choices of members"] == 1


def test_a_proposal_that_does_not_follow_from_where_it_says_is_named(tmp_path):
    events, _ = driven(asked(candidates=20, proposals="random"), 2)
    late = max(n for n, e in enumerate(events) if isinstance(e, ev.WaveProposed))
    events[late] = ev.WaveProposed(**{**vars(events[late]), "upto": 12})
    with pytest.raises(IntegrityError, match="does not follow"):
        replayed(journal(events, tmp_path))


@pytest.mark.parametrize("seed", range(3))
def test_promotions_stay_within_the_cap_whatever_the_order(seed):
    events, _ = driven(asked(candidates=30, reduction=2, proposals="random"), seed)
    trained = [e.task for e in events if isinstance(e, ev.TaskStarted) and "-r" in e.task]
    for rung in range(3):
        assert sum(name.endswith(f"-r{rung}") for name in trained) <= 30 / 2**rung
    assert sum(name.endswith("-r0") for name in trained) == 30
    assert not any(isinstance(e, ev.StageFailedEvent) for e in events)


def test_candidates_are_proposed_for_free_places_and_some_that_wait():
    assert wanted_now(1000, 64, 0) == 68  # all places, and one in sixteen more
    assert wanted_now(1000, 64, 65) == 0  # not for every one that becomes free
    assert wanted_now(1000, 64, 64) == 4
    assert wanted_now(3, 64, 65) == 3  # the last ones
    assert wanted_now(0, 64, 0) == 0
    assert [wanted_now(5, 1, unfinished) for unfinished in (0, 1, 2)] == [2, 1, 0]


def test_a_proposal_that_is_under_way_is_not_begun_anew_since_more_are_wanted():
    situation, state, asked_for = asked(proposals="random"), CampaignState(), []
    for event in driven(situation, 1)[0]:
        if isinstance(event, ev.WaveProposed) and event.told:
            break
        state.apply(event, 0.0)
    stage = state.stage("search")
    assert any(task.status is TaskStatus.DONE for task in stage.tasks.values())

    proposer = Proposer(situation, Never(asked_for))
    for size in (2, 3, 4):
        assert proposer.wave(state, Proposal(stage.key, len(stage.waves), size)) is None
    assert [question.n for question in asked_for] == [2]
