"""Ingest: one task per shard, then one dataset per source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import StageDone, StageFailedEvent, StageOpened, TakenOver
from gfm_pipeline.campaign.paths import StagePaths
from gfm_pipeline.campaign.stage_state import StageState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.data import (
    LATER_SETTINGS,
    SHARD_MB,
    AcrossSources,
    AssembleResult,
    AssembleSpec,
    EdgeStorage,
    ReadShardResult,
    ReadShardSpec,
    SourceSettings,
    is_test_set,
    learned,
)
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.target_checks import unlabelled_sentence
from gfm_pipeline.core.contracts.targets import Target, is_default
from gfm_pipeline.core.contracts.training import DatasetRef, TestSetRef
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.requests import (
    AnyRequest,
    Context,
    Program,
    Step,
    TaskRequest,
    first_failure,
    result_of,
    stage_paths,
    to_start,
)
from gfm_pipeline.engine.resources.demand import Demand, SharedDemand
from gfm_pipeline.engine.stages.base import Done, Records, Stage, Work
from gfm_pipeline.engine.stages.trials import ended_tasks

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel

NAME = "ingest"
READ = Program("ingest.read", ReadShardSpec, ReadShardResult)
ASSEMBLE = Program("ingest.assemble", AssembleSpec, AssembleResult)

# Newer settings: with these values, they do not change datasets from before these settings existed, and
# campaigns from that time keep the keys of their stages.
_LATER = {f.name: to_plain(f.default) for f in fields(SourceSettings) if f.name in LATER_SETTINGS}


def source_content(source: SourceSettings) -> dict[str, Any]:
    """Return the settings of a source that its records depend on; files enter by content, not by path."""
    plain = {k: v for k, v in to_plain(source).items() if k != "files" and not (k in _LATER and v == _LATER[k])}
    if lists := plain.get("split_indices"):
        plain["split_indices"] = [{k: v for k, v in one.items() if k != "path"} for one in lists]
    return plain


def _settings(context: Context) -> dict[str, Any]:
    """Return the settings of the datasets; files enter by content, not by path."""
    data = context.workflow.data
    sources = {s.name: source_content(s) for s in context.sources}
    return {
        "seed": context.workflow.seed,
        "validation": data.validation,
        "test": data.test,
        "max_quarantined": data.max_quarantined,
        "sources": sources,
        **({} if data.split_across_sources is AcrossSources.APART else {"split_across_sources": "together"}),
        **({} if data.shard_mb == SHARD_MB else {"shard_mb": data.shard_mb}),
        **({} if (within := edges_within(context)) is None else {"edges_within": within}),
    }


DESCRIPTIONS = ("level_of_theory", "licence", "citation")  # of a source: kept with its dataset, without effect
PACKING = ("shards",)


def _content(settings: Mapping[str, Any], packed: bool) -> dict[str, Any]:
    """Return settings without descriptions; ``packed``: also without the distribution over tasks and files."""
    left_out = DESCRIPTIONS + (PACKING if packed else ())
    sources = {
        name: {k: v for k, v in source.items() if k not in left_out} for name, source in settings["sources"].items()
    }
    rest = {k: v for k, v in settings.items() if k != "sources" and not (packed and k == "shard_mb")}
    return {**rest, "sources": sources}


def _of_source(opened: StageOpened | StageState, source: str) -> tuple[Any, dict[str, str]]:
    """Return the settings and files of a source, which determine its shards."""
    content = _content(opened.settings, False)["sources"].get(source)
    return content, {k: v for k, v in opened.inputs.items() if k.startswith(f"{source}/")}


def _last(settings: Mapping[str, Any]) -> str | None:
    """Return the source that is compared with all others when it is joined (`_compared_with`); None: one source."""
    sources = {name: source for name, source in settings["sources"].items() if not is_test_set(name)}
    return min(reversed(list(sources)), key=lambda name: sources[name]["shards"]) if len(sources) > 1 else None


def _is_same(task: str, opened: StageOpened, earlier: StageState) -> bool:
    """Return whether a task gives the same result for ``opened`` as for ``earlier``."""
    kind, _, rest = task.partition("-")
    source = rest if kind == "assemble" else rest.rpartition("-")[0]
    content, files = _of_source(opened, source)
    if content is None or (content, files) != _of_source(earlier, source):
        return False
    if opened.settings["seed"] != earlier.settings["seed"]:
        return False
    if kind != "assemble":
        return True
    now, before = ({k: v for k, v in s.items() if k != "sources"} for s in (opened.settings, earlier.settings))
    if now != before or "split_across_sources" in now:
        return False
    if is_test_set(source):  # compared with all that models learn from
        return all(_of_source(opened, name) == _of_source(earlier, name) for name in _learned(opened, earlier))
    last = (_last(opened.settings), _last(earlier.settings))
    return last == (None, None) or (source not in last and None not in last)


def _learned(*stages: StageOpened | StageState) -> set[str]:
    """Return the names of all sources of some stages that models learn from."""
    return {name for stage in stages for name in stage.settings["sources"] if not is_test_set(name)}


def edges_within(context: Context) -> float | None:
    """Return the largest distance of stored edges: the largest cutoff of the search; None: no stored edges."""
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
    """Return the published datasets, in the order of the models' branches."""
    paths = stage_paths(context, stage)
    return tuple(DatasetRef(s.name, str(paths.dataset(s.name))) for s in learned(context.sources))


