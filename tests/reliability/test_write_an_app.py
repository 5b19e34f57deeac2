"""The app of the documentation, as it stands there, under the real wrapper."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest

from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.wrapper import run
from gfm_pipeline.campaign.events import Cause
from gfm_pipeline.core.contracts.task import RESULT_FILE, SAVED_FILE, SPEC_FILE, STOP_FILE, ExitCode
from gfm_pipeline.engine.tasks.classify import classify
from gfm_pipeline.engine.tasks.retries import RULES

PAGE = Path(__file__).parents[2] / "docs" / "write-an-app.md"


@pytest.fixture
def attempt(tmp_path):
    source = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    (tmp_path / "my_app.py").write_text(source)

    def start(name: str, **spec) -> Launch:
        (tmp_path / name).mkdir()
        (tmp_path / name / SPEC_FILE).write_text(json.dumps(spec))
        return Launch("my_app", str(tmp_path / name), 60.0, {"PYTHONPATH": str(tmp_path)})

    return start


def stop_when_it_works(folder: Path) -> None:
    while not (folder / "progress.jsonl").exists():
        time.sleep(0.05)
    (folder / STOP_FILE).touch()


def test_the_documented_app_is_stopped_and_goes_on(attempt):
    first = attempt("a1", terms=10**12)
    folder = Path(first.folder)
    threading.Thread(target=stop_when_it_works, args=(folder,)).start()
    assert run(first).code == ExitCode.PREEMPTED
    ended = classify(folder)
    assert ended.cause is Cause.STOPPED
    assert ended.saved == float((folder / SAVED_FILE).read_text()) > 0
    terms = int(ended.saved) + 1000
    second = attempt("a2", terms=terms, previous_attempts=[str(folder)])
    assert run(second).code == ExitCode.OK
    begun, total = json.loads((folder / "sum.json").read_text())
    for k in range(begun + 1, terms + 1):
        total += 1 / k**2
    assert json.loads((Path(second.folder) / RESULT_FILE).read_text()) == {"sum": total}
    assert classify(Path(second.folder)).cause is Cause.FINISHED


def test_the_documented_app_refuses_a_wrong_spec(attempt):
    assert run(attempt("a1", terms="many")).code == ExitCode.PERMANENT


def test_the_page_says_what_the_table_says():
    page = PAGE.read_text()
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert codes == set(ExitCode)
    bounds = {
        ExitCode.RETRYABLE: Cause.TROUBLE,
        "killed by a signal": Cause.KILLED,
        "no heartbeat": Cause.SILENT,
    }
    for start, cause in bounds.items():
        line = next(
            x for x in page.splitlines() if x.startswith(f"| {start if isinstance(start, str) else int(start)}")
        )
        assert f"up to {RULES[cause].limit} more attempts" in line
