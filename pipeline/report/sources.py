"""Progress of reading each source, and the results of joined sources; reads only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import StageState, TaskState, TaskStatus
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.data import QUARANTINE_FILE, AssembleResult, ReadShardResult
from gfm_pipeline.core.contracts.ingest.report import REPORT_DATA_FILE, REPORT_FILE, IngestReport
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import read_manifest
from gfm_pipeline.core.records import from_plain
from gfm_pipeline.engine.stages import ingest
from gfm_pipeline.engine.stages.ingest import assemble_name, read_name
from gfm_pipeline.engine.tasks.task_files import newest_progress
from gfm_pipeline.report.view import SourceView, StageStatus


@dataclass(frozen=True)
class Found:
    """Ingest's files of a dataset: the list of quarantined records, the report, and the report's numbers.

    ``numbers`` is None for a dataset of a version without numbers, and if ``problem`` gives a reason.
    """

    quarantine: str
    report: str
    numbers: IngestReport | None = None
    problem: str = ""


def build_sources(paths: CampaignPaths, stage: StageState | None, alive: bool) -> tuple[SourceView, ...]:
    """Return the facts of every source, in the order of the workflow; ``alive``: whether the driver is running."""
    if stage is None:
        return ()
    return tuple(_source(paths, stage, name, alive) for name in stage.settings["sources"])


def assembled(stage: StageState | None) -> list[AssembleResult]:
    """Return the results of joined sources, in the order in which their joins began."""
    if stage is None:
        return []
    joins = [task for name, task in stage.tasks.items() if name.startswith("assemble-")]
    return [result for task in joins if (result := task.decoded(AssembleResult)) is not None]


def _source(paths: CampaignPaths, stage: StageState, name: str, alive: bool) -> SourceView:
    shards = int(stage.settings["sources"][name]["shards"])
    reads = [stage.tasks[n] for n in (read_name(name, k) for k in range(shards)) if n in stage.tasks]
    join = stage.tasks.get(assemble_name(name))
    read = [result for task in reads if (result := task.decoded(ReadShardResult)) is not None]
    joined = None if join is None else join.decoded(AssembleResult)
    if joined is not None:
        facts = joined.statistics
        records = sum(facts.n_structures.values()) + facts.n_quarantined
        return SourceView(
            name, StageStatus.DONE, shards, shards, records, facts.n_quarantined, facts.reasons,
            str(paths.stage(stage.stage, stage.key).dataset(name) / QUARANTINE_FILE),
        )  # fmt: skip
    tasks = [*reads, *([] if join is None else [join])]
    records = sum(result.n_records + result.n_quarantined for result in read)
    set_aside = sum(result.n_quarantined for result in read)
    for task in reads:
        if task.status is TaskStatus.RUNNING:
            done, bad = _progress(paths, stage, task)
            records, set_aside = records + done, set_aside + bad
    if join is not None:  # the join finds more faults, and includes those of its shards
        set_aside = max(set_aside, _progress(paths, stage, join)[1])
    reasons: Counter[str] = Counter()
    for result in read:
        reasons.update(result.reasons)
    listed = str(paths.stage(stage.stage, stage.key).shard(name, 0).with_name(f"{name}-*") / QUARANTINE_FILE)
    return SourceView(
        name, _status(tasks, alive), shards, len(read), records, set_aside,
        dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))), listed if set_aside else "",
    )  # fmt: skip


def _status(tasks: Iterable[TaskState], alive: bool) -> StageStatus:
    states = {task.status for task in tasks}
    if TaskStatus.FAILED in states:
        return StageStatus.FAILED
    if alive:
        return StageStatus.RUNNING if TaskStatus.RUNNING in states else StageStatus.WAITING
    return StageStatus.STOPPED if states else StageStatus.WAITING


def _progress(paths: CampaignPaths, stage: StageState, task: TaskState) -> tuple[int, int]:
    """Return the numbers of processed and of quarantined records in the newest attempt."""
    newest = newest_progress(paths.stage(stage.stage, stage.key).attempt(task.name, task.attempt))
    return int(newest.get("done") or 0), int(newest.get("quarantined") or 0)


def load_found(campaign: Path) -> dict[str, Found]:
    """Return ingest's files of every dataset, by name; ``problem`` describes damaged or missing ones.

    Raises
    ------
    IntegrityError
        When the journal is damaged.
    """
    paths = CampaignPaths(campaign.resolve())
    stage = load_state(paths.journal).stage(ingest.NAME)
    if stage is None:
        return {}
    names = [result.statistics.name for result in assembled(stage)]
    return {name: read_found(paths.stage(stage.stage, stage.key).dataset(name)) for name in names}


def read_found(folder: Path) -> Found:
    """Return ingest's files in the folder of a dataset; never raises an error for the folder's contents."""
    listed, report = str(folder / QUARANTINE_FILE), str(folder / REPORT_FILE)
    try:
        return Found(listed, report, _numbers(folder))
    except IntegrityError as error:
        return Found(listed, report, problem=str(error))


def _numbers(folder: Path) -> IngestReport | None:
    """Return the numbers of a dataset's ingest report, checked against its manifest; None if it has none."""
    entry = read_manifest(folder).files.get(REPORT_DATA_FILE)
    if entry is None:
        return None
    path = folder / REPORT_DATA_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}.") from error
    if sha256(data).hexdigest() != entry.sha256:
        raise IntegrityError(f"{path} was changed after it was published (its SHA-256 is another).")
    try:
        return from_plain(IngestReport, json.loads(data))
    except ValueError as error:
        raise IntegrityError(f"{path} is not a valid report of ingest: {str(error).splitlines()[0]}.") from error
