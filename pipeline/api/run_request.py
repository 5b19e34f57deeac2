"""A request to run a workflow on a site, in a folder; kept in the journal and in batch scripts."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.api.fine_tuning import fine_tuned
from gfm_pipeline.api.folders import existing
from gfm_pipeline.api.search_check import (
    refuse_contradictions,
    refuse_unmeasured,
    refuse_unreachable_memory,
    with_reduction,
)
from gfm_pipeline.api.stage_inputs import need_finished, structures_of_stages
from gfm_pipeline.campaign.identity import file_digests
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.recorded_policies import recorded_settings
from gfm_pipeline.campaign.recorded_sources import recorded_sources
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.policies import PROPOSALS, UNSAID, default_choice
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.decide import finished_stage, stage_names
from gfm_pipeline.engine.decisions.requests import Context, Structures
from gfm_pipeline.engine.resources.allocation import Impossible
from gfm_pipeline.engine.resources.requirements import Resources, decide_for_stages, decide_resources
from gfm_pipeline.engine.resources.stage_jobs import as_before, jobs_of, rest_job, with_own_jobs
from gfm_pipeline.engine.stages import search
from gfm_pipeline.engine.stages.ingest import NAME as INGEST
from gfm_pipeline.sites.enums import Staging
from gfm_pipeline.sites.registry import LoadedSite, load_site, split_sets
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.workflow.gone_files import gone_digests
from gfm_pipeline.workflow.load import LoadedWorkflow, load_workflow
from gfm_pipeline.workflow.resolve import input_names, resolve_sources
from gfm_pipeline.workflow.schema import PROPOSALS_OF_EARLIER, WorkflowModel

if TYPE_CHECKING:
    from gfm_pipeline.search.warm_start import Prior


@dataclass(frozen=True)
class SiteChoice:
    """The user's choice of a site, which the journal keeps for `resume`."""

    name: str
    overlays: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the choice with absolute paths, since `resume` may run in another folder."""
        name = str(Path(self.name).resolve()) if self.name.endswith((".yaml", ".yml")) else self.name
        return {"name": name, "overlays": [str(path.resolve()) for path in self.overlays]}

    @classmethod
    def from_json(cls, recorded: dict[str, Any] | None) -> SiteChoice:
        """Return the choice from the output of `to_json`; the local site for campaigns without a record."""
        if recorded is None:
            return cls("local")
        return cls(recorded["name"], tuple(Path(path) for path in recorded["overlays"]))


@dataclass(frozen=True)
class ResolvedRun:
    """A checked and resolved workflow on a site, in a folder; without any write so far."""

    loaded: LoadedWorkflow
    loaded_site: LoadedSite
    context: Context
    digests: dict[str, str]  # input file -> SHA-256
    resources: Resources
    gone: tuple[Path, ...] = ()  # missing source files that are no longer needed
    goes_on: bool = False  # whether later stages follow in their own allocation
    requested: Resources | None = None  # of all stages in the allocation of the workflow; None: those in use

    @property
    def site(self) -> SiteModel:
        """The site itself."""
        return self.loaded_site.model

    @property
    def planned(self) -> Resources:
        """Resources of all stages in the allocation of the workflow, for a plan of the whole campaign."""
        return self.requested or self.resources

    def input_bytes(self) -> int:
        """Return the size of all existing input files."""
        return sum(_size(Path(name)) for source in self.context.sources for name in source.files)


def _size(path: Path) -> int:
    inner = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path] if path.exists() else []
    return sum(p.stat().st_size for p in inner)


def resolve(
    workflow: Path,
    site_name: str,
    folder: Path | None,
    overrides: tuple[str, ...],
    overlays: tuple[Path, ...] = (),
    kept: Path | None = None,
    until: str | None = None,
) -> ResolvedRun:
    """Check all that can be checked without running; write nothing."""
    of_workflow, of_site = split_sets(overrides)
    loaded = load_workflow(workflow, of_workflow, kept)
    loaded_site = load_site(site_name, overlays, of_site)
    site = loaded_site.model
    root = folder or workflow.resolve().parent / "campaigns" / loaded.model.name
    paths = CampaignPaths(root.resolve())
    loaded, earlier = fine_tuned(loaded, paths)
    resources = decide_resources(loaded.model, site)
    if isinstance(resources, Impossible):
        raise _refused(resources, loaded, loaded_site)
    split = with_own_jobs(loaded.model, site, resources)
    recorded = recorded_sources(paths, INGEST)
    sources = resolve_sources(loaded, recorded)
    own, own_gone = structures_of_stages(loaded, paths)
    files = [Path(f) for source in (*sources, *own.values()) for f in source.files]
    check_names([paths.root, workflow.resolve(), *files])
    gone = gone_digests(sources, recorded) | own_gone
    digests = file_digests([f for f in files if str(f) not in gone], paths.digests) | gone
    begun = recorded_settings(paths.journal, search.NAME)
    if begun is None:  # a search that has begun goes on: its members may come from lower rungs
        if (paths.root / "stages").is_dir():
            existing(paths.root)  # a lost journal is the first fault to name
        loaded = replace(loaded, model=with_reduction(loaded.model))
        refuse_contradictions(loaded)
        refuse_unmeasured(loaded, site)
        refuse_unreachable_memory(loaded, site)
    else:
        loaded = replace(loaded, model=_as_begun(loaded.model, begun))
    loaded = replace(loaded, model=loaded.model.model_copy(update={"allocation": split}))
    context = Context(
        workflow=loaded.model,
        sources=sources,
        source_digests=input_names(sources, digests),
        slots=resources.at_a_time(search.NAME),
        threads=site.threads_per_task,
        paths=paths,
        sizes=resources.sizes,
        until=until,
        warm_start=_warm_start(loaded, paths),
        structures={name: Structures(source, input_names((source,), digests)) for name, source in own.items()},
        earlier=earlier,
    )
    names = stage_names(context)
    _check_stage_names(loaded, names)
    if until is not None and until not in names:
        raise ConfigError(f"There is no stage {until!r} for --until.", suggestion(until, names))
    if gone:
        need_finished(context, loaded, gone)
    return ResolvedRun(loaded, loaded_site, context, digests, resources, tuple(map(Path, gone)))


def _warm_start(loaded: LoadedWorkflow, paths: CampaignPaths) -> tuple[Prior, ...]:
    """Return the initial results of a search; if the file is gone, those recorded by a search that has begun."""
    name = loaded.model.search.warm_start
    if name is None:
        return ()
    path = loaded.path.resolve().parent / name
    begun = (recorded_settings(paths.journal, search.NAME) or {}).get("warm_start")
    if begun is not None and not path.exists():
        return tuple((settings, value) for settings, value in begun)
    from gfm_pipeline.search.warm_start import read_results  # here: most searches do not need it

    return read_results(path, loaded.model.search.space.compile()).results


def _check_stage_names(loaded: LoadedWorkflow, names: Sequence[str]) -> None:
    """Refuse settings of a stage that is not in the campaign."""
    for section, stages in (("allocation", loaded.model.allocation.stages), ("budget", loaded.model.budget.stages)):
        for name in stages:
            if name not in names:
                raise loaded.error(
                    (section, "stages", name),
                    f"There is no stage {name!r} in this campaign.",
                    suggestion(name, list(names)),
                )


def for_next_stage(run: ResolvedRun) -> ResolvedRun:
    """Return a run in the allocation of the next stage, up to the last stage that shares this allocation."""
    model, site, context = run.loaded.model, run.site, run.context
    names = stage_names(context)
    journal = context.paths.journal
    state = load_state(journal) if journal.exists() else CampaignState()
    todo = [name for name in names if finished_stage(context, state, name) is None]
    if not todo or site.scheduler.system is None:
        return run
    held = _nodes_of(model, site, todo[0])
    if (rest := rest_job(context, state, site, held, state.last_event)) is not None:
        stages = {**model.allocation.stages, todo[0]: rest}
        allocation = model.allocation.model_copy(update={"stages": stages})
        model = as_before(model, todo[0], run.resources.sizes[todo[0]]).model_copy(update={"allocation": allocation})
    if not model.allocation.stages:
        return run
    first = model.allocation.of_stage(todo[0])
    together = list(takewhile(lambda name: model.allocation.of_stage(name) == first, todo))
    resources = decide_for_stages(model, site, run.resources, together)
    if isinstance(resources, Impossible):
        raise _refused(resources, run.loaded, run.loaded_site)
    until = together[-1] if context.until is None or context.until not in together else context.until
    slots = resources.at_a_time(search.NAME) if search.NAME in together else context.slots
    bounded = replace(context, until=until, sizes=resources.sizes, slots=slots)
    goes_on = until == together[-1] and until not in (names[-1], context.until)
    return replace(run, context=bounded, resources=resources, requested=run.resources, goes_on=goes_on)


def _nodes_of(model: WorkflowModel, site: SiteModel, stage: str) -> int:
    """Return the number of nodes in the job of a stage."""
    return next((job.nodes for stages, job in jobs_of(model, site) if stage in stages), 0)


def _as_begun(model: WorkflowModel, begun: Mapping[str, Any]) -> WorkflowModel:
    """Return a workflow with its campaign's original defaults where the file sets nothing and defaults have changed."""
    before = {"proposals": default_choice(PROPOSALS, UNSAID["proposals"]), "asynchronous": False}
    kept = {k: v for k, v in before.items() if k not in model.search.model_fields_set and k not in begun}
    if "proposals" not in model.search.model_fields_set:
        kept |= [("proposals", c) for c in PROPOSALS_OF_EARLIER if to_plain(c) == begun.get("proposals")]
    if "reduction" not in model.search.model_fields_set and "reduction" in begun:
        kept["reduction"] = begun["reduction"]  # whatever the number of members is now
    if "rungs" not in model.search.model_fields_set and "rungs" in begun:
        kept["rungs"] = list(begun["rungs"])
    kept["space"] = model.search.space.as_begun(begun.get("space", {}))
    model = model.model_copy(update={"search": model.search.model_copy(update=kept)})
    members, cap = begun.get("members", {}), math.ceil(model.converge.members / 2)
    halved = math.ceil(members.get("count", 0) / 2)  # the former default limit
    if model.converge.max_per_algorithm is None and members.get("max_per_algorithm") == halved:
        model = model.model_copy(update={"converge": model.converge.model_copy(update={"max_per_algorithm": cap})})
    return model


