"""What a command imports, which is what it costs to start: no command waits for libraries that it does not use."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gfm_pipeline.cli.main import COMMANDS, cli
from gfm_pipeline.cli.support.lazy import LazyGroup

ROOT = Path(__file__).parents[2]
CAMPAIGN = str(ROOT / "tests/reliability/fixtures/campaign-v1/campaign")
WORKFLOW = str(ROOT / "workflow.yaml")
LOOKING = {"click", "rich", "msgspec", "pydantic_core", "typing_extensions"}
READING = LOOKING | {"pydantic", "annotated_types", "typing_inspection", "ruamel"}
# Command: all that it may import beside Python itself and this package.
ALLOWED = {
    ("--version",): {"click"},
    ("--help",): {"click"},
    ("status", CAMPAIGN): LOOKING,
    ("status", CAMPAIGN, "--json"): LOOKING,
    ("verify", CAMPAIGN): READING,
    ("validate", WORKFLOW): READING,
    ("plan", WORKFLOW): READING,
    ("sites",): READING,
}
LIST = """
import contextlib, io, json, sys
before = set(sys.modules)  # what the installation imports at start, e.g. for editable packages
from gfm_pipeline.cli.main import invoke
with contextlib.redirect_stdout(io.StringIO()):
    code = invoke(sys.argv[1:])
after = {name.partition(".")[0] for name in set(sys.modules) - before}
after = {name for name in after - set(sys.stdlib_module_names) if not name.startswith("_sysconfigdata")}
print(json.dumps([code, sorted(after - {"gfm_pipeline"})]))
"""


@pytest.mark.parametrize("words", ALLOWED, ids=lambda words: " ".join(Path(w).name for w in words))
def test_a_command_imports_what_it_uses(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIST, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    code, imported = json.loads(done.stdout)
    assert code == 0
    assert set(imported) - ALLOWED[words] == set()


def test_help_imports_no_command():
    code = "import sys; from gfm_pipeline.cli.main import invoke; invoke(['--help']); print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {line for line in done.stdout.splitlines() if line.startswith("gfm_pipeline.cli.")}
    support = {f"gfm_pipeline.cli.support{name}" for name in ("", ".examples", ".lazy", ".terminal")}
    assert ours == {"gfm_pipeline.cli.main", *support}


def groups(group, name=""):
    """Yield every group of commands that imports them late."""
    if isinstance(group, LazyGroup):
        yield name, group
    for inner in getattr(group, "commands", {}).values():
        yield from groups(inner, f"{name} {inner.name}")


def test_help_says_of_a_command_what_the_command_says_of_itself():
    for name in COMMANDS:
        assert cli.get_command(click.Context(cli), name) is not None
    found = dict(groups(cli))
    assert "" in found
    for group in found.values():
        for name, lazy in group.lazy.items():
            assert lazy.load().get_short_help_str(1000).rstrip(".") == lazy.summary.rstrip("."), name


def test_every_command_is_listed_with_its_summary(capsys):
    assert cli.main(["--help"], prog_name="gfm-pipeline", standalone_mode=False) == 0
    listed = capsys.readouterr().out.partition("\nCommands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == sorted(COMMANDS)
    assert all(len(line.split()) > 3 for line in listed)
