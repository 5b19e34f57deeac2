"""Compares the GPU and the cores of each rank with the site file. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gfm_pipeline.apps.runtime.launcher_probe import LauncherView
from gfm_pipeline.core.contracts.attempts.launch import DeviceSelection
from gfm_pipeline.core.contracts.preflight import RankObservation
from gfm_pipeline.execution.preflight.observations import SPAWN, JobObservations
from gfm_pipeline.execution.preflight.verdict import CheckResult, failed, passed, skipped
from gfm_pipeline.sites.cores import format_cores, parse_cores
from gfm_pipeline.sites.launch import launcher_binds
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import RankBinding, default_shape, node_layout


def expected_bindings(site: SiteModel) -> tuple[RankBinding, ...]:
    """Return the GPU and the cores of each local rank of a full node."""
    return node_layout(site, default_shape(site, 1))


def check_devices(site: SiteModel, observed: JobObservations) -> CheckResult:
    """Return whether each rank gets, and sees, the GPU in the site file."""
    expected = {local: str(place.gpu) for local, place in enumerate(expected_bindings(site)) if place.gpu is not None}
    variable = site.gpu.visible_variable
    if not expected or variable is None:
        return skipped("devices", "the site has no GPUs")
    given: dict[int, set[str]] = {}
    for view in observed.views:
        if view.local_rank is not None:
            given.setdefault(view.local_rank, set()).add(view.mask or "")
    wrong = {k: masks for k, masks in given.items() if any(m and expected.get(k) not in _entries(m) for m in masks)}
    if wrong:
        local = min(wrong)
        return failed(
            "devices",
            f"rank {local} of a node is given GPU {' or '.join(sorted(wrong[local]))} by the launcher, "
            f"the site gives it GPU {expected.get(local)} ({variable}); {len(wrong)} of {len(expected)} ranks differ",
            _devices_fix(site, given, len(expected)),
        )
    for rank in observed.ranks:
        if rank.mask is not None and rank.mask != expected.get(rank.local_rank):
            return failed(
                "devices",
                f"rank {rank.rank} on {rank.node} sees GPU {rank.mask}, not {expected.get(rank.local_rank)}",
                "Correct node.rank_gpus, or the exports of the profile, which must not set the mask.",
            )
        if rank.device_trouble or rank.devices not in (None, 1):
            why = rank.device_trouble or f"torch sees {rank.devices} devices, not one"
            return failed("devices", f"rank {rank.rank} on {rank.node}: {why}", _no_device_fix(site))
    order = " ".join(expected[k] for k in sorted(expected))
    device_names = sorted({rank.device for rank in observed.ranks if rank.device})
    by_launcher = bool(given) and all(len(_entries(mask)) == 1 for masks in given.values() for mask in masks)
    who = "selected by the launcher" if by_launcher else "selected by the rank among all of the node"
    measured = f"one GPU per rank, in the order {order}, {who}"
    return passed("devices", measured + (f" ({', '.join(device_names)})" if device_names else ""))


def _entries(mask: str) -> list[str]:
    return [entry.strip() for entry in mask.split(",") if entry.strip()]


def _devices_fix(site: SiteModel, given: Mapping[int, set[str]], gpus: int) -> str:
    """Return the key to set: the launch line first if it does not bind GPUs, else the observed order."""
    observed = [next(iter(given[k])) for k in sorted(given) if len(given[k]) == 1]
    whole = len(observed) == gpus and sorted(observed) == sorted(str(gpu) for gpu in range(gpus))
    order = f"node.rank_gpus: [{', '.join(observed)}]" if whole else "node.rank_gpus"
    if site.launch.device is DeviceSelection.SCHEDULER and "--gpu-bind" not in " ".join(site.launch.template):
        return f"launch.template has no --gpu-bind: add what the machine's guide says (closest); or set {order}."
    if whole:
        return f"Set {order} if the launch line is the machine's own; else correct how launch.template binds GPUs."
    return "Correct how launch.template binds GPUs, or launch.device: each rank must be given one GPU, or all of them."


def _no_device_fix(site: SiteModel) -> str:
    return (
        f"See that only {site.gpu.visible_variable} masks GPUs (gpu.unset removes others), and that torch is built for "
        f"{site.gpu.runtime}."
    )


def check_cores(site: SiteModel, observed: JobObservations) -> CheckResult:
    """Return whether each rank may use exactly the cores in the site file."""
    places = expected_bindings(site)
    had: Sequence[RankObservation | LauncherView] = observed.ranks or (observed.views if launcher_binds(site) else ())
    sizes = sorted({len(one.cores) for one in had})
    measured = f"{' or '.join(map(str, sizes))} hardware threads a rank" if sizes else "nothing was seen"
    if not site.launch.bind_cores:
        return skipped("cores", f"launch.bind_cores is false: reported only, {measured}")
    if not all(place.cores for place in places):
        return skipped("cores", f"the site does not name cores of ranks; {measured}")
    if not had:
        return skipped("cores", "ranks bind themselves, and none started its program")
    expected = {local: parse_cores(place.cores) for local, place in enumerate(places)}
    wrong = [one for one in had if set(one.cores) != set(expected.get(one.local_rank or 0, ()))]
    if not wrong:
        return passed("cores", f"{measured}, as the site says")
    one = wrong[0]
    local = one.local_rank or 0
    return failed(
        "cores",
        f"rank {local} of {one.node} may use {format_cores(one.cores)}, the site gives it "
        f"{format_cores(expected.get(local, ()))}; {len(wrong)} of {len(had)} ranks differ",
        _cores_fix(places, had),
    )


def _cores_fix(places: Sequence[RankBinding], had: Sequence[RankObservation | LauncherView]) -> str:
    """Return the key to set: the observed cores, if each rank has its own cores, the same on all nodes."""
    cores_found: dict[int, set[tuple[int, ...]]] = {}
    for one in had:
        cores_found.setdefault(one.local_rank or 0, set()).add(tuple(one.cores))
    steady = {local: next(iter(sets)) for local, sets in cores_found.items() if len(sets) == 1}
    every = [core for cores in steady.values() for core in cores]
    template = "correct the binding in launch.template (--cpu-bind, --cpus-per-task, --distribution)"
    if len(steady) != len(places) or len(set(every)) != len(every) or any(place.gpu is None for place in places):
        return template[0].upper() + template[1:] + "; or node.gpu_cores, node.reserved_cores and node.cores."
    by_gpu = {place.gpu or 0: format_cores(steady[local]) for local, place in enumerate(places)}
    listed = ", ".join(f'"{by_gpu[gpu]}"' for gpu in sorted(by_gpu))
    return f"Set node.gpu_cores: [{listed}] if these are beside the GPUs; else {template}."


def check_locality(site: SiteModel, observed: JobObservations) -> CheckResult:
    """Return whether each rank's cores are close to its GPU, according to Linux."""
    check = "GPU beside cores"
    known = [rank for rank in observed.ranks if rank.device_cores and rank.cores]
    if not known:
        return skipped(
            check, "torch or Linux does not say where GPUs are" if site.node.gpus else "the site has no GPUs"
        )
    for rank in known:
        near = set(parse_cores(rank.device_cores))
        if not set(rank.cores) <= near:
            return failed(
                check,
                f"rank {rank.rank} on {rank.node} has cores {format_cores(rank.cores)}, its GPU is beside "
                f"{rank.device_cores}",
                "Correct node.gpu_cores and node.rank_gpus: they pair ranks with GPUs that are far away.",
            )
    return passed(check, f"{len(known)} ranks")


