"""The files of the report."""

from __future__ import annotations

from pathlib import Path

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.core.publish import storage_errors, write_atomic
from gfm_pipeline.report.build import build_view
from gfm_pipeline.report.ensemble_files import load_evaluation, load_split_errors
from gfm_pipeline.report.html import render_html
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.optuna_export import FILE as OPTUNA_FILE
from gfm_pipeline.report.optuna_export import optuna_export
from gfm_pipeline.report.results_csv import FILE as RESULTS_FILE
from gfm_pipeline.report.results_csv import results_csv
from gfm_pipeline.report.sources import load_found
from gfm_pipeline.report.timeline import load_timeline
from gfm_pipeline.report.view import CampaignView


def write_report(campaign: Path, output: Path | None = None) -> tuple[Path, Path, CampaignView]:
    """Write ``report.html``, ``report.md`` and tables of the search; return the first two paths, and the view.

    Parameters
    ----------
    campaign
        Folder of the campaign.
    output
        Folder to write into; None: the campaign's.

    Raises
    ------
    IntegrityError
        When the journal is damaged.
    StorageError
        When the disk refuses.
    """
    folder = output or campaign
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    view, found = build_view(campaign), load_found(campaign)
    page, text = folder / "report.html", folder / "report.md"
    state = load_state(CampaignPaths(campaign.resolve()).journal)
    if table := results_csv(state, view.candidates):
        write_atomic(folder / RESULTS_FILE, table.encode())
    if trials := optuna_export(state, view.candidates):
        write_atomic(folder / OPTUNA_FILE, trials.encode())
    errors = load_split_errors(campaign)
    write_atomic(text, render_markdown(view, found, errors).encode())
    reach(FaultPoint.REPORT_MARKDOWN)
    drawn = render_html(view, load_evaluation(campaign), found, load_timeline(campaign), errors)
    write_atomic(page, drawn.encode())
    reach(FaultPoint.REPORT_WRITTEN)
    return page, text, view
