"""The two programs of ingest, from a spec to every way they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ingest_cases import ALLOYS, run_read

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.runtime.program import StopRequested, Task, run_program
from gfm_pipeline.core.contracts.data import (
    AssembleResult,
    AssembleSpec,
    ReadShardResult,
    ReadShardSpec,
    SourceSettings,
    Split,
)
from gfm_pipeline.core.contracts.task import ERROR_FILE, PROGRESS_FILE, RESULT_FILE, STOP_FILE, ExitCode
from gfm_pipeline.core.errors import DataError, IntegrityError, StorageError
from gfm_pipeline.core.records import read_record, to_plain


def write_spec(folder: Path, spec: Any) -> None:
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(to_plain(spec)))


def start(folder: Path, program: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"gfm_pipeline.apps.ingest.{program}", "spec.json"]
    return subprocess.Popen(command, cwd=folder, text=True, stderr=subprocess.PIPE)


def test_programs_end_to_end(tmp_path: Path) -> None:
    source = SourceSettings("alloys", "emt-alloys", options=ALLOYS)
    write_spec(tmp_path / "read", ReadShardSpec(source, 0, 3, str(tmp_path / "shard")))
    assert start(tmp_path / "read", "read").communicate() == (None, "")
    result = read_record(ReadShardResult, tmp_path / "read" / RESULT_FILE)
    assert result.n_records == 24
    lines = [json.loads(line) for line in (tmp_path / "read" / PROGRESS_FILE).read_text().splitlines()]
    assert set(lines[-1]) == {"time", "done", "total", "quarantined"}
    assert (lines[-1]["done"], lines[-1]["total"]) == (24, 24)
    spec = AssembleSpec(source, (result.output,), 0.2, 0.2, 0.0, 5, str(tmp_path / "alloys"))
    write_spec(tmp_path / "assemble", spec)
    process = start(tmp_path / "assemble", "assemble")
    process.communicate()
    assert process.returncode == ExitCode.OK
    assembled = read_record(AssembleResult, tmp_path / "assemble" / RESULT_FILE)
    assert Dataset.open(tmp_path / "alloys", digests=True).digest == assembled.digest
    assert sorted(p.name for p in (tmp_path / "alloys").iterdir()) == [
        "alloys.bp",
        "ingest_report.json",
        "ingest_report.md",
        "layout.json",
        "manifest.json",
        "quarantine.jsonl",
        "statistics.json",
        *sorted(f"{split}.index.npy" for split in Split),
    ]


@pytest.mark.parametrize("how", ["signal", "stop file"])
def test_a_stopped_program_leaves_nothing_half_written(tmp_path: Path, how: str) -> None:
    source = SourceSettings("alloys", "emt-alloys", options={"parents": 100_000})
    write_spec(tmp_path / "attempt", ReadShardSpec(source, 0, 3, str(tmp_path / "shard")))
    process = start(tmp_path / "attempt", "read")
    deadline = time.monotonic() + 60
    while not (tmp_path / "attempt" / PROGRESS_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if how == "signal":
        process.send_signal(signal.SIGTERM)
    else:
        (tmp_path / "attempt" / STOP_FILE).touch()
    process.communicate(timeout=60)
    assert process.returncode == ExitCode.PREEMPTED
    assert [p.name for p in tmp_path.iterdir()] == ["attempt"]
    assert not (tmp_path / "attempt" / RESULT_FILE).exists()
    assert not (tmp_path / "attempt" / ERROR_FILE).exists()


def ending(folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> tuple[int, dict[str, Any] | None]:
    source = SourceSettings("x", "ase")
    (folder / "spec.json").write_text(json.dumps(to_plain(ReadShardSpec(source, 0, 3, "out"))))
    monkeypatch.chdir(folder)

    def body(_spec: ReadShardSpec, _task: Task) -> None:
        raise error

    code = run_program(ReadShardSpec, body, ["spec.json"])
    path = folder / ERROR_FILE
    return code, json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (DataError("Bad.", "Fix it.", "a  b"), ExitCode.PERMANENT, "DataError"),
        (IntegrityError("Damaged."), ExitCode.PERMANENT, "IntegrityError"),
        (StorageError("Full."), ExitCode.RETRYABLE, "StorageError"),
        (OSError(5, "Input/output error"), ExitCode.RETRYABLE, "OSError"),
        (FileNotFoundError(2, "missing"), ExitCode.PERMANENT, "FileNotFoundError"),
        (MemoryError(), ExitCode.OUT_OF_MEMORY, "MemoryError"),
        (ZeroDivisionError("bug"), ExitCode.PERMANENT, "ZeroDivisionError"),
        (StopRequested(), ExitCode.PREEMPTED, None),
    ],
)
def test_endings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: ExitCode, name: str | None
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    found, content = ending(tmp_path, monkeypatch, error)
    assert found == code
    assert (content and content["error"]) == name
    if name == "DataError":
        assert content == {"error": "DataError", "message": "Bad.", "hint": "Fix it.", "table": "a  b"}
    assert not (tmp_path / RESULT_FILE).exists()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_wrong_spec_is_permanent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.json").write_text('{"shard": "first"}')
    assert run_program(ReadShardSpec, read_shard_program, ["spec.json"]) == ExitCode.PERMANENT
    assert "not a valid ReadShardSpec" in json.loads((tmp_path / ERROR_FILE).read_text())["message"]
    missing = SourceSettings("x", "ase", (str(tmp_path / "nowhere.xyz"),))
    (tmp_path / "spec.json").write_text(json.dumps(to_plain(ReadShardSpec(missing, 0, 1, str(tmp_path / "o")))))
    assert run_program(ReadShardSpec, read_shard_program, ["spec.json"]) == ExitCode.PERMANENT
    assert "does not exist" in json.loads((tmp_path / ERROR_FILE).read_text())["message"]


def test_damaged_shard_is_refused(tmp_path: Path) -> None:
    source = SourceSettings("alloys", "emt-alloys", options=ALLOYS)
    shard = Path(run_read(tmp_path, source)[0].output)
    content = bytearray((shard / "part-00000.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (shard / "part-00000.npz").write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match="was changed"):
        assemble_program(AssembleSpec(source, (str(shard),), 0.2, 0.2, 0, 1, str(tmp_path / "d")), Task(tmp_path))
