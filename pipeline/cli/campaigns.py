"""The argument of commands that are given a campaign by its folder."""

from __future__ import annotations

from pathlib import Path

import click

campaign_argument = click.argument("campaign", type=click.Path(path_type=Path))
