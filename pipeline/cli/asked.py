"""What a user asked to be run: kept in the journal for `resume`, and written into batch scripts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.cli.options import Request, SiteChoice, resolve


@dataclass(frozen=True)
class Asked:
    """A workflow, a site, a campaign folder (None: the default one), and ``--set``."""

    workflow: Path
    choice: SiteChoice
    folder: Path | None
    overrides: tuple[str, ...]

    def resolve(self) -> Request:
        """Check it and return what it means; writes nothing."""
        return resolve(self.workflow, self.choice.name, self.folder, self.overrides, self.choice.overlays)

    def options(self) -> list[str]:
        """Return the options that ask for the same site and settings, from wherever."""
        recorded = self.choice.to_json()
        words = ["--site", recorded["name"]]
        for overlay in recorded["overlays"]:
            words += ["--overlay", overlay]
        for text in self.overrides:
            words += ["--set", text]
        return words

    def command(self, root: Path) -> list[str]:
        """Return the command line that drives the campaign in folder ``root``, from within a job."""
        workflow = str(self.workflow.resolve())
        return [sys.executable, "-m", "gfm_pipeline", "run", workflow, "--campaign", str(root), *self.options()]
