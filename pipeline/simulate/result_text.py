"""The result of a simulation, as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from gfm_pipeline.report.progress import duration
from gfm_pipeline.simulate.ledger import BUSY, Use
from gfm_pipeline.simulate.result import Advice, CheckpointInterval, SimulationOutcome
from gfm_pipeline.sites.limits import counted

WORDS = {
    Use.WORK: "work",
    Use.STARTUP: "programs that start",
    Use.LOST: "work done again after a failure",
    Use.DRIVER: "driver, which has not come to an end yet",
    Use.LAUNCHES: "pause between two launches",
    Use.NO_PROPOSAL: "no proposal: results are waited for",
    Use.TAIL: "tail of a stage",
    Use.ROOM: "no room for what waits",
    Use.RESTART: "pause before a task is tried again",
    Use.HELD: "held by the other tasks of a launch",
    Use.SPARE: "spare",
    Use.DOWN: "down",
    Use.JOB_START: "start of a job",
    Use.JOB_END: "end of a job",
}


def _time(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 1.0 else duration(hours * 3600.0)


def lines(found: SimulationOutcome) -> Iterator[str]:
    """Yield the lines for users."""
    yield f"Simulated on {found.site}: {found.outcome}. Nothing was run; the objectives are made up."
    waited = f", of which {_time(found.waited_hours)} in the queue" if found.waited_hours else ""
    most = "at most " if found.jobs > 1 else ""
    jobs = f", {counted(found.jobs, 'job')} of {most}{counted(found.nodes, 'node')}" if found.jobs else ""
    yield f"  time            {_time(found.hours)}{waited}{jobs}"
    energy = "" if found.kwh is None else f", {found.kwh:,.0f} kWh (modelled)"
    yield f"  cost            {found.node_hours:,.0f} node-hours{energy}"
    if found.recorded_hours is not None and found.recorded_occupancy is not None:
        yield (
            f"  fitted to       a campaign of {_time(found.recorded_hours)}, whose tasks had "
            f"{found.recorded_occupancy:.1%} of its node time"
        )
    steady = "never full" if found.steady_occupancy is None else f"{found.steady_occupancy:.1%} while full"
    yield f"  occupancy       {found.occupancy:.1%} of all node time, {steady}"
    yield (
        f"  tasks           {found.completions:,} ended, {found.candidates:,} candidates, "
        f"{found.failures:,} nodes failed"
    )
    if found.target is not None:
        when = "never" if found.target_hours is None else f"after {_time(found.target_hours)}"
        yield f"  objective       {found.target:.4g} reached {when}; best {found.best:.4g}"
    yield "  node time"
    total = found.node_hours or 1.0
    for use in (*BUSY, *(use for use in Use if use not in BUSY)):
        if found.uses.get(use):
            kind = "busy" if use in BUSY else "idle"
            yield f"    {kind} {found.uses[use] / total:7.2%}  {found.uses[use]:12,.1f} node-h  {WORDS[use]}"
    yield f"  checkpoints     {_interval(found.checkpoint)}"
    if found.advice is not None:
        yield from _advice(found.advice)


def _advice(advice: Advice) -> Iterator[str]:
    yield f"  spare nodes     {advice.spare:,} are enough in 95 % of jobs"
    if advice.best is None:
        return
    yield "  compared        nodes  trials           hours  to target  node-hours  occupancy"
    for variant in advice.variants:
        trials = "/".join(str(size) if size else "shared" for size in dict.fromkeys(variant.trial_nodes))
        reached = "never" if variant.target_hours is None else f"{variant.target_hours:.2f}"
        mark = "  <- best" if variant is advice.best else ""
        yield (
            f"    {variant.nodes:17,}  {trials:13} {variant.hours:8.2f}  {reached:>9}  {variant.node_hours:10,.0f}"
            f"  {variant.occupancy:9.1%}{mark}"
        )


def _interval(found: CheckpointInterval) -> str:
    nodes = counted(found.nodes, "node")
    used = f"every {found.used:,.0f} s costs a training over {nodes} {found.lost_share:.2%} of its time"
    if found.mean_hours is None or found.young is None or found.daly is None:
        return f"{used}; no node fails"
    return (
        f"{used}; best is {found.daly:,.0f} s by Daly, {found.young:,.0f} s by Young "
        f"(a failure every {found.mean_hours:,.1f} h, {found.seconds:g} s to save)"
    )
