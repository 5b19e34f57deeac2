"""What a user asked to be run: kept in the journal for `resume`, and written into batch scripts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.cli.options import Request, SiteChoice, resolve
from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.sites.enums import Staging
from gfm_pipeline.sites.schema import SiteModel


@dataclass(frozen=True)
class Asked:
    """A workflow, a site, a campaign folder (None: the default one), and ``--set``.

    ``kept`` is the copy of the workflow that was made when a job was submitted: the job runs it, whatever became of the
    file since.
    """

    workflow: Path
    choice: SiteChoice
    folder: Path | None
    overrides: tuple[str, ...]
    kept: Path | None = None

    def resolve(self) -> Request:
        """Check it and return what it means; writes nothing.

        Raises
        ------
        ConfigError
            When it cannot be run.
        """
        return resolve(self.workflow, self.choice.name, self.folder, self.overrides, self.choice.overlays, self.kept)

    def is_edited(self) -> bool:
        """Return whether the workflow is another one now than when the job was submitted."""
        try:
            return self.kept is not None and self.workflow.read_bytes() != self.kept.read_bytes()
        except OSError:
            return True

    def options(self) -> list[str]:
        """Return the options that ask for the same site and settings, from wherever."""
        recorded = self.choice.to_json()
        words = ["--site", recorded["name"]]
        for overlay in recorded["overlays"]:
            words += ["--overlay", overlay]
        for text in self.overrides:
            words += ["--set", text]
        return words

    def command(self, site: SiteModel, root: Path) -> list[str]:
        """Return the command line that drives the campaign in folder ``root``, from within a job."""
        workflow = str(self.workflow.resolve())
        words = ["run", workflow, "--campaign", str(root), *self.options()]
        if self.kept is not None:
            words += ["--as-submitted", str(self.kept)]
        return module_command("gfm_pipeline", *words, python=job_python(site))


def job_python(site: SiteModel) -> str:
    """Return the interpreter of a batch job: that of its own environment (staged, or activated), or else this one."""
    own = site.staging.kind is not Staging.NONE or site.profiles[site.profile].activate is not None
    return "python" if own else sys.executable
