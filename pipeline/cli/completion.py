"""The command that prints a shell's script for completing commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gfm_pipeline.cli.main import COMPLETE
from gfm_pipeline.core.errors import ConfigError

PROGRAM = "gfm-pipeline"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options and files of this program."""
    found = get_completion_class(shell)
    if found is None:
        raise ConfigError(f"The installed Click completes nothing for {shell}.", "Install click 8.1 or newer.")
    script = found(context.find_root().command, {}, PROGRAM, COMPLETE)
    click.echo(found.source_template % script.source_vars())
