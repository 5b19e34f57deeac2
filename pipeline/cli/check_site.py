"""The command that compares a machine with its site file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from gfm_pipeline.api.run_request import job_python
from gfm_pipeline.batch_systems.commands import SubmissionRefused
from gfm_pipeline.batch_systems.registry import connected
from gfm_pipeline.cli.options import overlay_option, site_set_option
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.amounts import Amount
from gfm_pipeline.cli.support.answers import JSON
from gfm_pipeline.core.errors import ConfigError, SchedulerUnavailable
from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.core.publish import write_atomic, write_record
from gfm_pipeline.core.records import read_record
from gfm_pipeline.execution.preflight.login import (
    check_acceptance,
    check_login_node,
    ended_badly,
    job_hours,
    missing_commands,
    small_job,
)
from gfm_pipeline.execution.preflight.monitor import JobMonitor
from gfm_pipeline.execution.preflight.observations import PLAN_FILE, CheckPlan, Skew, read_observations
from gfm_pipeline.execution.preflight.probe import answer, probe, step_shape
from gfm_pipeline.execution.preflight.verdict import CheckResult, CheckStatus, failed
from gfm_pipeline.execution.preflight.verdicts import check_results
from gfm_pipeline.execution.retry import retrying
from gfm_pipeline.sites.batch import BatchJob, resident_script
from gfm_pipeline.sites.launch import launch_line
from gfm_pipeline.sites.limits import About, CheckedJob, Refusal
from gfm_pipeline.sites.registry import LoadedSite, load_site
from gfm_pipeline.sites.schema import SiteModel

OUTPUT = "job.out"
COLORS = {CheckStatus.PASS: "green", CheckStatus.FAIL: "red", CheckStatus.SKIPPED: "bright_black"}


@click.command()
@click.argument("name")
@overlay_option
@site_set_option
@click.option("--nodes", type=click.IntRange(min=1), default=None, help="Nodes of the job.  [default: 2]")
@click.option(
    "--queue", default=None, help="Queue of the site.  [default: the site's, or the first that takes the job]"
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=None,
    help="Folder for the files of the check, on the file system of your campaigns.  [default: the working folder]",
)
@click.option("--wait", type=Amount(), default=60.0, show_default=True, help="Minutes to wait in the queue.")
@click.option("--keep", is_flag=True, help="Keep the files of the job even if all checks pass.")
@JSON
def check(
    name: str,
    overlays: tuple[Path, ...],
    sets: tuple[str, ...],
    nodes: int | None,
    queue: str | None,
    folder: Path | None,
    wait: float,
    keep: bool,
    as_json: bool,
) -> None:
    """Compare this machine with site NAME by one small batch job. Run this check before the first campaign.

    The job checks the GPU and the cores of each rank, versions, the network between nodes, the file system, energy
    counters and clocks. Each failure names its fix. Ctrl-C cancels the job.

    Exit code 0: all checks passed; 1: a check failed; 2: the site or the command line is wrong; 4: no batch system.
    """
    loaded = load_site(name, overlays, sets)
    site = loaded.model
    job = _job(loaded, queue, nodes)
    place = (folder or Path.cwd()).resolve() / f"gfm-check-{site.name}-{uuid.uuid4().hex[:8]}"
    place.mkdir(mode=0o700)
    found: list[CheckResult] = []
    try:
        with _as_interrupts():
            found.extend(_checks(site, job, place, wait * 60))
    finally:
        kept = keep or (bool(found) and ended_badly(found))
        if not kept:
            shutil.rmtree(place, ignore_errors=True)
    _show(site, job, found, place if kept else None, as_json)
    if ended_badly(found):
        raise click.exceptions.Exit(1)


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def probing(folder: Path) -> None:
    """Do what the batch job of a check does; `sites check` submits it."""
    site = SiteModel.model_validate(read_record(CheckPlan, folder / PLAN_FILE).site)
    scheduler = connected(site.scheduler.kind, os.environ, site.scheduler.command_timeout_seconds)
    if scheduler is None:
        raise ConfigError(f"Site {site.name} has no batch system.", f"Use `gfm-pipeline sites check {site.name}`.")
    nodes = retrying(scheduler.my_nodes, _notify)
    if not nodes:
        raise ConfigError("This is not a batch job.", f"Use `gfm-pipeline sites check {site.name}`.")
    probe(site, nodes, folder, lambda: answer(folder))


def _job(loaded: LoadedSite, queue: str | None, nodes: int | None) -> CheckedJob:
    """Return the job of the check.

    Raises
    ------
    ConfigError
        When the site does not accept the job, or cannot launch anything.
    """
    site = loaded.model
    if site.scheduler.system is None:
        if nodes not in (None, 1):
            raise ConfigError(f"{site.name} has 1 node, not {nodes}.", "Leave --nodes out.")
        return CheckedJob(1, None, None, None, None)
    found = small_job(site, queue, nodes or min(2, site.nodes))
    if isinstance(found, Refusal):
        if found.about is About.ACCOUNT:
            raise loaded.error(("scheduler", "account"), found.message, found.hint)
        raise ConfigError(found.message, found.hint)
    launch_line(site, step_shape(site, found.nodes), [f"node{k}" for k in range(found.nodes)])  # may raise
    return found


def _checks(site: SiteModel, job: CheckedJob, place: Path, wait_seconds: float) -> Iterator[CheckResult]:
    """Yield the results of this node, of the batch system, and of the job."""
    yield from check_login_node(site, job)
    scheduler = connected(site.scheduler.kind, os.environ, site.scheduler.command_timeout_seconds)
    if scheduler is None or job.queue is None:
        probe(site, (), place)
        yield from check_results(site, 1, read_observations(place, place / OUTPUT, None))
        return
    missing = missing_commands(type(scheduler), lambda command: shutil.which(command) is not None)
    if missing:
        raise SchedulerUnavailable(
            f"Not on this machine: {', '.join(missing)}, commands of the batch system.",
            f"Run this on a login node of {site.name}, or check another site.",
        )
    script, hours = _write(site, job, place), job_hours(job)
    refusal = retrying(lambda: scheduler.test(script), _notify)
    if refusal is not None:
        yield check_acceptance(site, job.queue, refusal)
        return
    poll, missing_seconds = site.scheduler.poll_seconds, site.scheduler.missing_job_seconds
    watch = JobMonitor(scheduler, place, job.queue, hours, poll, missing_seconds, wait_seconds, _notify)
    skew: Skew | None = None
    try:
        watched = watch.run(script, place.name)
        skew = watched.skew
    except SubmissionRefused as error:
        yield check_acceptance(site, job.queue, error.message.partition("refuses the job: ")[2] or error.message)
        return
    yield check_acceptance(site, job.queue, None)
    if watched.trouble:
        yield failed("start", watched.trouble, watched.fix)
        return
    yield from check_results(site, job.nodes, read_observations(place, place / OUTPUT, skew))


def _write(site: SiteModel, job: CheckedJob, place: Path) -> Path:
    """Write the input of the job, and its script; return the script's path."""
    write_record(place / PLAN_FILE, CheckPlan(site.model_dump(mode="json"), job.nodes))
    batch = BatchJob(
        name=place.name,
        nodes=job.nodes,
        hours=job_hours(job),
        queue=job.queue or "",
        account=job.account,
        folder=str(place),
        output=str(place / OUTPUT),
        programs=str(Path(sys.executable).parent),
    )
    command = module_command("gfm_pipeline", "sites", "probe", str(place), python=job_python(site))
    script = place / "job.sh"
    write_atomic(script, resident_script(site, batch, command).encode())
    return script