def test_set_refs(context: Context, stage: StageState) -> tuple[TestSetRef, ...]:
    """Return the published test sets, each with the dataset whose branch predicts it."""
    paths = stage_paths(context, stage)
    return tuple(
        TestSetRef(s.name, str(paths.dataset(s.name)), s.test_of) for s in context.sources if s.test_of is not None
    )


def _advance(context: Context, stage: StageState) -> Step:
    """Decide the next step of ingest."""
    if (failure := first_failure(stage)) is not None:
        return Step(events=(StageFailedEvent(stage.key, failure),))
    outputs: dict[str, str] = {}
    datasets: list[DatasetStatistics] = []
    requests: list[AnyRequest] = []
    for source in context.sources:
        done = result_of(stage, assemble_name(source.name), ASSEMBLE)
        if done is not None:
            outputs[source.name] = done.digest
            datasets.append(done.statistics)
            continue
        names = [read_name(source.name, shard) for shard in range(source.shards)]
        if any(result_of(stage, name, READ) is None for name in names):
            requests += [_read(context, stage, source, shard) for shard in range(source.shards)]
            continue
        others = _compared_with(context, source)
        if all(result_of(stage, assemble_name(other.name), ASSEMBLE) is not None for other in others):
            requests.append(_assemble(context, stage, source, others))
    if len(outputs) == len(context.sources):
        columns = [(target, False) for target in context.workflow.targets if not is_default(target)]
        columns += [(attribute.column, True) for attribute in context.workflow.attributes]
        unlabelled = next((one for one in columns if not _known(one[0], datasets)), None)
        if unlabelled is not None:
            reason = unlabelled_sentence(unlabelled[0], "source of the workflow", unlabelled[1])
            return Step(events=(StageFailedEvent(stage.key, reason),))
        return Step(events=(StageDone(stage.key, outputs),))
    # Joins first: no other task waits for them, but the largest source should not come last.
    requests.sort(key=lambda r: r.program is not ASSEMBLE)
    return Step(tasks=to_start(stage, requests))


def _known(target: Target, datasets: Sequence[DatasetStatistics]) -> int:
    """Return the total number of labels of a target in all datasets."""
    return sum(sum(one.targets[target.name].known.values()) for one in datasets if target.name in one.targets)


def _read(context: Context, stage: StageState, source: SourceSettings, shard: int) -> AnyRequest:
    output = stage_paths(context, stage).shard(source.name, shard)
    spec = ReadShardSpec(source, shard, context.workflow.seed, str(output), context.workflow.limits.reading())
    return TaskRequest(stage.key, NAME, read_name(source.name, shard), READ, spec)


def _compared_with(context: Context, source: SourceSettings) -> tuple[SourceSettings, ...]:
    """Return the sources to join before this one: all others for the last source, which is compared with them.

    The last source has the fewest shards, because no other task runs while it is joined. A test set is compared with
    all sources that models learn from, its own first.
    """
    sources = learned(context.sources)
    if source.test_of is not None:
        return tuple(sorted(sources, key=lambda s: s.name != source.test_of))
    last = min(reversed(sources), key=lambda s: s.shards)
    return tuple(s for s in sources if s is not source) if source is last else ()


def _assemble(
    context: Context, stage: StageState, source: SourceSettings, others: tuple[SourceSettings, ...]
) -> AnyRequest:
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
        across=data.split_across_sources,
        compared=source.test_of is None and len(learned(context.sources)) > 1,
        others=tuple(str(paths.dataset(other.name)) for other in others),
    )
    return TaskRequest(stage.key, NAME, assemble_name(source.name), ASSEMBLE, spec)


