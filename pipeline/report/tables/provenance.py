"""Tables of sources, provenance and citations of a campaign's data and results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import MISSING, plain
from gfm_pipeline.report.view import CampaignView

_NODES = 12  # number of named nodes


def data_provenance(view: CampaignView) -> Table:
    """Return the workflow's facts of each source: reader, level of theory, licence, citation."""
    rows = tuple(
        (
            name,
            plain(source.get("reader")),
            *(_stated(source, key) for key in ("level_of_theory", "licence", "citation")),
        )
        for name, source in _sources(view).items()
    )
    columns = (Column("Source"), Column("Reader"), Column("Level of theory"), Column("Licence"), Column("Citation"))
    missing = any(MISSING in row[2:4] for row in rows)
    note = "Say level_of_theory, licence and citation of each source in the workflow: they stay with the model."
    return Table(columns, rows, note if missing else "")


def made_with(view: CampaignView, nodes: Iterable[str] = ()) -> tuple[tuple[str, str], ...]:
    """Names and values of the origin of the results: program, site, nodes."""
    names = list(nodes)
    shown = ", ".join(names[:_NODES]) + (f" and {len(names) - _NODES} more" if len(names) > _NODES else "")
    found = [("gfm-pipeline", view.version), ("Site", view.site), ("Workflow", view.workflow)]
    tuned = view.resolved.get("fine_tune")
    if isinstance(tuned, Mapping):
        found.append(("Fine-tuned from", str(tuned.get("model"))))
    return (*found, *([("Nodes", shown)] if shown else []))


def citations(view: CampaignView) -> tuple[str, ...]:
    """Return the citations: this program as in CITATION.cff, and those of each source."""
    listed = [f"Data {name}: {text}" for name, source in _sources(view).items() if (text := source.get("citation"))]
    return (
        f"gfm-pipeline {view.version}, campaigns that train calibrated ensembles of graph foundation models "
        "(CITATION.cff in its source).",
        *listed,
    )


def _sources(view: CampaignView) -> Mapping[str, Mapping[str, Any]]:
    data = view.resolved.get("data")
    sources = data.get("sources") if isinstance(data, Mapping) else None
    return sources if isinstance(sources, Mapping) else {}


def _stated(source: Mapping[str, Any], key: str) -> str:
    value = source.get(key)
    return str(value) if value else MISSING
