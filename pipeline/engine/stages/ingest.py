"""Ingest: one task a shard, then one dataset a source."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gfm_pipeline.campaign.events import StageDone, StageFailed, StageName
from gfm_pipeline.campaign.state import StageState
from gfm_pipeline.core.contracts.data import (
    LATER_SETTINGS,
    SHARD_MB,
    AssembleSpec,
    EdgeStorage,
    ReadShardSpec,
    SourceSettings,
)
from gfm_pipeline.core.contracts.training import DatasetRef
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.requests import (
    Context,
    Program,
    Step,
    TaskRequest,
    first_failure,
    result_of,
    stage_paths,
    to_start,
)

# Settings that came later: at these values they change nothing of a dataset that was made before there were any, and
# campaigns of that time keep the keys of their stages.
_LATER = {f.name: f.default for f in fields(SourceSettings) if f.name in LATER_SETTINGS}


def _of(source: SourceSettings) -> dict[str, Any]:
    return {k: v for k, v in to_plain(source).items() if k != "files" and not (k in _LATER and v == _LATER[k])}


def settings(context: Context) -> dict[str, Any]:
    """Return what the datasets depend on; files enter by content, not by place."""
    data = context.workflow.data
    sources = {s.name: _of(s) for s in context.sources}
    return {
        "seed": context.workflow.seed,
        "validation": data.validation,
        "test": data.test,
        "max_quarantined": data.max_quarantined,
        "sources": sources,
        **({} if data.shard_mb == SHARD_MB else {"shard_mb": data.shard_mb}),
        **({} if (within := edges_within(context)) is None else {"edges_within": within}),
    }


def edges_within(context: Context) -> float | None:
    """Return the distance within which edges are stored: the largest cutoff of the search; None: none are."""
    if context.workflow.data.edges is EdgeStorage.ON_THE_FLY:
        return None
    return context.workflow.search.space.compile().largest("cutoff")


def read_name(source: str, shard: int) -> str:
    """Return the name of the task that reads a shard."""
    return f"read-{source}-{shard:05d}"


def assemble_name(source: str) -> str:
    """Return the name of the task that joins the shards of a source."""
    return f"assemble-{source}"


def dataset_refs(context: Context, stage: StageState) -> tuple[DatasetRef, ...]:
    """Return the published datasets, in the order that numbers the branches of the models."""
    paths = stage_paths(context, stage)
    return tuple(DatasetRef(s.name, str(paths.dataset(s.name))) for s in context.sources)


def advance(context: Context, stage: StageState) -> Step:
    """Decide the next step of ingest."""
    if (failure := first_failure(stage)) is not None:
        return Step(events=(StageFailed(stage.key, failure),))
    outputs: dict[str, str] = {}
    requests: list[TaskRequest] = []
    for source in context.sources:
        done = result_of(stage, assemble_name(source.name))
        if done is not None:
            outputs[source.name] = done["digest"]
            continue
        names = [read_name(source.name, shard) for shard in range(source.shards)]
        if all(result_of(stage, name) is not None for name in names):
            requests.append(_assemble(context, stage, source))
        else:
            requests += [_read(context, stage, source, shard) for shard in range(source.shards)]
    if len(outputs) == len(context.sources):
        return Step(events=(StageDone(stage.key, outputs),))
    # Joins first: they free nothing else to do, and the largest source should not come last.
    requests.sort(key=lambda r: r.program is not Program.ASSEMBLE)
    return Step(tasks=to_start(stage, requests))


def _read(context: Context, stage: StageState, source: SourceSettings, shard: int) -> TaskRequest:
    output = stage_paths(context, stage).shard(source.name, shard)
    spec = ReadShardSpec(source, shard, context.workflow.seed, str(output), context.workflow.limits.reading())
    return TaskRequest(stage.key, StageName.INGEST, read_name(source.name, shard), Program.READ, spec)


def _assemble(context: Context, stage: StageState, source: SourceSettings) -> TaskRequest:
    paths, data = stage_paths(context, stage), context.workflow.data
    spec = AssembleSpec(
        source=source,
        shards=tuple(str(paths.shard(source.name, shard)) for shard in range(source.shards)),
        validation=data.validation,
        test=data.test,
        max_quarantined=data.max_quarantined,
        seed=context.workflow.seed,
        output=str(paths.dataset(source.name)),
        shard_mb=data.shard_mb,
        edges_within=edges_within(context),
    )
    return TaskRequest(stage.key, StageName.INGEST, assemble_name(source.name), Program.ASSEMBLE, spec)
