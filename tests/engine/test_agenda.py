"""What is kept of a search from event to event is what its whole state says."""

from __future__ import annotations

import random

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.stage_state import TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.stages.agenda import Agenda
from gfm_pipeline.engine.stages.trials import finished, task_name

KEY = "k"


def derived(stage) -> list[tuple[int, int, str]]:
    """Return the turns of all trainings that can start, from the state alone."""
    wanted = [(0, w, c.name) for w, wave in stage.waves.items() for c in wave.candidates]
    for (wave, rung), decision in stage.decisions.items():
        wanted += [(-rung - 1, wave, name) for name in decision.promoted]

    def starts(turn: tuple[int, int, str]) -> bool:
        task = stage.tasks.get(task_name(turn[2], -turn[0]))
        free = task is None or task.status is TaskStatus.TO_RETRY
        return free and (turn[0] == 0 or finished(stage, turn[2], -turn[0] - 1))

    return sorted(turn for turn in wanted if starts(turn))


def test_the_agenda_follows_a_search_whatever_happens():
    """Starts, ends of all kinds, lost artefacts, promotions; looked at after every third event."""
    draw, state = random.Random(5), CampaignState()
    state.apply(ev.StageOpened("search", KEY, {}, {}, 4), 0.0)
    stage = state.stages[KEY]
    agenda, waves, seen = Agenda(stage), 0, 0
    for step in range(900):
        running = [t.name for t in stage.tasks.values() if t.status is TaskStatus.RUNNING]
        done = [t.name for t in stage.tasks.values() if t.status is TaskStatus.DONE]
        chance = draw.random()
        if waves < 6 and step % 120 == 0:
            chosen = tuple(ev.Candidate(f"c{8 * waves + k:05d}", waves, {}) for k in range(8))
            event: ev.Event = ev.WaveProposed(KEY, waves, chosen, "", 0)
            waves += 1
        elif chance < 0.45 and derived(stage):
            turn = draw.choice(derived(stage))
            name = task_name(turn[2], -turn[0])
            event = ev.TaskStarted(KEY, name, stage.tasks[name].attempt + 1 if name in stage.tasks else 1)
        elif chance < 0.9 and running:
            name, action = draw.choice(running), draw.choice([ev.Action.ACCEPT, ev.Action.RETRY, ev.Action.GIVE_UP])
            ended = ev.AttemptOutcome.OK if action is ev.Action.ACCEPT else ev.AttemptOutcome.RETRYABLE
            event = ev.TaskEnded(KEY, name, stage.tasks[name].attempt, ended, 1.0, action=action)
        elif chance < 0.93 and done:
            event = ev.ArtefactLost(KEY, draw.choice(done), "")
        else:
            due = [w for w in stage.waves if (w, 0) not in stage.decisions and agenda.unfinished(w, 0) == 0]
            if not due:
                continue
            names = [c.name for c in stage.waves[due[0]].candidates if finished(stage, c.name, 0)]
            event = ev.RungDecided(KEY, due[0], 0, tuple(names[:3]), {})
        state.apply(event, float(step))
        if step % 3 == 0:
            agenda.update()
            assert agenda.turns == derived(stage)
            assert agenda.rungs() == sorted({-turn[0] for turn in agenda.turns}, reverse=True)
            seen += len(agenda.turns)
    agenda.update()
    assert seen > 300
    assert len(stage.decisions) > 2
    for wave in stage.waves:
        left = sum(not finished(stage, c.name, 0) for c in stage.waves[wave].candidates)
        assert agenda.unfinished(wave, 0) == left


def test_promotions_to_come_count_among_the_trainings_left():
    """A wave whose decision waits for one slow candidate still has all trainings of its higher rungs to come."""
    state = CampaignState()
    state.apply(ev.StageOpened("search", KEY, {}, {}, 4), 0.0)
    names = [f"c{number:05d}" for number in range(27)]
    state.apply(ev.WaveProposed(KEY, 0, tuple(ev.Candidate(n, 0, {}) for n in names), "", 0), 0.0)
    agenda = Agenda(state.stages[KEY])

    def outlook() -> tuple[int, ...]:
        agenda.update()
        return agenda.outlook((27, 9, 3))

    def train(name: str, rung: int) -> None:
        task = task_name(name, rung)
        state.apply(ev.TaskStarted(KEY, task, 1), 1.0)
        done = ev.TaskEnded(KEY, task, 1, ev.AttemptOutcome.OK, 1.0, action=ev.Action.ACCEPT)
        state.apply(done, 2.0)

    assert outlook() == (18, 6, 3)  # each candidate once, at the last rung that it can reach
    for name in names[:26]:
        train(name, 0)
    assert outlook() == (0, 6, 3)
    train(names[26], 0)
    state.apply(ev.RungDecided(KEY, 0, 0, tuple(names[:9]), {}), 3.0)
    assert outlook() == (0, 6, 3)
    for name in names[:8]:
        train(name, 1)
    assert outlook() == (0, 0, 3)
    train(names[8], 1)
    state.apply(ev.RungDecided(KEY, 0, 1, tuple(names[:3]), {}), 4.0)
    train(names[0], 2)
    assert outlook() == (0, 0, 2)
