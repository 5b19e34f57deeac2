"""Groups of commands that import the module of a command only when the command runs, so `--help` is fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from gfm_pipeline.cli.support.examples import with_examples


@dataclass(frozen=True)
class Lazy:
    """A command that is not imported yet: its module within this package, its name there, and its summary.

    ``summary`` is the first sentence of the command's help.
    """

    module: str
    attribute: str
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        found = getattr(import_module(f"gfm_pipeline.cli.{self.module}"), self.attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{self.module}.{self.attribute} is not a command")
        return found


class LazyGroup(click.Group):
    """A group that imports only the command it runs.

    Parameters
    ----------
    lazy
        Commands by name, in addition to commands that are added in the usual way.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name; this imports it."""
        if cmd_name in self.lazy and cmd_name not in self.commands:
            self.add_command(with_examples(self.lazy[cmd_name].load(), cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their summaries, without importing any."""
        names = [name for name in self.list_commands(ctx) if not self._hidden(name)]
        room = formatter.width - 6 - max(map(len, names), default=0)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(name, room)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return completions of a name: commands without importing them, then options."""
        names = [n for n in self.list_commands(ctx) if n.startswith(incomplete) and not self._hidden(n)]
        commands = [CompletionItem(name, help=self._summary(name, 200)) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def _hidden(self, name: str) -> bool:
        return name in self.commands and self.commands[name].hidden

    def _summary(self, name: str, room: int) -> str:
        if name in self.lazy:
            return click.Command(name, help=self.lazy[name].summary).get_short_help_str(room)
        return self.commands[name].get_short_help_str(room)