def check_names(paths: Iterable[Path]) -> None:
    """Refuse paths that records cannot contain: records are UTF-8, but a path may have any bytes.

    Raises
    ------
    ConfigError
        With the first such path.
    """
    for path in paths:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        if shown != str(path):
            raise ConfigError(f"The path {shown} is not UTF-8, so no record can name it.", "Rename it.")


def _refused(found: Impossible, loaded: LoadedWorkflow, site: LoadedSite) -> ConfigError:
    """Return the error of impossible settings, with the place of the key at fault."""
    keys = tuple(found.key.split("."))
    if keys[0] == "site":
        return site.error(keys[1:], found.message, found.hint)
    return loaded.error(keys, found.message, found.hint)


@dataclass(frozen=True)
class RunRequest:
    """A workflow, a site, a campaign folder (None: the default one), and ``--set``.

    ``kept`` is the copy of the workflow from the submission of a job: the job runs this copy, even after changes of the
    file. ``until`` is the last stage to run; None: all stages run.
    """

    workflow: Path
    choice: SiteChoice
    folder: Path | None
    overrides: tuple[str, ...]
    kept: Path | None = None
    until: str | None = None

    def resolve(self) -> ResolvedRun:
        """Check and resolve the request; write nothing.

        Raises
        ------
        ConfigError
            When the request cannot run.
        """
        choice = self.choice
        found = resolve(self.workflow, choice.name, self.folder, self.overrides, choice.overlays, self.kept, self.until)
        return for_next_stage(found)

    def is_edited(self) -> bool:
        """Return whether the workflow has changed since the submission of the job."""
        try:
            return self.kept is not None and self.workflow.read_bytes() != self.kept.read_bytes()
        except OSError:
            return True

    def options(self) -> list[str]:
        """Return the options for the same site and settings, valid in any folder."""
        recorded = self.choice.to_json()
        words = ["--site", recorded["name"]]
        for overlay in recorded["overlays"]:
            words += ["--overlay", overlay]
        for text in self.overrides:
            words += ["--set", text]
        return words

    def command(self, site: SiteModel, root: Path) -> list[str]:
        """Return the command line that drives the campaign in folder ``root``, for use in a job."""
        workflow = str(self.workflow.resolve())
        words = ["run", workflow, "--campaign", str(root), *self.options()]
        if self.kept is not None:
            words += ["--as-submitted", str(self.kept)]
        if self.until is not None:
            words += ["--until", self.until]
        return module_command("gfm_pipeline", *words, python=job_python(site))


def job_python(site: SiteModel) -> str:
    """Return the interpreter of a batch job: that of its own (staged or activated) environment, else this one."""
    own = site.staging.kind is not Staging.NONE or site.profiles[site.profile].activate is not None
    return "python" if own else sys.executable


def last_request(paths: CampaignPaths) -> RunRequest:
    """Return the request of a campaign's last run.

    Raises
    ------
    ConfigError
        When the campaign has never run.
    """
    state = load_state(paths.journal)
    if not state.drivers:
        raise ConfigError(f"{paths.root} has never run.", "Use `gfm-pipeline run WORKFLOW`.")
    info = state.drivers[-1].info
    overrides = tuple(str(text) for text in info.resolved.get("overrides", []))
    choice = SiteChoice.from_json(info.resolved.get("site"))
    return RunRequest(Path(info.workflow), choice, paths.root, overrides)
