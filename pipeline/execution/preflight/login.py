"""Checks on the login node: commands, limits of the queue, and a test of the job."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gfm_pipeline.batch_systems.base import BatchSystem
from gfm_pipeline.execution.preflight.verdict import CheckResult, failed, passed, skipped
from gfm_pipeline.sites.limits import CheckedJob, Refusal, check_job, counted
from gfm_pipeline.sites.schema import SiteModel

JOB_HOURS = 0.25

# Subjects of refusals, in the order of matching; `{queue}` is the queue's name in the site file.
_FIXES = (
    (("qos",), "Correct scheduler.queues.{queue}.qos, or take another queue with --queue."),
    (("account", "project"), "Set the project you may charge: --set site.scheduler.account=NAME, or in your overlay."),
    (("feature", "constraint"), "Correct scheduler.constraint."),
    (("partition", "queue"), "Correct scheduler.queues.{queue}.partition, or take another queue with --queue."),
    (("time limit", "walltime"), "Correct scheduler.queues.{queue}.bins: its hours are not what the machine gives."),
    (
        ("node count", "node configuration", "processors", "memory", "gres"),
        "Correct scheduler.queues.{queue}.bins, scheduler.directives or node: the machine has no such nodes.",
    ),
    (("option",), "Correct scheduler.directives: the batch system does not know one of them."),
)


def missing_commands(system: type[BatchSystem], has: Callable[[str], bool]) -> list[str]:
    """Return the commands of a batch system that do not exist here."""
    return [command for command in system.programs if not has(command)]


def small_job(site: SiteModel, queue: str | None, nodes: int) -> CheckedJob | Refusal:
    """Return the job of a check: in the requested queue, else the default one, else the first that accepts it."""
    found = check_job(site, queue, nodes)
    if queue is None and isinstance(found, Refusal):
        others = [check_job(site, name, nodes) for name in site.scheduler.queues]
        return next((job for job in others if isinstance(job, CheckedJob)), found)
    return found


def job_hours(job: CheckedJob) -> float:
    """Return the wall time of a check: a quarter of an hour, or less if the queue allows less."""
    return min(JOB_HOURS, job.hours or JOB_HOURS)


def check_login_node(site: SiteModel, job: CheckedJob) -> list[CheckResult]:
    """Return the results that need no query of the batch system."""
    system = site.scheduler.system
    found = [
        skipped("commands", "no batch system") if system is None else passed("commands", ", ".join(system.programs)),
    ]
    if job.queue is None or job.bin is None:
        return [*found, skipped("queue", "no batch system")]
    job_text = f"{counted(job.nodes, 'node')} in queue {job.queue}, up to {job.bin.max_hours:g} h there"
    return [*found, passed("queue", " ".join([job_text + ("." if job.warnings else ""), *job.warnings]))]


def check_acceptance(site: SiteModel, queue: str, refusal: str | None) -> CheckResult:
    """Return whether the batch system accepts the job."""
    if refusal is not None:
        return failed("job accepted", refusal.rstrip("."), refusal_fix(queue, refusal))
    system = site.scheduler.system
    return passed("job accepted", "no batch system" if system is None else system.accepted)


def refusal_fix(queue: str, refusal: str) -> str:
    """Return the key of the site that a refusal concerns."""
    message = refusal.lower()
    for words, fix in _FIXES:
        if any(word in message for word in words):
            return fix.format(queue=queue)
    return "Correct scheduler of the site; `gfm-pipeline plan --show-scripts` prints what is submitted."


def ended_badly(found: Sequence[CheckResult]) -> bool:
    """Return whether any check failed."""
    return any(verdict.outcome == "fail" for verdict in found)
