"""How fast neighbour lists are made on one core: ours, ASE's, and those of other libraries; and in batches on a device.

    pip install vesin matscipy     # optional: compared where installed
    python benchmarks/neighbours.py [--cutoffs 5] [--seconds 0.5] [--device cpu|cuda|xpu] [--together 1024]

Structures are built here: molecules of ASE's g2 set, rattled crystals and a slab. Every library makes the same list,
both directions, all images and distances; counts of edges are compared. Rates are structures per second of processor
time, medians of seven turns that all take one after the other; ``table`` is what training and datasets wait for, many
structures listed together with their shifts, and ``ours`` is the search of one structure after the other.

The second table lists many structures of each set at once, as training does: one after the other on the CPU, and in
batches on the device; every edge is compared. Rates are structures per second of wall-clock time, copies to and from
the device included (of processor time where the device is the CPU, one thread). ``tried`` is how many pairs of atoms
and images the batched search looks at for each edge.

The last table lists atoms that are far away: unwrapped trajectories, and clusters far apart; beside each the same atoms
near by. Milliseconds of processor time per structure, and the largest memory this process has had so far.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from statistics import median

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.collections import g2
from ase.neighborlist import primitive_neighbor_list

from gfm_pipeline.apps.dataset import Columns
from gfm_pipeline.apps.dataset.neighbors.batched import BatchedNeighborList, pairs_tried
from gfm_pipeline.apps.dataset.neighbors.edges import Edges, NeighborListFn, build_edges
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import neighbour_list
from gfm_pipeline.apps.train.device import keep_freed_memory

List = Callable[[Atoms, float], int]
TURNS, TOGETHER = 7, 256


def ours(atoms: Atoms, cutoff: float) -> int:
    """Return the number of edges this project finds."""
    return len(neighbour_list(atoms.positions, np.asarray(atoms.cell), atoms.pbc, cutoff)[0])


def ase(atoms: Atoms, cutoff: float) -> int:
    """Return the number of edges ASE finds."""
    return len(primitive_neighbor_list("ijSd", atoms.pbc, np.asarray(atoms.cell), atoms.positions, cutoff)[0])


def vesin() -> List:
    """Return vesin's search; it wants a cell whatever is periodic."""
    calculator = import_module("vesin").NeighborList

    def search(atoms: Atoms, cutoff: float) -> int:
        found = calculator(cutoff=cutoff, full_list=True).compute(
            points=atoms.positions, box=np.asarray(atoms.cell), periodic=atoms.pbc, quantities="ijSd"
        )
        return len(found[0])

    return search


def matscipy() -> List:
    """Return matscipy's search, which needs a cell with a volume."""
    compiled = import_module("matscipy.neighbours").neighbour_list

    def search(atoms: Atoms, cutoff: float) -> int:
        boxed = atoms
        if not atoms.pbc.any():
            boxed = atoms.copy()
            boxed.cell = np.eye(3) * (np.ptp(atoms.positions, axis=0).max() + 2 * cutoff)
        return len(compiled("ijSd", boxed, cutoff)[0])

    return search


