"""What a small sample of the sources shows before ingest converts them: elements that an earlier ensemble lacks."""

from __future__ import annotations

from gfm_pipeline.api.fine_tuning import refuse_unknown_elements
from gfm_pipeline.api.run_request import ResolvedRun
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.ingest.preview import Preview, PreviewSpec
from gfm_pipeline.core.errors import GFMError
from gfm_pipeline.core.subprocess_query import query
from gfm_pipeline.engine.decisions.decide import finished_stage
from gfm_pipeline.engine.stages.ingest import NAME as INGEST

RECORDS, SECONDS = 500, 5.0  # read of each source at most
STARTING = 600.0  # seconds: on a busy login node, imports take long
PATIENCE = 5.0  # seconds for one record


def refuse_sampled_elements(request: ResolvedRun, state: CampaignState) -> None:
    """Read a sample of each source of a fine-tuning, unless ingest is done, and refuse elements that are unknown.

    Ingest reads all records, and refuses what a sample lacks. Faults of a source are left to ingest, too, which names
    them.

    Raises
    ------
    WorkflowError
        When records have elements that the earlier ensemble does not know: with the source, its line, and the fix.
    """
    if request.context.earlier is None or finished_stage(request.context, state, INGEST) is not None:
        return
    limits = request.loaded.model.limits.reading(PATIENCE)
    for source in request.context.sources:
        if source.test_of is not None or not source.files:
            continue
        spec = PreviewSpec(source, request.loaded.model.seed, 0, RECORDS, SECONDS, limits)
        try:
            sample = query("gfm_pipeline.apps.ingest.preview", spec, Preview, SECONDS + STARTING)
        except GFMError:
            continue
        refuse_unknown_elements(request.loaded, {source.name: sample.elements})
