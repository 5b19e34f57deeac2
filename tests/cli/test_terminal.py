"""The edge towards terminals: nothing of other people's data steers them, and streams may be closed, full or gone."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from workflow_cases import VALID

from gfm_pipeline.cli.main import cli, invoke
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.terminal import Edge, ReaderGone, edge, visible

STEERING = "\x1b]0;title\x07\x1b[31m\x9b1m\r\x08\u202e\u2066\x7f"


def steers(text: str) -> bool:
    return any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" or "\u202a" <= c <= "\u202e" for c in text)


def run(*arguments: str, env: dict[str, str] | None = None, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    command = [sys.executable, "-m", "gfm_pipeline", *arguments]
    return subprocess.run(command, env=os.environ | (env or {}), check=False, timeout=120, **(pipes | streams))


@given(st.text())
def test_what_steers_is_made_visible_and_json_stays_what_it_was(text: str) -> None:
    assert not steers(visible(text))
    assert visible(visible(text)) == visible(text)
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text
    stream = io.StringIO()
    Edge(stream, "standard output").write(text)
    assert stream.getvalue() == visible(text)


def test_echo_errors_and_tables_pass_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    with edge():
        click.echo(f"group {STEERING}")
        click.echo(f"error {STEERING}", err=True)
        console = terminal.console()
        table = Table()
        table.add_column(f"head {STEERING}")
        table.add_row(f"cell {STEERING}")
        console.print(table)
        console.print(f"text {STEERING}", markup=False)
        terminal.console(stderr=True).print(f"more {STEERING}", markup=False)
    out, err = capsys.readouterr()
    assert not steers(out + err)
    assert out.count("\\u001b") >= 3
    assert "\\u202e" in out


def test_colours_of_ours_pass_and_those_of_data_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Tty()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with edge():
        terminal.console().print("[red]\x1b[32mname[/]")
    assert "\x1b[31m" in stream.getvalue()
    assert "\x1b[32m" not in stream.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [["validate", "a\x1b[31mb.yaml"], ["status", "a\x1b[31mb"], ["x\x1by"], ["validate", "w.yaml", "--x\x1b"]],
)
def test_names_on_the_command_line_come_back_visible(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(arguments) == 2
    out, err = capsys.readouterr()
    assert not steers(out + err)


def test_a_campaign_outlives_its_reader_and_other_commands_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with edge():
        with pytest.raises(ReaderGone):
            click.echo("read by nobody")
        terminal.outlive()
        click.echo("read by nobody")


def test_no_command_prints_past_the_edge() -> None:
    folder = Path(terminal.__file__).parent
    for path in set(folder.glob("*.py")) - {Path(terminal.__file__)}:
        text = path.read_text()
        assert "Console(" not in text, path
        assert "print(" not in text.replace(".print(", ""), path
    assert isinstance(cli, click.Group)


def test_what_the_stream_cannot_encode_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(VALID.replace("emt-alloys\n", "emt-alloys\n      citation: Müller ●\n"))
    bare = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("plan", str(tmp_path / "w.yaml"), "--set", "data.sources.alloys.licence=é", env=bare)
    assert done.returncode == 2  # two bytes that are no text there
    assert b"holds bytes that are not UTF-8" in done.stderr
    for env in ({"PYTHONIOENCODING": "ascii"}, bare):
        done = run("plan", str(tmp_path / "w.yaml"), env=env)
        assert done.returncode == 0, done.stderr
        done = run("validate", str(tmp_path / "ü.yaml"), env=env)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
        done.stderr.decode("ascii")


def test_streams_may_be_gone(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(VALID)
    whole = shlex.join([sys.executable, "-m", "gfm_pipeline", "schema"])
    few = shlex.join([sys.executable, "-m", "gfm_pipeline", "validate", str(tmp_path / "gone.yaml")])
    for line, code, words in (
        (f"{whole} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}", 0, b""),
        (f"{whole} >/dev/full", 3, b"Error: Standard output cannot be written: No space left on device."),
        (f"{whole} >&-", 0, b""),
        (f"{whole} <&- >/dev/null", 0, b""),
        (f"{few} 2>&-", 2, b""),
        (f"{few} 2>/dev/full", 2, b""),
        (f"{few} <&- >&- 2>&-", 2, b""),
    ):
        done = subprocess.run(["bash", "-c", line], capture_output=True, check=False, timeout=60)
        assert done.returncode == code, (line, done.stderr)
        assert done.stderr.startswith(words)
        assert len(done.stderr.splitlines()) == bool(words), (line, done.stderr)


@pytest.mark.parametrize("module", ["click", "pydantic"])
def test_ctrl_c_in_the_first_second_is_one_word(module: str) -> None:
    """The signal comes when a module is imported: before the command line is there, and within a command."""
    hook = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            sys.meta_path.remove(self)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    code = f"{hook}from gfm_pipeline.entry import main\nsys.argv = ['gfm-pipeline', 'schema']\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (128 + signal.SIGINT, b"Interrupted.")


def test_a_wrong_call_is_one_sentence_and_no_call_is_the_help(capsys):
    assert invoke(["predict", "model.gfm", "missing.xyz", "--output", "o.xyz"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("Error: ")
    assert line.endswith("Try `gfm-pipeline predict --help`.")
    invoke([])
    shown = capsys.readouterr()
    assert (shown.err or shown.out).startswith("Usage: ")


@pytest.mark.parametrize(("locale", "more"), [("C", ()), ("C.UTF-8", ("--json",))])
def test_a_pipe_that_is_read_no_further_is_no_failure(locale: str, more: tuple[str, ...]) -> None:
    """Click and rich end the program with exit code 1 where the pipe breaks within a command."""
    campaign = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        env = {"LC_ALL": locale, "PYTHONUNBUFFERED": "1"}
        ended = run("status", str(campaign), *more, env=env, stdout=nobody)
    assert (ended.returncode, ended.stderr) == (0, b"")