def structures() -> dict[str, list[Atoms]]:
    """Return sets of structures."""
    rng = np.random.default_rng(0)
    sets = {
        "molecules, 2-14 atoms": [molecule(name) for name in g2.names[::4] if len(molecule(name)) > 1],
        "fcc cells, 8-32 atoms": [bulk("Cu", cubic=True).repeat((1 + k % 2, 1 + k // 2 % 2, 2)) for k in range(8)],
        "primitive W, 1 atom": [bulk("W") for _ in range(8)],
        "fcc 108 atoms": [bulk("Cu", cubic=True).repeat(3) for _ in range(2)],
        "slab, 144 atoms": [fcc111("Pt", (6, 6, 4), vacuum=8.0, periodic=True) for _ in range(2)],
    }
    for atoms in sets["slab, 144 atoms"]:
        atoms.pbc = (True, True, False)
    for members in sets.values():
        for atoms in members:
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return sets


def rate(search: List, members: list[Atoms], cutoff: float, seconds: float) -> tuple[float, int]:
    """Return structures per second of processor time, over whole sets for at least so long, and the edges of a set."""
    began = time.process_time()
    done = edges = 0
    while done == 0 or time.process_time() - began < seconds:
        edges = sum(search(atoms, cutoff) for atoms in members)
        done += len(members)
    return done / (time.process_time() - began), edges


def compare_libraries(cutoffs: list[float], seconds: float) -> None:
    """Measure and print lists of one structure after the other by every library, and of many together by us."""
    searches: dict[str, List] = {"ours": ours, "ase": ase}
    for name, make in (("vesin", vesin), ("matscipy", matscipy)):
        try:
            searches[name] = make()
        except ImportError:  # noqa: PERF203
            print(f"{name} is not installed")
    print("| structures | cutoff | edges | table/s |" + "".join(f" {name}/s |" for name in searches), end="")
    print(" table over ours | over the best other |\n" + "|---" * (6 + len(searches)) + "|")
    for title, members in structures().items():
        columns = repeated(members, TOGETHER)
        for cutoff in cutoffs:
            ways: dict[str, Callable[[], int]] = {"table": partial(together, columns, cutoff, len(members))}
            ways |= {name: partial(edges_of_all, search, members, cutoff) for name, search in searches.items()}
            found = {name: way() for name, way in ways.items()}  # and warms up
            if len(set(found.values())) != 1:
                print(f"The libraries disagree: {found}")
            done = {name: TOGETHER if name == "table" else len(members) for name in ways}
            turns: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(TURNS):
                for name, way in ways.items():
                    turns[name].append(done[name] / cpu_seconds(way, seconds / TURNS))
            rates = {name: median(times) for name, times in turns.items()}
            print(
                f"| {title} | {cutoff:g} | {found['ours']:,} |" + "".join(f" {r:,.0f} |" for r in rates.values()),
                end="",
            )
            best = max(rate for name, rate in rates.items() if name not in ("table", "ours"))
            print(f" {rates['table'] / rates['ours']:.1f} | {rates['table'] / best:.1f} |", flush=True)


def together(columns: Columns, cutoff: float, members: int) -> int:
    """Return the number of edges of the first ``members`` structures, all listed together."""
    return int(build_edges(columns, cutoff).nedges[:members].sum())


def edges_of_all(search: List, members: list[Atoms], cutoff: float) -> int:
    """Return the number of edges of all members, one after the other."""
    return sum(search(atoms, cutoff) for atoms in members)


def cpu_seconds(work: Callable[[], object], at_least: float) -> float:
    """Return the processor time of one call, over as many as take so long."""
    began, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - began < at_least:
        work()
        calls += 1
    return (time.process_time() - began) / calls


def repeated(members: list[Atoms], n: int) -> Columns:
    """Return ``n`` structures, the members over and over."""
    frames = [members[k % len(members)] for k in range(n)]
    natoms = np.array([len(atoms) for atoms in frames])
    return Columns.build(
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        pos=np.concatenate([atoms.positions for atoms in frames]),
        forces=np.zeros((int(natoms.sum()), 3)),
        energy=np.zeros(n),
        cell=np.stack([np.asarray(atoms.cell) for atoms in frames]),
        pbc=np.stack([atoms.pbc for atoms in frames]),
        natoms=natoms,
    )


def in_order(edges: Edges) -> np.ndarray:
    """Return graph, src, dst and shift [E, 6], sorted."""
    graph = np.repeat(np.arange(len(edges.nedges)), edges.nedges)
    rows = np.column_stack([graph, edges.src, edges.dst, edges.shift])
    return rows[np.lexsort(rows.T)]


def rate_together(
    neighbor_list: NeighborListFn, columns: Columns, cutoff: float, seconds: float, clock: Callable[[], float]
) -> float:
    """Return structures per second of a clock, over whole sets for at least so long."""
    began, done = clock(), 0
    while done == 0 or clock() - began < seconds:
        neighbor_list(columns, cutoff)
        done += len(columns)
    return done / (clock() - began)


def compare_batched(device: torch.device, cutoffs: list[float], seconds: float, together: int) -> None:
    """Measure and print lists in batches on the device, beside those one after the other."""
    batched, clock = BatchedNeighborList(device), time.process_time if device.type == "cpu" else time.perf_counter
    column = f"batched {device.type}/s"
    print(f"\n{'structures':24}{'cutoff':>7}{'edges':>9}{'tried':>7}{'one by one/s':>14}{column:>15}{'ratio':>8}")
    for title, members in structures().items():
        columns = repeated(members, together)
        for cutoff in cutoffs:
            found, expected = batched(columns, cutoff), build_edges(columns, cutoff)  # the first call also warms up
            if not np.array_equal(in_order(found), in_order(expected)):
                print("The lists disagree.")
            alone, at_once = (
                rate_together(neighbor_list, columns, cutoff, seconds, clock)
                for neighbor_list in (build_edges, batched)
            )
            tried = pairs_tried(columns, cutoff).sum() / max(1, len(expected.src))
            print(f"{title:24}{cutoff:7.1f}{len(expected.src):9d}{tried:7.1f}", end="")
            print(f"{alone:14.0f}{at_once:15.0f}{at_once / alone:8.3f}", flush=True)


def far_away() -> dict[str, tuple[Atoms, Atoms]]:
    """Return structures with atoms far away, and the same with these near by."""
    rng = np.random.default_rng(0)
    copper = bulk("Cu", cubic=True).repeat(2)
    copper.rattle(0.05, rng=rng)
    slab = copper.copy()
    slab.pbc = (True, True, False)
    near = molecule("H2O")
    near.extend(Atoms(molecule("H2O"), positions=molecule("H2O").positions + 9.0))
    crowd = Atoms("He200", positions=rng.uniform(0, 9, (200, 3)))
    found = {}

    def moved(atoms: Atoms, by: np.ndarray) -> Atoms:
        other = atoms.copy()
        other.positions += by
        return other

    def cells(atoms: Atoms, by: list[int]) -> np.ndarray:
        return np.eye(1, len(atoms)).T * (np.array(by) @ np.asarray(atoms.cell))

    unwrapped = rng.integers(-15, 16, (32, 3)) @ np.asarray(copper.cell)
    found["32 Cu, each up to 15 cells"] = moved(copper, unwrapped), copper
    for n in (100, 400, 100_000):
        found[f"32 Cu, one {n} cells"] = moved(copper, cells(copper, [n, n, n])), copper
    found["slab, one 400 cells"] = moved(slab, cells(slab, [400, 400, 0])), slab
    found["two H2O, 2000 A"] = moved(near, np.repeat([[0.0], [2000.0]], 3, axis=0)), near
    found["2 x 100 He, 2000 A"] = moved(crowd, np.repeat([[0.0], [2000.0]], 100, axis=0)), crowd
    found["all at 1e6 A"] = moved(crowd, np.full((1, 3), 1e6)), crowd
    skewed = copper.copy()
    skewed.cell = np.array([[1, 0, 0], [40, 1, 0], [40, 40, 1]]) @ np.asarray(copper.cell)
    found["32 Cu, cell sheared 40 times"] = skewed, copper
    return found


def compare_far_away(cutoffs: list[float], seconds: float) -> None:
    """Measure and print lists of atoms far away, beside those of the same atoms near by."""
    print(f"\n{'structure':30}{'cutoff':>7}{'edges':>9}{'ms':>9}{'ms near by':>12}{'peak, MB':>10}")
    for title, (far, near) in far_away().items():
        for cutoff in cutoffs:
            (fast, edges), (plain, _) = (rate(ours, [atoms], cutoff, seconds) for atoms in (far, near))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{title:30}{cutoff:7.1f}{edges:9d}{1000 / fast:9.3f}{1000 / plain:12.3f}{peak:10d}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[5.0])
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda", "xpu"],
        default="cuda" if torch.cuda.is_available() else None,
        help="also list in batches there; default: cuda where torch sees such a device, else no batches",
    )
    parser.add_argument("--together", type=int, default=1024, help="structures that are listed in batches at once")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does; all have it
    compare_libraries(given.cutoffs, given.seconds)
    if given.device is not None:
        compare_batched(torch.device(given.device), given.cutoffs, given.seconds, given.together)
    compare_far_away(given.cutoffs, given.seconds)


if __name__ == "__main__":
    main()
