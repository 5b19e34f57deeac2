"""A campaign from Python: plan it, run it, and read its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.api.folders import existing
from gfm_pipeline.core.ensemble_files import find_ensemble
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.core.records import canonical_json

if TYPE_CHECKING:
    import pandas as pd

    from gfm_pipeline.api.run_request import RunRequest
    from gfm_pipeline.apps.calculator import GFMCalculator
    from gfm_pipeline.apps.calibrate.ensemble import Ensemble
    from gfm_pipeline.apps.dataset import Dataset
    from gfm_pipeline.engine.decisions.plan import CampaignPlan
    from gfm_pipeline.report.view import CampaignView

Notify = Callable[[str], None]


class Campaign:
    """A campaign: a workflow, a site, and the folder that holds its journal and results.

    `from_yaml` reads a workflow file, as the commands `plan`, `run` and `submit` do; ``Campaign(folder)`` opens
    a campaign that ran before, as `resume`, `status` and `report` do. Every error is a
    `gfm_pipeline.core.errors.GFMError` with a sentence that gives the fix.

    Parameters
    ----------
    folder
        Folder of a campaign that ran before.

    Raises
    ------
    ConfigError
        When ``folder`` contains no campaign.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder: Path = existing(Path(folder)).root
        self._run_request: RunRequest | None = None

    @classmethod
    def from_yaml(
        cls,
        workflow: Path | str,
        site: str = "local",
        overrides: Mapping[str, Any] | Sequence[str] = (),
        *,
        overlays: Sequence[Path | str] = (),
        folder: Path | str | None = None,
    ) -> Campaign:
        """Check a workflow file and return its campaign; write nothing.

        Parameters
        ----------
        workflow
            The workflow file.
        site
            A site by name, or a site file.
        overrides
            Settings that override the file, as ``{"search.candidates": 8}`` or ``["search.candidates=8"]``; those of
            the site begin with ``site.``.
        overlays
            Files with keys that override those of the site.
        folder
            The campaign's folder; None: ``campaigns/NAME`` next to the workflow file.

        Raises
        ------
        ConfigError
            When the workflow or the site has a fault; the message names file and line.
        """
        from gfm_pipeline.api.run_request import RunRequest, SiteChoice  # here: a slow import

        run_request = RunRequest(
            Path(workflow),
            SiteChoice(str(site), tuple(Path(overlay) for overlay in overlays)),
            None if folder is None else Path(folder),
            tuple(_settings(overrides)),
        )
        made = cls.__new__(cls)
        made._run_request, made._folder = run_request, run_request.resolve().context.paths.root
        return made

    @property
    def folder(self) -> Path:
        """The campaign's folder, which the first run creates."""
        return self._folder

    def __repr__(self) -> str:
        return f"Campaign({str(self._folder)!r})"

    def plan(self) -> CampaignPlan:
        """Return the plan of `run`, with resources and costs; calls no batch system and writes nothing."""
        from gfm_pipeline.api.budget_check import refuse_budget
        from gfm_pipeline.campaign.folder import check_name
        from gfm_pipeline.campaign.state import CampaignState
        from gfm_pipeline.engine.decisions.plan import make_plan

        request = self._request().resolve()
        state = check_name(request.context.paths, request.loaded.model.name) or CampaignState()
        refuse_budget(request, state)
        return make_plan(request.context, state, request.site, request.planned, request.input_bytes())

    def run(self, *, quiet: bool = False, notify: Notify = print) -> Campaign:
        """Drive the campaign to its end in this process, and return it. Running again continues.

        If the site runs drivers in batch jobs, and this process is outside of a job, the call submits the job instead.
        Ctrl-C stops in order: running trainings save a checkpoint first.

        Parameters
        ----------
        quiet
            Hide progress (on standard error).
        notify
            Receives messages about waits and submitted jobs.

        Raises
        ------
        GFMError
            `Stopped` after a stop, `StageFailed` when a stage cannot continue, or another error.
        """
        from gfm_pipeline.api.drive import drive

        drive(self._request(), notify, quiet=quiet)
        return self

    def submit(self, *, notify: Notify = print) -> Campaign:
        """Submit the campaign as a batch job with the driver on its own nodes, and return the campaign.

        Raises
        ------
        GFMError
            When the site does not run drivers in jobs, or the batch system refuses or does not answer.
        """
        from gfm_pipeline.api.allocate import batch_environment
        from gfm_pipeline.api.submission import submit_campaign
        from gfm_pipeline.sites.enums import DriverMode

        run_request = self._request()
        request = run_request.resolve()
        if request.site.driver.mode is not DriverMode.RESIDENT:
            raise ConfigError(
                f"On site {request.site.name} the driver does not run inside a batch job.",
                "Call run(), or set site.driver.mode to resident.",
            )
        submit_campaign(request, run_request, batch_environment(request.site, notify), notify)
        return self

    def status(self) -> CampaignView:
        """Return the state of the campaign; reads only files, with or without a running driver."""
        from gfm_pipeline.report.build import build_view

        return build_view(existing(self._folder).root)

    def report(self, output: Path | str | None = None) -> Path:
        """Write ``report.html`` and ``report.md`` into ``output`` (default: the campaign's folder); return the page."""
        from gfm_pipeline.report.write import write_report

        return write_report(existing(self._folder).root, None if output is None else Path(output))[0]

    def trials(self) -> pd.DataFrame:
        """Return one row per candidate of the search.

        The columns are ``candidate``, ``wave``, ``status``, ``outcome`` (the evidence in words), ``rungs`` finished,
        ``graphs`` seen, ``objective`` at the last rung (NaN: diverged or failed), ``seconds`` of training, and each
        hyperparameter by its name.
        """
        import pandas as pd

        rows = []
        for candidate in self.status().candidates:
            last = candidate.rungs[-1] if candidate.rungs else None
            rows.append(
                {
                    "candidate": candidate.name,
                    "wave": candidate.wave,
                    "status": candidate.status,
                    "outcome": candidate.outcome,
                    "rungs": len(candidate.rungs),
                    "graphs": 0 if last is None else last.graphs,
                    "objective": None if last is None else last.objective,
                    "seconds": sum(rung.seconds for rung in candidate.rungs),
                    **candidate.settings,
                }
            )
        return pd.DataFrame(rows).astype({"objective": float}) if rows else pd.DataFrame()

    def history(self) -> pd.DataFrame:
        """Return one row per validation of every candidate and member.

        The columns are ``model`` (a candidate's or a member's name), ``stage`` (``search`` or ``converge``), ``graphs``
        seen in the model's life, ``seconds`` of training, and ``objective``. A member's rows begin with those of its
        candidate.
        """
        import pandas as pd

        view = self.status()
        curves = [(c.name, "search", c.curve) for c in view.candidates]
        curves += [(m.name, "converge", m.curve) for m in view.members]
        columns = ["model", "stage", "graphs", "seconds", "objective"]
        rows = [(name, stage, p.graphs, p.seconds, p.objective) for name, stage, curve in curves for p in curve]
        return pd.DataFrame(rows, columns=columns)

    def dataset(self, name: str | None = None) -> Dataset:
        """Return a published dataset, checked against its manifest; ``name`` is optional for a single dataset.

        Raises
        ------
        DataError
            When no published dataset has this name.
        """
        from gfm_pipeline.apps.dataset import Dataset

        found = sorted(self._folder.glob("stages/ingest-*/datasets/*"), key=lambda path: path.stat().st_mtime)
        published = {path.name: path for path in found if (path / "manifest.json").exists()}
        if name is None and len(published) == 1:
            name = next(iter(published))
        if name is None or name not in published:
            known = ", ".join(sorted(published)) or "none yet"
            raise DataError(f"The campaign has no dataset {name!r}; published are: {known}.", "Name one of them.")
        return Dataset.open(published[name])

    def ensemble(self) -> Ensemble:
        """Return the calibrated ensemble, with every file checked against its manifest.

        Raises
        ------
        IntegrityError
            When there is no ensemble yet, or a file changed after its publication.
        """
        from gfm_pipeline.apps.calibrate.ensemble import load_ensemble

        return load_ensemble(find_ensemble(self._folder))

    def calculator(self, dataset: str | None = None, **options: Any) -> GFMCalculator:
        """Return the ensemble as an ASE calculator; ``options`` are those of `GFMCalculator`."""
        from gfm_pipeline.apps.calculator import GFMCalculator

        return GFMCalculator(self.ensemble(), dataset, **options)

    def _request(self) -> RunRequest:
        """Return the request to run: the one of this object, or that of the last run."""
        if self._run_request is not None:
            return self._run_request
        from gfm_pipeline.api.run_request import last_request

        return last_request(existing(self._folder))


def _settings(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return overrides in the syntax of the command line."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={value if isinstance(value, str) else canonical_json(value)}" for key, value in overrides.items()]