def _show(site: SiteModel, job: CheckedJob, found: Sequence[CheckResult], kept: Path | None, as_json: bool) -> None:
    if as_json:
        document = {
            "schema_version": 1,
            "site": site.name,
            "passed": not ended_badly(found),
            "nodes": job.nodes,
            "queue": job.queue,
            "folder": None if kept is None else str(kept),
            "checks": [asdict(verdict) for verdict in found],
        }
        click.echo(json.dumps(document, indent=1))
        return
    console = terminal.console()
    table = Table(box=SIMPLE_HEAD)
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("measured, and the fix", overflow="fold")
    for verdict in found:
        text = Text(verdict.measured)
        if verdict.fix:
            text.append(f"\nFix: {verdict.fix}", style="bold")
        table.add_row(verdict.check, Text(str(verdict.outcome), style=COLORS[verdict.outcome]), text)
    console.print(table)
    counts = {outcome: sum(verdict.outcome is outcome for verdict in found) for outcome in CheckStatus}
    console.print(Text(", ".join(f"{count} {outcome}" for outcome, count in counts.items())))
    if kept is not None:
        console.print(Text(f"What the job wrote: {kept}"), soft_wrap=True)


@contextmanager
def _as_interrupts() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, even if the shell ignores Ctrl-C: then the job is cancelled."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _notify(text: str) -> None:
    click.echo(text, err=True)
