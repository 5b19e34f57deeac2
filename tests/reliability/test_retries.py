"""Why attempts end and what follows: the table, and each class injected into a real campaign of pretended trainings."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pretended
import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import Action, AttemptOutcome, Cause
from gfm_pipeline.campaign.stage_state import Attempt
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.task import EXIT_FILE, ErrorRecord, ExitCode, ExitRecord
from gfm_pipeline.core.publish import write_json, write_record
from gfm_pipeline.engine.tasks.classify import classify
from gfm_pipeline.engine.tasks.retries import RULES, TOTAL_LIMIT, delay, micro_batch, next_action


def attempt(cause: Cause, saved: float | None = None) -> Attempt:
    return Attempt(1, AttemptOutcome.RETRYABLE, "", 0.0, 1.0, False, cause, None, saved)


def life(causes: list[Cause], saved: list[float | None] | None = None, *, can_shrink: bool = True) -> list[Action]:
    """Return what follows each end, until the task is given up or accepted."""
    history: list[Attempt] = []
    actions = []
    for cause, amount in zip(causes, saved or [None] * len(causes), strict=True):
        actions.append(next_action(cause, history, amount, can_shrink=can_shrink))
        history.append(attempt(cause, amount))
        if actions[-1] in (Action.GIVE_UP, Action.ACCEPT):
            break
    return actions


# --- the table


def test_every_cause_has_a_rule():
    assert set(RULES) == set(Cause)


@pytest.mark.parametrize(
    ("cause", "actions"),
    [
        (Cause.FINISHED, [Action.ACCEPT]),
        (Cause.DIVERGED, [Action.ACCEPT]),
        (Cause.USER_ERROR, [Action.GIVE_UP]),
        (Cause.PROGRAM_ERROR, [Action.GIVE_UP]),
        (Cause.WORKER_LOST, [Action.RETRY] * 5 + [Action.GIVE_UP]),
        (Cause.NODE_FAILURE, [Action.RETRY] * 5 + [Action.GIVE_UP]),
        (Cause.KILLED, [Action.RETRY] * 5 + [Action.GIVE_UP]),
        (Cause.SILENT, [Action.RETRY] * 2 + [Action.GIVE_UP]),
        (Cause.TROUBLE, [Action.RETRY] * 3 + [Action.GIVE_UP]),
        (Cause.WALL_TIME, [Action.CONTINUE, Action.GIVE_UP]),
        (Cause.OUT_OF_MEMORY, [Action.SHRINK] * 8 + [Action.GIVE_UP]),
    ],
)
def test_what_follows_without_progress(cause, actions):
    assert life([cause] * 20) == actions


@pytest.mark.parametrize("cause", [Cause.STOPPED, Cause.DRIVER_LOST, Cause.LAUNCHER_LOST, Cause.STORAGE])
def test_what_is_nobodys_fault_never_counts(cause):
    assert set(life([cause] * 50)) == {RULES[cause].action}
    assert life([cause] * 50 + [Cause.TROUBLE])[-1] is Action.RETRY


def test_a_task_that_cannot_shrink_is_tried_again_as_it_is():
    assert life([Cause.OUT_OF_MEMORY] * 5, can_shrink=False) == [Action.RETRY] * 2 + [Action.GIVE_UP]


def test_deadlines_go_on_for_ever_while_there_is_progress_between_them():
    steps = [float(100 * k) for k in range(1, 41)]
    assert life([Cause.WALL_TIME] * 40, steps) == [Action.CONTINUE] * 40
    stuck = [100.0, 200.0, 200.0, 200.0]
    assert life([Cause.WALL_TIME] * 4, stuck) == [Action.CONTINUE] * 3 + [Action.GIVE_UP]


def test_progress_forgives_earlier_failures():
    causes = [Cause.KILLED] * 30
    assert life(causes, [float(k // 3) for k in range(30)]) == [Action.RETRY] * 30


COUNTED = sorted(c for c in Cause if RULES[c].limit is not None)
SAVED = st.none() | st.integers(0, 3).map(float)


@given(
    st.lists(st.tuples(st.sampled_from(COUNTED), SAVED), min_size=46, max_size=60),
    st.lists(st.tuples(st.sampled_from(sorted(Cause)), SAVED), max_size=20),
    st.randoms(use_true_random=False),
)
def test_no_mix_of_failures_goes_on_for_ever(counted_ends, more, order):
    """At most `TOTAL_LIMIT` counted ends between two of the four steps of progress there can be, then the end."""
    ends = [*counted_ends, *more]
    order.shuffle(ends)
    actions = life([c for c, _ in ends], [s for _, s in ends])
    assert actions[-1] in (Action.GIVE_UP, Action.ACCEPT)
    counted = [RULES[c].limit is not None for c, _ in ends[: len(actions)]]
    assert sum(counted) <= 5 * (TOTAL_LIMIT + 1)


def test_micro_batches_halve_down_to_one():
    memory = attempt(Cause.OUT_OF_MEMORY)
    assert micro_batch(32, []) is None
    assert micro_batch(32, [attempt(Cause.KILLED)]) is None
    assert [micro_batch(32, [memory] * k) for k in range(1, 8)] == [16, 8, 4, 2, 1, 1, 1]
    assert micro_batch(5, [memory, attempt(Cause.KILLED), memory]) == 1


def test_waits_grow_and_are_bounded():
    waits = [delay([attempt(Cause.TROUBLE)] * k) for k in range(12)]
    assert waits[:5] == [0.0, 0.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 60.0
    assert delay([attempt(Cause.TROUBLE)] * 5 + [attempt(Cause.TROUBLE, 1.0)]) == 0.0


# --- how an attempt ended


RECORD = ExitRecord(0, False, 3.0, out_of_memory=False, host="n1")


@pytest.mark.parametrize(
    ("record", "trouble", "cause"),
    [
        (None, None, Cause.DRIVER_LOST),
        (None, "WorkerLost: worker 3 on n1", Cause.WORKER_LOST),
        (None, "ManagerLost: manager b'x' on n1", Cause.NODE_FAILURE),
        (None, "BadStateException: all blocks failed", Cause.LAUNCHER_LOST),
        (None, "StorageError: Cannot write x.", Cause.STORAGE),
        (None, "BlockingIOError: fork", Cause.TROUBLE),
        (replace(RECORD, code=0), "ManagerLost: too late", Cause.TROUBLE),  # ended well, no result
        (replace(RECORD, code=-9), None, Cause.KILLED),
        (replace(RECORD, code=-9, out_of_memory=True), None, Cause.OUT_OF_MEMORY),
        (replace(RECORD, code=-9, out_of_memory=None), None, Cause.OUT_OF_MEMORY),
        (replace(RECORD, code=-11), None, Cause.KILLED),
        (replace(RECORD, code=-9, silent=True), None, Cause.SILENT),
        (replace(RECORD, code=-9, timed_out=True), None, Cause.WALL_TIME),
        (replace(RECORD, code=21, timed_out=True), None, Cause.WALL_TIME),
        (replace(RECORD, code=30, timed_out=True), None, Cause.PROGRAM_ERROR),
        (replace(RECORD, code=-15, stopped=True), None, Cause.STOPPED),
        (replace(RECORD, code=-9, stopped=True), None, Cause.STOPPED),
        (replace(RECORD, code=21), None, Cause.STOPPED),
        (replace(RECORD, code=20), None, Cause.TROUBLE),
        (replace(RECORD, code=22), None, Cause.OUT_OF_MEMORY),
        (replace(RECORD, code=30), None, Cause.PROGRAM_ERROR),
        (replace(RECORD, code=1), None, Cause.PROGRAM_ERROR),
    ],
)
def test_causes(tmp_path, record, trouble, cause):
    if record is not None:
        write_record(tmp_path / EXIT_FILE, record)
    ended = classify(tmp_path, trouble)
    assert ended.cause is cause
    assert ended.reason


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ErrorRecord("ModelError", "There is no option of PNA 'x'."), Cause.USER_ERROR),
        (ErrorRecord("DataError", "No structures."), Cause.USER_ERROR),
        (ErrorRecord("FileNotFoundError", "gone"), Cause.USER_ERROR),
        (ErrorRecord("ZeroDivisionError", "division by zero"), Cause.PROGRAM_ERROR),
    ],
)
def test_what_was_foreseen_is_the_users_error_and_all_else_the_programs(tmp_path, error, cause):
    write_record(tmp_path / EXIT_FILE, replace(RECORD, code=int(ExitCode.PERMANENT)))
    write_record(tmp_path / "error.json", error)
    assert classify(tmp_path).cause is cause


@pytest.mark.parametrize(("code", "cause"), [(ExitCode.OK, Cause.FINISHED), (ExitCode.DIVERGED, Cause.DIVERGED)])
def test_what_finished_counts_though_its_worker_was_lost(tmp_path, code, cause):
    write_record(tmp_path / EXIT_FILE, replace(RECORD, code=code))
    write_json(tmp_path / "result.json", {"message": "fine"})
    (tmp_path / "saved").write_text("400\n")
    ended = classify(tmp_path, "WorkerLost: too late")
    assert (ended.cause, ended.reason, ended.saved, ended.host) == (cause, "fine", 400.0, "n1")
    assert ended.result == {"message": "fine"}


# --- injected into a campaign


FAULTS = {
    "c00000-r0": ["kill", "crash"],
    "c00001-r0": ["memory", "torch memory"],
    "c00002-r0": ["worker", "trouble"],
    "c00003-r0": ["hang"],
    "m00": ["worker", "trouble", "kill"],
    "m01": ["memory", "no end", "kill"],
}


def inject(folder: Path, faults: dict[str, list[str]], *settings: str, code: int = 0) -> dict[str, list[ev.TaskEnded]]:
    """Run a campaign in which trainings suffer ``faults``; return how the attempts at each task ended."""
    arguments = pretended.write_campaign(folder, train="faulty.train")
    (folder / "faults.json").write_text(json.dumps(faults))
    overrides = [part for text in settings for part in ("--set", text)]
    runs.finish(folder, *arguments, *overrides, code=code)
    found: dict[str, list[ev.TaskEnded]] = {}
    for event in runs.events(pretended.journal_of(folder)):
        if isinstance(event, ev.TaskEnded):
            found.setdefault(event.task, []).append(event)
    return found


@pytest.mark.slow
def test_every_class_of_failure_is_survived_and_changes_nothing(uninterrupted, tmp_path):
    ends = inject(tmp_path, FAULTS, "limits.heartbeat_timeout_seconds=2", "limits.task_hours=0.0017")  # 6 s
    causes = {task: [e.cause for e in ends[task]] for task in FAULTS}
    assert causes["c00000-r0"] == [Cause.KILLED, Cause.KILLED, Cause.FINISHED]
    assert causes["c00001-r0"] == [Cause.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY, Cause.FINISHED]
    assert causes["c00002-r0"] == [Cause.WORKER_LOST, Cause.TROUBLE, Cause.FINISHED]
    assert causes["c00003-r0"] == [Cause.SILENT, Cause.FINISHED]
    assert causes["m00"] == [Cause.WORKER_LOST, Cause.TROUBLE, Cause.KILLED, Cause.FINISHED]
    assert causes["m01"] == [Cause.OUT_OF_MEMORY, Cause.WALL_TIME, Cause.KILLED, Cause.FINISHED]
    assert pretended.artefacts(tmp_path) == pretended.artefacts(uninterrupted)

    stages = pretended.campaign_of(tmp_path) / "stages"
    child = int(next(stages.glob("search-*/tasks/c00003-r0/attempt-1/child")).read_text())
    assert not Path(f"/proc/{child}").exists()  # the silent program's whole group was killed
    specs = [json.loads(p.read_text()) for p in sorted(stages.glob("search-*/tasks/c00001-r0/*/spec.json"))]
    size = specs[0]["optimiser"]["batch_size"]
    assert [s["micro_batch"] for s in specs] == [None, size // 2, size // 4]
    assert runs.processes_of(tmp_path) == []


@pytest.mark.slow
def test_divergence_and_errors_of_a_program_are_told_to_the_search_and_not_repeated(tmp_path):
    faults = {"c00000-r0": ["nan"], "c00001-r0": ["bug"]}
    ends = inject(tmp_path, faults, "search.candidates=10", "search.wave=2", "search.rungs=[50, 100]")
    assert [(e.cause, e.action) for e in ends["c00000-r0"]] == [(Cause.DIVERGED, Action.ACCEPT)]
    assert [(e.cause, e.action) for e in ends["c00001-r0"]] == [(Cause.PROGRAM_ERROR, Action.GIVE_UP)]
    assert "division" in ends["c00001-r0"][0].reason
    events = runs.events(pretended.journal_of(tmp_path))
    decision = next(e for e in events if isinstance(e, ev.RungDecided))
    assert set(decision.stopped) == {"c00000", "c00001"}
    told = [e.told for e in events if isinstance(e, ev.WaveProposed)]
    assert told[-1] == 6  # DeepHyper heard of both failures too


@pytest.mark.slow
def test_a_user_error_in_a_candidate_fails_the_search_with_its_sentence_and_is_tried_again_when_run_again(tmp_path):
    ends = inject(tmp_path, {"c00001-r0": ["user"]}, code=1)
    assert [(e.cause, e.action) for e in ends["c00001-r0"]] == [(Cause.USER_ERROR, Action.GIVE_UP)]
    failed = [e for e in runs.events(pretended.journal_of(tmp_path)) if isinstance(e, ev.StageFailedEvent)]
    assert [e.reason for e in failed] == ["c00001-r0: The energies are in the wrong unit. Set energy_unit."]
    last = (tmp_path / "driver.log").read_text().splitlines()[-1]
    assert "Search failed: c00001-r0: The energies are in the wrong unit. Set energy_unit." in last
    runs.finish(tmp_path, "run", "w.yaml", "--site", "site.yaml")  # what was wrong is mended: the fault came once only
    assert runs.starts(pretended.journal_of(tmp_path))["c00001-r0"][-1] == "ok"


@pytest.mark.slow
def test_failures_are_bounded_kept_and_shown(tmp_path):
    ends = inject(tmp_path, {"m00": ["*trouble"]}, code=1)
    assert [e.action for e in ends["m00"]] == [Action.RETRY] * 3 + [Action.GIVE_UP]
    assert all(e.host and e.reason == "TimeoutError: the network is slow" for e in ends["m00"])
    log = (tmp_path / "driver.log").read_text()
    assert "m00, 4 attempts: TimeoutError: the network is slow" in log
    assert "attempt 4 failed (trouble; given up)" in log
    assert "Traceback" not in log
    campaign = pretended.campaign_of(tmp_path)
    shown = subprocess.run(
        runs.command("status", str(campaign)), capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path
    ).stdout
    assert "converge/m00, attempt 4: TimeoutError: the network is slow (trouble; given up)" in shown
    runs.finish(tmp_path, "report", str(campaign))
    report = (campaign / "report.md").read_text()
    assert [f"| {k} | trouble |" in report for k in range(1, 5)] == [True] * 4

    (tmp_path / "faults.json").write_text("{}")
    runs.finish(tmp_path, "resume", str(campaign), "--site", "site.yaml")
    state = load_state(pretended.journal_of(tmp_path))
    task = next(s.tasks["m00"] for s in state.stages.values() if "m00" in s.tasks)
    assert [a.cause for a in task.history] == [Cause.TROUBLE] * 4 + [Cause.FINISHED]


def test_signals_have_names(tmp_path):
    write_record(tmp_path / EXIT_FILE, replace(RECORD, code=-signal.SIGSEGV))
    assert classify(tmp_path).reason == "killed by SIGSEGV"
    write_record(tmp_path / EXIT_FILE, replace(RECORD, code=-63))
    assert classify(tmp_path).reason
