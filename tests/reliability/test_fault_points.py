"""Kill at every named fault point, go on, and compare with a campaign that was never interrupted.

Points of the driver kill the driver. At points of wrappers and programs the driver dies with the process, as when the
machine loses power, and is run again; or the process dies alone, and the campaign must carry on by itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pretended
import pytest
import runs

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.faultpoints import Fault, FaultPoint, Injector, arm, arm_from, hand_down, reach

pytestmark = pytest.mark.slow
AT_A_TIME = 3

# Which time the point is reached: somewhere in the middle, elsewhere for each.
DRIVER = {
    FaultPoint.LOCK_CREATED: 1,
    FaultPoint.LOCK_TAKEN: 1,
    FaultPoint.LOCK_REPLACED: 1,
    FaultPoint.LOCK_RELEASED: 1,
    FaultPoint.JOURNAL_OPENED: 1,
    FaultPoint.JOURNAL_BEFORE_WRITE: 14,
    FaultPoint.JOURNAL_BEFORE_SYNC: 1,
    FaultPoint.JOURNAL_AFTER_SYNC: 19,
    FaultPoint.FILE_BEFORE_WRITE: 2,
    FaultPoint.FILE_BEFORE_RENAME: 3,
    FaultPoint.FILE_AFTER_RENAME: 1,
    FaultPoint.LAUNCHER_STARTED: 1,
    FaultPoint.DRIVER_ORPHAN: 1,
    FaultPoint.PROPOSAL_MADE: 2,
    FaultPoint.TASK_FOLDER: 5,
    FaultPoint.TASK_SPEC: 1,
    FaultPoint.TASK_RECORDED: 6,
    FaultPoint.TASK_SUBMITTED: 4,
    FaultPoint.TASK_CLASSIFIED: 7,
    FaultPoint.REPORT_MARKDOWN: 1,
    FaultPoint.REPORT_WRITTEN: 1,
}
WRAPPER = {  # alone, with the driver
    FaultPoint.WRAPPER_BEFORE_START: (2, 4),
    FaultPoint.WRAPPER_STARTED: (5, 3),
    FaultPoint.WRAPPER_ATTENDING: (4, 6),
    FaultPoint.WRAPPER_AFTER_EXIT: (6, 5),
    FaultPoint.WRAPPER_RECORDED: (3, 7),
}
PROGRAM = {
    FaultPoint.PUBLISH_BEGUN: 9,
    FaultPoint.PUBLISH_FILLED: 2,
    FaultPoint.PUBLISH_BEFORE_MANIFEST: 6,
    FaultPoint.PUBLISH_BEFORE_RENAME: 3,
    FaultPoint.PUBLISH_AFTER_RENAME: 12,
    FaultPoint.PUBLISH_DONE: 10,
    FaultPoint.PROGRAM_STARTED: 5,
    FaultPoint.PROGRAM_BEFORE_RESULT: 4,
    FaultPoint.PROGRAM_RESULT: 6,
}
ALONE = {  # programs that die without their driver
    FaultPoint.PUBLISH_BEFORE_RENAME: 10,
    FaultPoint.PUBLISH_AFTER_RENAME: 5,
    FaultPoint.PROGRAM_RESULT: 3,
}
LONG = pytest.mark.long  # each point is tried once in the quick tests
NEED_A_DEAD_DRIVER = {FaultPoint.LOCK_REPLACED, FaultPoint.DRIVER_ORPHAN}
CASES = [
    *(f"{point}:{count}:kill" for point, count in DRIVER.items()),
    *(f"{point}:{alone}:kill" for point, (alone, _) in WRAPPER.items()),
    *(pytest.param(f"{point}:{both}:crash", marks=LONG) for point, (_, both) in WRAPPER.items()),
    *(f"{point}:{both}:crash" for point, both in PROGRAM.items()),
    *(pytest.param(f"{point}:{alone}:kill", marks=LONG) for point, alone in ALONE.items()),
]


@dataclass(frozen=True)
class Interrupted:
    """A campaign that met a fault and was brought to its end."""

    folder: Path
    driver_died: bool
    struck: bool


def killed(folder: Path, arguments: list[str], fault: str) -> tuple[int, bool]:
    """Run with a fault; return the exit code and whether the fault was injected."""
    process = runs.start(folder, *arguments, "--fault", fault)
    code = process.wait(timeout=200)
    marks = folder / "campaigns" / f".{pretended.NAME}.faults" / str(process.pid)
    return code, bool(list(marks.glob("struck.*")))


def interrupt(folder: Path, case: str) -> Interrupted:
    arguments = pretended.write_campaign(folder, pretended.SHORT)
    fault = Fault.parse(case)
    if fault.point in NEED_A_DEAD_DRIVER:
        assert killed(folder, arguments, f"{FaultPoint.TASK_SUBMITTED}:3") == (-signal.SIGKILL, True)
    code, struck = killed(folder, arguments, case)
    if code != 0:
        runs.finish(folder, *arguments)
    return Interrupted(folder, code == -signal.SIGKILL, struck)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    runs.finish(folder, *pretended.write_campaign(folder, pretended.SHORT))
    return folder


@pytest.fixture(scope="module")
def interrupted(request, tmp_path_factory) -> Iterator[dict[str, Future[Interrupted]]]:
    """Return the campaigns of the tests that will run, several at a time: they mostly wait."""
    items = (item for item in request.session.items if isinstance(item, pytest.Function))
    wanted = [i.callspec.params["case"] for i in items if i.originalname == test_killed_there.__name__]
    pool = ThreadPoolExecutor(AT_A_TIME)
    base = tmp_path_factory.mktemp("killed")
    yield {case: pool.submit(interrupt, base / re.sub(r"\W", "-", case), case) for case in wanted}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES)
def test_killed_there(case, interrupted, uninterrupted):
    done = interrupted[case].result()
    fault = Fault.parse(case)
    assert done.struck, f"{case} was never reached"
    assert done.driver_died == (fault.point in DRIVER or fault.what == "crash")
    pretended.assert_same(done.folder, uninterrupted)


def test_every_point_is_tried():
    assert set(DRIVER) | set(WRAPPER) | set(PROGRAM) == set(FaultPoint)


def test_every_point_is_in_the_source_and_every_call_names_one():
    """A fault point nobody reaches, or a call of `reach` with anything but a member, is a mistake."""
    root = Path(__file__).parents[2]
    files = {f for place in ("pipeline", "apps", "models", "sites", "core") for f in (root / place).rglob("*.py")}
    text = "\n".join(f.read_text() for f in sorted(files) if f.name != "faultpoints.py")
    calls = re.findall(r"(?<!def )\breach\(([^)]*)\)", text)
    named = [c.removeprefix("FaultPoint.") for c in calls]
    assert sorted(set(named)) == sorted(p.name for p in FaultPoint)
    assert len(named) == len(set(named)), "a name stands for one place"


@pytest.fixture
def disarmed():
    yield
    arm(None)


def test_unarmed_nothing_happens_and_nothing_is_handed_down(tmp_path, disarmed):
    arm_from(tmp_path)
    reach(FaultPoint.TASK_SPEC)
    hand_down(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refusal_is_raised_once_and_counted_over_all_processes(tmp_path, disarmed):
    arm(Injector([Fault.parse("task-spec:2:ENOSPC")], os.getpid(), tmp_path))
    attempt = tmp_path / "attempt"
    attempt.mkdir()
    hand_down(attempt)
    assert json.loads((attempt / "faults.json").read_text())["faults"] == ["task-spec:2:ENOSPC"]
    reach(FaultPoint.TASK_SPEC)
    arm_from(attempt)  # as the wrapper and the program do
    reach(FaultPoint.TASK_FOLDER)
    with pytest.raises(OSError, match="No space left"):
        reach(FaultPoint.TASK_SPEC)
    reach(FaultPoint.TASK_SPEC)


@pytest.mark.parametrize("text", ["nowhere", "task-spec:0", "task-spec:x", "task-spec:1:melt", "task-spec:-1", ""])
def test_nonsense_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError):
        Fault.parse(text)
