"""Every command teaches itself: its help has examples that its parser accepts, and no option is without a sentence."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from gfm_pipeline.cli.main import cli
from gfm_pipeline.cli.support.examples import EXAMPLES


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each command by its name, those of groups by "GROUP COMMAND"."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {part}", inner) for part, inner in command.commands.items() if not inner.hidden)
        else:
            yield name, command


ALL = dict(commands())


def test_every_command_has_examples_and_every_example_a_command() -> None:
    assert EXAMPLES.keys() == ALL.keys()


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_a_command_teaches_it(name: str) -> None:
    shown = CliRunner().invoke(cli, [*name.split(), "--help"]).output
    lines = [line.strip() for line in shown.splitlines()]
    for arguments in EXAMPLES[name]:
        assert f"gfm-pipeline {name} {arguments}".rstrip() in lines  # on a line of its own
        words = shlex.split(arguments.split(" > ")[0].removeprefix("> "), comments=True)
        words = [] if arguments.startswith("> ") else words
        ALL[name].make_parser(click.Context(ALL[name])).parse_args(list(words))
    assert "\\b" not in shown
    assert not re.search(r"\d{9}", shown), "a limit against nonsense is no advice"
    for option in ALL[name].params:
        assert not isinstance(option, click.Option) or option.hidden or option.help, option.name