def check_spawned_ranks(site: SiteModel, observed: JobObservations) -> CheckResult:
    """Return whether the ranks of one node, started without the batch system, have the devices in the site file."""
    check = "one-node ranks"
    launch = observed.launches.get(SPAWN)
    if launch is None:
        return skipped(check, "there is no batch system")
    places = expected_bindings(site)
    if not launch.ended_well or len(observed.spawned) != len(places):
        why = launch.why if not launch.ended_well else f"{len(observed.spawned)} of {len(places)} ranks came up"
        return failed(check, why, launch.hint or "See stderr.log in the folder `spawn` of the check (--keep).")
    for rank in observed.spawned:
        place = places[rank.local_rank]
        if rank.mask != (None if place.gpu is None else str(place.gpu)) and site.gpu.visible_variable is not None:
            return failed(check, f"rank {rank.rank} sees GPU {rank.mask}, not {place.gpu}", "Correct node.rank_gpus.")
        if rank.device_trouble or rank.devices not in (None, 1):
            why = rank.device_trouble or f"torch sees {rank.devices} devices, not one"
            return failed(check, f"rank {rank.rank}: {why}", _no_device_fix(site))
        if site.launch.bind_cores and place.cores and set(rank.cores) != set(parse_cores(place.cores)):
            return failed(
                check,
                f"rank {rank.rank} may use {format_cores(rank.cores)}, the site gives it {place.cores}",
                "Correct node.gpu_cores, or what the job's directives leave of a node (--core-spec).",
            )
    return passed(check, f"{len(places)} rank{'s' if len(places) > 1 else ''} on {observed.spawned[0].node}")
