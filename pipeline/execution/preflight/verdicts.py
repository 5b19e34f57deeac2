"""Verdicts from expected and observed values, each failure with its fix. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gfm_pipeline.core.contracts.energy import AUTO, MODEL, source_order
from gfm_pipeline.core.contracts.preflight import RankObservation
from gfm_pipeline.execution.preflight.binding_checks import (
    check_cores,
    check_devices,
    check_locality,
    check_spawned_ranks,
)
from gfm_pipeline.execution.preflight.observations import RANKS, VIEW, JobObservations, LaunchObservation
from gfm_pipeline.execution.preflight.probe import PACKAGES, step_shape
from gfm_pipeline.execution.preflight.verdict import CheckResult, CheckStatus, failed, passed, skipped
from gfm_pipeline.sites.enums import GpuRuntime
from gfm_pipeline.sites.schema import SiteModel

MOST_SKEW = 2.0  # seconds; heartbeats, ages of files and deadlines are whole seconds
CHECKS = (
    "start", "interface", "packages", "torch build", "versions", "MPI", "ranks", "devices", "cores", "GPU beside cores",
    "one-node ranks", "all-reduce", "ADIOS2", "energy", "clocks",
)  # fmt: skip


def check_results(site: SiteModel, nodes: int, observed: JobObservations) -> list[CheckResult]:
    """Return the results of the job of a check.

    Parameters
    ----------
    site
        The machine, from its site file.
    nodes
        Of the job.
    observed
        Observations from its files.
    """
    if observed.head is None:
        why = observed.output or "the job ended without a word"
        return [failed("start", why, _start_fix(site, why)), *_not_done("the job did not start Python")]
    local = site.scheduler.system is None
    where = (
        observed.head.host
        if local
        else " ".join(observed.head.nodes[:4]) + (" ..." if len(observed.head.nodes) > 4 else "")
    )
    found = [passed("start", f"{observed.head.executable} on {where}"), _interface(site, observed.head.interfaces)]
    if len(observed.ranks) != step_shape(site, nodes).ranks:
        return _ordered([*found, *_without_ranks(site, nodes, observed)])
    return _ordered([
        *found,
        _packages(observed.ranks),
        _build(site, observed.ranks),
        _versions(observed.ranks),
        _mpi(observed.ranks),
        _placement(site, nodes, observed),
        check_devices(site, observed),
        check_cores(site, observed),
        check_locality(site, observed),
        check_spawned_ranks(site, observed),
        _exchange(observed),
        _data(observed),
        _energy(site, observed.ranks),
        _clocks(site, observed),
    ])  # fmt: skip


def _without_ranks(site: SiteModel, nodes: int, observed: JobObservations) -> list[CheckResult]:
    """Return the results if some ranks did not start their program: usually one of them was refused."""
    found = []
    if observed.views:
        found = [_placement(site, nodes, observed), check_devices(site, observed), check_cores(site, observed)]
    if not any(verdict.outcome is CheckStatus.FAIL for verdict in found):
        found = [_launch_failed(site, observed, observed.launches.get(RANKS, LaunchObservation())), *found[1:]]
    found += [check_spawned_ranks(site, observed), _clocks(site, observed)]
    rest = [check for check in CHECKS[2:] if check not in {verdict.check for verdict in found}]
    return [*found, *(skipped(check, "not all ranks started their program") for check in rest)]


def _ordered(found: Sequence[CheckResult]) -> list[CheckResult]:
    return sorted(found, key=lambda verdict: CHECKS.index(verdict.check))


def _not_done(why: str) -> list[CheckResult]:
    return [skipped(check, why) for check in CHECKS[1:]]


def _start_fix(site: SiteModel, why: str) -> str:
    profile = f"profiles.{site.profile}"
    others = [name for name in site.profiles if name != site.profile]
    choice = f", or choose another profile ({', '.join(others)}) with --set site.profile=NAME" if others else ""
    if why.startswith("module "):
        name = why.removeprefix("module ").partition(" ")[0]
        return f"Correct {profile}.modules (`module avail {name.partition('/')[0]}` says what is there){choice}."
    if "cannot be activated" in why:
        return f"Correct {profile}.activate: the line must work in a fresh shell on a compute node."
    if "did not reach every node" in why:
        return "Correct staging.archive and staging.folder, or set staging.kind to none."
    return (
        "Install the Python environment where compute nodes see it, or name one in "
        f"{profile}.activate{choice}; --keep leaves what the job printed."
    )


def _launch_failed(site: SiteModel, observed: JobObservations, launch: LaunchObservation) -> CheckResult:
    """Return the result for a launch line that started no rank."""
    first = observed.launches.get(VIEW)
    why = first.why if first is not None and not first.ended_well else launch.why
    hint = launch.hint or f"Correct launch.template of the site; it begins with {' '.join(site.launch.template[:1])}."
    return failed("ranks", f"not all ranks started: {why}", hint)


def _interface(site: SiteModel, there: Sequence[str]) -> CheckResult:
    wanted = site.driver.interface
    if wanted is None:
        return skipped("interface", "driver.interface is not set")
    if wanted in there:
        return passed("interface", wanted)
    return failed(
        "interface",
        f"{wanted} does not exist on the first node; there are {', '.join(there)}",
        "Set driver.interface to the one of the fast network.",
    )


def _packages(ranks: Sequence[RankObservation]) -> CheckResult:
    checked = [rank for rank in ranks if rank.packages or rank.missing]
    for rank in checked:
        for name, why in rank.missing.items():
            return failed(
                "packages",
                f"{name} cannot be imported on {rank.node} ({why})",
                f"Install it into the environment of {rank.executable}.",
            )
    if not checked:
        return failed("packages", "no first rank of a node looked", "Correct launch.local_rank_variable.")
    versions = checked[0].packages
    return passed("packages", ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions))


def _build(site: SiteModel, ranks: Sequence[RankObservation]) -> CheckResult:
    builds = sorted({rank.build for rank in ranks if rank.build})
    if not builds:
        return skipped("torch build", "torch was not looked at")
    shown, runtime = ", ".join(builds), site.gpu.runtime
    if runtime is GpuRuntime.CPU:
        return passed("torch build", shown)
    if site.gpu.device == "cpu":
        return skipped("torch build", f"{shown}; gpu.torch_device is cpu, so GPUs are not computed on")
    if all(build.split()[0] == runtime for build in builds):
        return passed("torch build", shown)
    return failed(
        "torch build",
        f"torch is built for {shown}, the site's GPUs need {runtime}",
        f"Install the build of torch for {runtime} first, then this package over it.",
    )


def _versions(ranks: Sequence[RankObservation]) -> CheckResult:
    first = ranks[0]
    for rank in ranks[1:]:
        if (rank.python, rank.executable) != (first.python, first.executable):
            return failed(
                "versions",
                f"Python {first.python} ({first.executable}) on {first.node}, "
                f"{rank.python} ({rank.executable}) on {rank.node}",
                f"Let profiles.NAME.activate lead to one environment on all nodes: {first.executable}.",
            )
        for name, version in rank.packages.items():
            if first.packages.get(name, version) != version:
                return failed(
                    "versions",
                    f"{name} {first.packages[name]} on {first.node}, {version} on {rank.node}",
                    "Use one environment, on a file system all nodes share; an old copy may be on the node's disk.",
                )
    nodes = len({rank.node for rank in ranks})
    return passed("versions", f"Python {first.python}" + (f", the same on {nodes} nodes" if nodes > 1 else ""))


def _mpi(ranks: Sequence[RankObservation]) -> CheckResult:
    first = ranks[0]
    if first.mpi:
        return passed("MPI", first.mpi)
    if not first.mpi_trouble or "not installed" in first.mpi_trouble:
        return skipped("MPI", "mpi4py is not installed; only joining a source by several ranks needs it")
    return failed(
        "MPI",
        f"mpi4py cannot be loaded ({first.mpi_trouble})",
        "Build mpi4py against the machine's MPI (pip install --no-binary mpi4py mpi4py), or uninstall it.",
    )


def _placement(site: SiteModel, nodes: int, observed: JobObservations) -> CheckResult:
    """Return whether the requested number of ranks started, on the right number of nodes, with the right numbers."""
    shape = step_shape(site, nodes)
    nameless = [view for view in observed.views if view.rank is None or view.local_rank is None]
    if nameless:
        numbers = ", ".join(f"{name}={value}" for name, value in sorted(nameless[0].numbers.items()))
        return failed(
            "ranks",
            f"{site.launch.rank_variable} or {site.launch.local_rank_variable} is not set by the launcher"
            + (f"; there are {numbers}" if numbers else ""),
            "Set launch.rank_variable and launch.local_rank_variable to those of the launcher.",
        )
    places = (
        [(view.rank, view.local_rank, view.node) for view in observed.views]
        if observed.views
        else [(rank.rank, rank.local_rank, rank.node) for rank in observed.ranks]
    )
    per_node: dict[str, list[int]] = {}
    for _, local_rank, node in places:
        per_node.setdefault(node, []).append(local_rank or 0)
    wanted_nodes = max(1, shape.nodes)
    measured = f"{len(places)} ranks on {len(per_node)} node{'s' if len(per_node) > 1 else ''}"
    if sorted(rank or 0 for rank, _, _ in places) != list(range(shape.ranks)) or len(per_node) != wanted_nodes:
        launch = observed.launches.get(VIEW, LaunchObservation(0))
        why = "" if launch.ended_well else f" ({launch.why})"
        fix = "Correct launch.template: {nodes}, {ranks} and {ranks_per_node} must all be told to the launcher."
        if "No module named" in why or "No such file" in why:
            fix = (
                f"Put the Python environment where every node sees it, or name one in profiles.{site.profile}.activate."
            )
        return failed("ranks", f"{measured}, not {shape.ranks} on {wanted_nodes}{why}", fix)
    if any(sorted(numbers) != list(range(shape.ranks_per_node)) for numbers in per_node.values()):
        return failed(
            "ranks",
            f"{measured}, but their numbers on a node are {per_node}",
            "Correct launch.local_rank_variable, or how launch.template deals ranks to nodes (--ntasks-per-node).",
        )
    return passed("ranks", measured)


def _exchange(observed: JobObservations) -> CheckResult:
    launch, result = observed.launches.get(RANKS, LaunchObservation()), observed.result
    check = "all-reduce"
    if len(observed.ranks) < 2:
        return skipped(check, "there is one rank only")
    if result is None:
        return failed(
            check,
            launch.why,
            launch.hint
            or "Correct environment and sized_environment (NCCL_SOCKET_IFNAME, NCCL_NET), or launch.address_suffix.",
        )
    if not result.correct:
        return failed(check, "the sum over all ranks is wrong", "Report it to the machine's support, with these nodes.")
    rates = ", ".join(f"{rate.megabytes:g} MB at {rate.gigabytes_per_second:.3g} GB/s" for rate in result.rates)
    return passed(check, f"{rates} ({result.backend}, {len(observed.ranks)} ranks)")


def _data(observed: JobObservations) -> CheckResult:
    ranks, launch = observed.ranks, observed.launches.get(RANKS, LaunchObservation())
    writer, reader = ranks[0], ranks[-1]
    for rank in (writer, reader):
        if rank.data_trouble:
            return failed(
                "ADIOS2",
                f"{rank.data_trouble} (on {rank.node})",
                "Choose a file system that all nodes share and may write, with --folder.",
            )
    if writer.written is None or reader.read is None:
        return failed(
            "ADIOS2",
            f"the ranks ended before it was done: {launch.why}",
            launch.hint or "See stderr.log in the folder `ranks` of the check.",
        )
    elsewhere = " on another node" if reader.node != writer.node else ""
    return passed("ADIOS2", f"written at {writer.written:.0f} MB/s, read{elsewhere} at {reader.read:.0f} MB/s")


def _energy(site: SiteModel, ranks: Sequence[RankObservation]) -> CheckResult:
    checked = [rank for rank in ranks if rank.energy or rank.energy_trouble]
    usable = [source for source in source_order() if checked and all(source in r.energy for r in checked)]
    source = site.energy.source
    others = f"readable here: {', '.join(usable)}" if usable else "no counters are readable here"
    if source == MODEL or (source == AUTO and not usable):
        return skipped("energy", f"energy.source is {source}; {others}")
    if source == AUTO:
        source = usable[0]
    if source in usable:
        return passed("energy", f"{source} ({checked[0].energy[source]:.4g} J on {checked[0].node})")
    why = next((r.energy_trouble[source] for r in checked if source in r.energy_trouble), "nobody looked")
    return failed("energy", f"{source}: {why}", f"Set energy.source to {usable[0] if usable else 'model'}.")


def _clocks(site: SiteModel, observed: JobObservations) -> CheckResult:
    parts, worst = [], 0.0
    clocks = () if observed.result is None else observed.result.clocks
    nodes = {rank.node for rank in observed.ranks}
    if len(nodes) > 1 and clocks:
        between = max(abs(clock) for clock in clocks)
        worst = between
        parts.append(f"between nodes {between * 1000:.1f} ms")
    if observed.skew is not None:
        worst = max(worst, abs(observed.skew.seconds) - observed.skew.give)
        ahead = round(observed.skew.seconds, 2) + 0.0  # no minus sign before zero
        parts.append(f"to the login node {ahead:+.2f} s (give or take {observed.skew.give:.2f} s)")
    if not parts:
        return skipped("clocks", "there is one clock" if site.scheduler.system is None else "not measured")
    if worst > MOST_SKEW:
        return failed("clocks", ", ".join(parts), "Tell the machine's support: its clocks (NTP) are apart.")
    return passed("clocks", ", ".join(parts))
