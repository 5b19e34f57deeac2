"""Input files that stages read, and what is said and refused when some are gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.recorded_sources import recorded_sources
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.engine.decisions.decide import finished_stage
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.stages.ingest import NAME as INGEST
from gfm_pipeline.engine.stages.table import stages_of
from gfm_pipeline.workflow.gone_files import gone_digests
from gfm_pipeline.workflow.load import LoadedWorkflow
from gfm_pipeline.workflow.resolve import resolve_structures


def structures_of_stages(
    loaded: LoadedWorkflow, paths: CampaignPaths
) -> tuple[dict[str, SourceSettings], dict[str, str]]:
    """Return the files that stages other than ingest read, by stage, and the recorded digests of missing ones.

    Raises
    ------
    WorkflowError
        When the section of a stage does not fit the rest of the workflow, or a file is missing.
    """
    found: dict[str, SourceSettings] = {}
    gone: dict[str, str] = {}
    for stage in stages_of(loaded.model):
        misfit = stage.misfit(loaded.model)
        if misfit is not None:
            raise loaded.error(misfit.keys, misfit.message, misfit.hint)
        structures = stage.structures(loaded.model)
        if structures is not None:
            recorded = recorded_sources(paths, stage.name)
            found[stage.name] = resolve_structures(loaded, stage.name, structures, recorded.get(stage.name, ()))
            gone |= gone_digests((found[stage.name],), recorded)
    return found, gone


def need_finished(context: Context, loaded: LoadedWorkflow, gone: Mapping[str, str]) -> None:
    """Refuse to continue without files that a stage still has to read under the present settings."""
    readers = {INGEST: (context.sources, ("data", "sources"))}
    readers |= {name: ((one.source,), (name, "structures")) for name, one in context.structures.items()}
    for stage, (sources, place) in readers.items():
        missing = [file for source in sources for file in source.files if file in gone]
        if missing and finished_stage(context, load_state(context.paths.journal), stage) is None:
            raise loaded.error(
                place,
                f"{stage.capitalize()} has to run, since its settings or files changed, and "
                f"{listed_settings(missing)}.",
                "Put the files back, or undo the change: what was published under it is used then.",
            )


def listed_settings(gone: Iterable[str | Path]) -> str:
    """Return a clause that names missing source files."""
    names = [str(path) for path in gone]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"source files are gone ({', '.join(names[:3])}{more})" if names[1:] else f"the source file {names[0]} is gone"
    )


def gone_note(gone: Collection[Path]) -> str | None:
    """Return a message for users about missing sources that are no longer needed; None: there are none."""
    if not gone:
        return None
    note = listed_settings(gone)
    return f"{note[0].upper()}{note[1:]}; they are read and needed no more: their recorded digests are used."
