"""Predict: the calibrated ensemble answers for files of structures, in parts that share nodes.

It runs in campaigns whose workflow has the section ``predict:``, and is declared by an entry point, as the stages of
other packages are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import StageDone, StageFailedEvent
from gfm_pipeline.campaign.paths import StagePaths
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.deploy import (
    JoinPartsResult,
    JoinPartsSpec,
    PredictFilesSpec,
    PredictPartResult,
    PredictPartSpec,
)
from gfm_pipeline.core.contracts.extensions import suggestion
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
from gfm_pipeline.engine.stages import calibrate
from gfm_pipeline.engine.stages.base import Done, Misfit, Records, Stage, Work
from gfm_pipeline.engine.stages.ingest import source_content

if TYPE_CHECKING:
    from gfm_pipeline.workflow.predict_section import PredictModel
    from gfm_pipeline.workflow.schema import WorkflowModel
    from gfm_pipeline.workflow.source_schema import SourceModel

NAME = "predict"
PART = Program("deploy.predict_part", PredictPartSpec, PredictPartResult)
JOIN = Program("deploy.join_parts", JoinPartsSpec, JoinPartsResult)
SUMMARY = "summary"


def part_name(number: int) -> str:
    """Return the name of the task that predicts a part."""
    return f"part-{number:05d}"


def _section(workflow: WorkflowModel) -> PredictModel:
    section: PredictModel = getattr(workflow, NAME)
    return section


def _part(context: Context, stage: StageState, ensemble: Path, number: int) -> AnyRequest:
    section, source = _section(context.workflow), context.structures[NAME].source
    files = PredictFilesSpec(
        model=str(ensemble),
        source=source,
        dataset=section.dataset or next(iter(context.workflow.data.sources)),
        evaluate=section.evaluate,
        by_group=source.group_key is not None,
        batch_atoms=section.batch_atoms,
        dtype=section.dtype,
        limits=context.workflow.limits.reading(),
        on_out_of_domain=section.out_of_domain,
    )
    output = str(stage_paths(context, stage).predictions(part_name(number)))
    spec = PredictPartSpec(files, number, section.format, output)
    return TaskRequest(stage.key, NAME, part_name(number), PART, spec)


class Predict(Stage):
    """Predict: structures of files, with every target, spread and interval."""

    name = NAME
    after = calibrate.NAME
    section = "gfm_pipeline.workflow.predict_section:PredictModel"

    def misfit(self, workflow: WorkflowModel) -> Misfit | None:
        """Return an unknown dataset head, or one that is missing where there are several."""
        dataset, heads = _section(workflow).dataset, sorted(workflow.data.sources)
        if dataset is None and len(heads) > 1:
            message, hint = "The model has several dataset heads.", f"Add predict.dataset: one of {', '.join(heads)}."
            return Misfit((NAME,), message, hint)
        if dataset is not None and dataset not in heads:
            return Misfit((NAME, "dataset"), f"There is no source {dataset!r}.", suggestion(dataset, heads))
        return None

    def structures(self, workflow: WorkflowModel) -> SourceModel | None:
        """Return the structures to predict."""
        return _section(workflow).structures.as_source()

    def settings(self, context: Context) -> dict[str, Any]:
        """Return the settings of the predictions; files enter by content, not by path."""
        section = _section(context.workflow).model_dump(mode="json", exclude={"structures", "batch_atoms"})
        return {**section, "structures": source_content(context.structures[NAME].source)}

    def inputs(self, context: Context) -> dict[str, str]:
        """Return the digests of the files."""
        return dict(context.structures[NAME].digests)

    def advance(self, context: Context, stage: StageState, done: Done) -> Step:
        """Decide the next step: all parts, then their sum."""
        if (failure := first_failure(stage)) is not None:
            return Step(events=(StageFailedEvent(stage.key, failure),))
        names = [part_name(number) for number in range(self._source(context).shards)]
        parts = [result_of(stage, name, PART) for name in names]
        if any(part is None for part in parts):
            ensemble = stage_paths(context, done[calibrate.NAME]).ensemble
            return Step(tasks=to_start(stage, [_part(context, stage, ensemble, k) for k in range(len(names))]))
        joined = result_of(stage, SUMMARY, JOIN)
        if joined is not None:
            digests = {name: part.digest for name, part in zip(names, parts, strict=True) if part is not None}
            return Step(events=(StageDone(stage.key, {**digests, SUMMARY: joined.digest}),))
        places = stage_paths(context, stage)
        spec = JoinPartsSpec(tuple(str(places.predictions(name)) for name in names), str(places.root / SUMMARY))
        return Step(tasks=to_start(stage, [TaskRequest(stage.key, NAME, SUMMARY, JOIN, spec)]))

    def _source(self, context: Context) -> SourceSettings:
        return context.structures[NAME].source

    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the predictions of a part, or the summary."""
        return places.root / SUMMARY if task == SUMMARY else places.predictions(task)

    def task_of(self, places: StagePaths, folder: Path) -> str:  # noqa: ARG002 - folders have the names of tasks
        """Return the task that publishes a part, or the summary."""
        return folder.name

    def output_tasks(self, stage: StageState) -> list[str]:
        """Return all parts and the summary."""
        return list(stage.outputs or ())

    def program_of(self, task: str) -> Program[Any, Any]:
        """Return the program of a task."""
        return JOIN if task == SUMMARY else PART

    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return the demand of predicting all parts at a time."""
        return SharedDemand(_section(workflow).structures.shards, getattr(workflow.resources, NAME).cores, gpu=True)

    def work(self, context: Context, state: CampaignState) -> Work:  # noqa: ARG002 - settings alone say it
        """Return the number of parts and files."""
        from gfm_pipeline.sites.limits import counted  # here: viewing a campaign does not need the sites' schema

        source = self._source(context)
        return Work(
            f"predictions of {counted(len(source.files), 'file')} in {counted(source.shards, 'part')}",
            source.shards + 1,
        )

    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:  # noqa: ARG002
        """Return the number of parts plus one."""
        return int(stage.settings["structures"]["shards"]) + 1

    def describe(self, stage: StageState, records: Records) -> str:  # noqa: ARG002 - its own tasks say it
        """Return the numbers of predicted and of refused structures."""
        tasks = sorted(stage.tasks)
        parts = [one for name in tasks if name != SUMMARY and (one := result_of(stage, name, PART)) is not None]
        if not parts:
            return "predicting"
        refused = sum(part.n_refused for part in parts)
        outside = sum(part.outside or 0 for part in parts)
        text = f"{sum(part.structures for part in parts):,} structures predicted"
        text += f", {outside:,} of them unlike the training data" if outside else ""
        return text + (f"; {refused:,} refused" if refused else "")

    def describe_result(self, result: Any) -> str:
        """Return the numbers of structures, and the errors of the whole."""
        refused = f", {result.n_refused:,} refused" if result.n_refused else ""
        text = f"{result.structures:,} structures{refused}"
        if isinstance(result, JoinPartsResult):
            whole = [f"{e.target} MAE {e.mae:.3g} {e.unit}" for e in result.errors if e.by == "all"]
            text = "; ".join([text, *whole])
        return text


PREDICT = Predict()
