"""The command that shows what `run` would do, with resources and costs. It does not contact the batch system."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.table import Table

from gfm_pipeline.api.allocate import job_folder, job_shape
from gfm_pipeline.api.budget_check import refuse_budget
from gfm_pipeline.api.fine_tuning import known_elements_note
from gfm_pipeline.api.run_request import ResolvedRun, RunRequest, SiteChoice
from gfm_pipeline.api.stage_inputs import gone_note
from gfm_pipeline.campaign.budget_standing import sentence
from gfm_pipeline.campaign.folder import check_name
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.cli.options import workflow_options
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.engine.decisions.estimates import Estimate
from gfm_pipeline.engine.decisions.plan import CampaignPlan, TaskSize, make_plan
from gfm_pipeline.engine.stages.table import all_stages
from gfm_pipeline.execution.blocks import Scripts
from gfm_pipeline.sites.batch import block_script, resident_script
from gfm_pipeline.sites.enums import DriverMode
from gfm_pipeline.sites.launch import LaunchStrategy, group_shape, launch_line, pool_line
from gfm_pipeline.sites.limits import counted
from gfm_pipeline.sites.task_shape import TaskShape

POOL = "python -P -m gfm_pipeline.apps.runtime.forked_pool ..."  # Parsl completes this command at its start


@click.command()
@workflow_options
@JSON
@click.option("--show-scripts", is_flag=True, help="Also print the batch script and the launch lines.")
def plan(
    workflow: Path,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    show_scripts: bool,
) -> None:
    """Show which tasks `run` or `submit` would start for WORKFLOW, with reasons, nodes and costs.

    The command changes nothing, and does not contact the batch system.
    """
    run_request = RunRequest(workflow, SiteChoice(site, overlays), folder, overrides)
    request = run_request.resolve()
    state = check_name(request.context.paths, request.loaded.model.name) or CampaignState()
    refuse_budget(request, state)
    made = make_plan(request.context, state, request.site, request.planned, request.input_bytes())
    scripts = dict(_scripts(request, run_request)) if show_scripts else {}
    if as_json:
        print_answer(made, **({"scripts": scripts} if show_scripts else {}))
        return
    _show(made)
    for note in (gone_note(request.gone), known_elements_note(request.loaded)):
        if note is not None:
            click.echo(note)
    for name, text in scripts.items():
        click.echo(f"\n--- {name}\n{text.rstrip()}")


def _show(made: CampaignPlan) -> None:
    console = terminal.console()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("stage", "would", "tasks", "each on", "at a time", "work", "why"):
        table.add_column(heading, overflow="fold")
    for stage in made.stages:
        tasks = "?" if stage.tasks_left is None else str(stage.tasks_left)
        each = "\n".join(_each(size) for size in stage.sizes)
        most = stage.tasks_left or sys.maxsize
        at_a_time = "\n".join(f"{min(size.at_a_time, most):,}" for size in stage.sizes)
        table.add_row(stage.name, stage.action, tasks, each, at_a_time, stage.work, "\n".join(stage.why[:6]))
    console.print(table)
    lines = [f"\nSite {made.site}, campaign folder {made.campaign}", *_allocation(made)]
    training = {stage.name for stage in all_stages() if stage.trains}
    todo = [s for s in made.stages if s.action != "done" and s.name in training]
    lines += [f"Size of trainings, {stage.name}: {stage.why_sizes}." for stage in todo]
    if made.max_graphs:
        lines.append(f"The remaining trainings use at most {made.max_graphs:,} graphs.")
    costs = made.estimates
    lines.append(_estimate("Node-hours", costs.node_hours, 1.0, ""))
    lines.append(_estimate("Energy", costs.kwh, 1.0, " kWh"))
    lines.append(_estimate("Storage", costs.storage_bytes, 1e9, " GB"))
    lines += [f"Budget, {sentence(standing)}." for standing in made.budget]
    lines += [f"Note: {warning}" for warning in made.warnings]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _each(size: TaskSize) -> str:
    """Return the resources of one task, in a few words."""
    parts = [counted(size.nodes, "node")] if size.nodes else []
    parts.append(counted(size.ranks, "rank"))
    if size.gpus_per_rank:
        parts.append("1 GPU per rank")
    if size.cores_per_rank:
        parts.append(counted(size.cores_per_rank, "core"))
    return ", ".join(parts) + f" ({size.strategy})"


def _allocation(made: CampaignPlan) -> Iterator[str]:
    job = made.allocation
    if job.queue is None:
        yield f"On this machine; {made.slots} tasks at a time."
        return
    jobs = (
        "Jobs" if made.mode == DriverMode.RESIDENT else f"{job.blocks} block{'s' if job.blocks > 1 else ''} at a time"
    )
    spare = f", {job.spare:,} of them spare" if job.spare else ""
    yield (
        f"{jobs} of {counted(job.nodes, 'node')}{spare}, {job.hours:g} h, queue {job.queue}"
        + (f", account {job.account}" if job.account else "")
        + (f"; {job.bin}" if job.bin else "")
        + "."
    )


def _estimate(what: str, found: Estimate, unit: float, name: str) -> str:
    value = "not known" if found.value is None else f"{found.value / unit:,.3g}{name}"
    if found.value is not None and found.value / unit >= 1000:
        value = f"{found.value / unit:,.0f}{name}"
    return f"{what}: {value} ({found.basis})"


def _scripts(request: ResolvedRun, run_request: RunRequest) -> Iterator[tuple[str, str]]:
    """Yield descriptions and texts of the campaign's batch script and launch lines.

    In a run, only names differ: a job's name gets a unique mark and number.
    """
    site, allocation = request.site, request.resources.allocation
    if site.scheduler.system is None:
        yield "no batch script", f"Site {site.name} has no batch system: tasks are started on this machine."
        return
    name, folder = f"gfm-{request.loaded.model.name}", job_folder(request.context.paths)
    job = Scripts(site, job_shape(request), folder).job(name)
    nodes = [f"node{number:05d}" for number in range(1, allocation.nodes + 1)]
    if site.driver.mode is DriverMode.RESIDENT:
        command = run_request.command(site, request.context.paths.root)
        yield f"{name}.sh, the job that drives the campaign", resident_script(site, job, command)
    else:
        pool = shlex.join(pool_line(site, allocation.nodes)) if site.launch.pool_template else ""
        script = block_script(site, job, [f"{pool} {POOL}".strip()], str(folder / f"{name}.nodes"))
        yield f"{name}.sh, a block of nodes", script
    if site.launch.pool_template:
        yield "worker pools", shlex.join(pool_line(site, nodes)) + f" {POOL}"
    printed: set[tuple[TaskShape, str]] = set()
    for stage, sizes in request.resources.sizes.items():
        for size in sizes:
            key = (size.shape, size.strategy)
            if size.strategy is LaunchStrategy.SPAWN or key in printed:
                continue
            printed.add(key)
            grouped = size.strategy is LaunchStrategy.GROUP
            shape = group_shape(site, size.shape, size.group) if grouped else size.shape
            line = shlex.join(launch_line(site, shape, nodes[: shape.nodes]))
            what = (
                f"a launch of {size.group:,} trainings" if grouped else f"a training of {counted(shape.nodes, 'node')}"
            )
            program = "" if grouped else " gfm_pipeline.apps.train spec.json"
            yield f"{what}, {stage}", f"{line} python -P -m gfm_pipeline.apps.runtime.rank{program}"