class Ingest(Stage):
    """Ingest: converts structure files to datasets."""

    name = NAME
    after = ""
    optional = False

    def settings(self, context: Context) -> dict[str, Any]:
        """Return the settings of the datasets; files enter by content, not by path."""
        return _settings(context)

    def inputs(self, context: Context) -> dict[str, str]:
        """Return the digests of the files of all sources."""
        return dict(context.source_digests)

    def advance(self, context: Context, stage: StageState, done: Done) -> Step:  # noqa: ARG002 - it is the first stage
        """Decide the next step of ingest."""
        return _advance(context, stage)

    def same_results(self, opened: StageOpened, earlier: StageState) -> bool:
        """Return whether only descriptions of sources, or the packing of existing datasets, differ."""
        packed = earlier.outputs is not None
        return opened.inputs == earlier.inputs and _content(opened.settings, packed) == _content(
            earlier.settings, packed
        )

    def takes_over(self, opened: StageOpened, earlier: StageState) -> TakenOver | None:
        """Return the shards of unchanged sources, and their datasets if these depend on nothing else."""
        reused = [task for task in ended_tasks(earlier) if earlier.tasks[task].status is TaskStatus.DONE]
        return (
            TakenOver(earlier.key, tuple(task for task in reused if _is_same(task, opened, earlier)))
            if reused
            else None
        )

    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the shard or the dataset of a task."""
        kind, _, rest = task.partition("-")
        if kind == "assemble":
            return places.dataset(rest)
        source, _, shard = rest.rpartition("-")
        return places.shard(source, int(shard))

    def task_of(self, places: StagePaths, folder: Path) -> str:
        """Return the task that publishes a shard or a dataset."""
        joined = places.dataset(folder.name) == folder
        return assemble_name(folder.name) if joined else f"read-{folder.name}"

    def output_tasks(self, stage: StageState) -> list[str]:
        """Return the joins."""
        return [assemble_name(source) for source in stage.outputs or ()]

    def program_of(self, task: str) -> Program[Any, Any]:
        """Return the program of a task."""
        return ASSEMBLE if task.startswith("assemble-") else READ

    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return the demand of reading all shards at a time."""
        sources = workflow.data.sources.values()
        shards = sum(one.shards for source in sources for one in (source, *source.test_sets.values()))
        return SharedDemand(shards, workflow.resources.ingest.cores)

    def work(self, context: Context, state: CampaignState) -> Work:  # noqa: ARG002 - settings alone say it
        """Return the number of shards and joins."""
        from gfm_pipeline.sites.limits import counted  # here: viewing a campaign does not need the sites' schema

        shards = sum(s.shards for s in context.sources)
        return Work(
            f"{counted(shards, 'shard')} of {counted(len(context.sources), 'source')}", shards + len(context.sources)
        )

    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:  # noqa: ARG002
        """Return the number of shards and joins."""
        sources = stage.settings["sources"].values()
        return sum(int(s["shards"]) for s in sources) + len(sources)

    def describe(self, stage: StageState, records: Records) -> str:  # noqa: ARG002 - the records say it
        """Return the numbers of read and of quarantined records."""
        aside = f", {records.set_aside:,} set aside" if records.set_aside else ""
        if records.complete:
            return f"{records.read - records.set_aside:,} structures in {records.datasets} datasets{aside}"
        return f"{records.read:,} records read{aside}" if records.read else "reading"

    def describe_result(self, result: Any) -> str:
        """Return the sizes of a shard, of a dataset or of a test set."""
        if isinstance(result, ReadShardResult):
            bad = f", {result.n_quarantined} quarantined" if result.n_quarantined else ""
            return f"{result.n_records:,} records{bad}"
        counts, bad = result.statistics.n_structures, result.statistics.n_quarantined
        if is_test_set(result.statistics.name):
            text = f"test set of {sum(counts.values()):,}"
        else:
            text = "dataset of " + ", ".join(f"{n:,} {str(split).removesuffix('set')}" for split, n in counts.items())
        return text + (f"; {bad:,} quarantined" if bad else "")

    def warnings(self, result: Any) -> list[str]:
        """Return the warnings of a dataset; its shards give parts of the same warnings."""
        return list(result.statistics.warnings) if isinstance(result, AssembleResult) else []
