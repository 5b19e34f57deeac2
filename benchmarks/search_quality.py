"""The best of a search beside the best of random search for the same node-seconds, on real data.

    GFM_REAL_DATA=FOLDER python benchmarks/search_quality.py [--seeds 3] [--graphs 500] [--folder FOLDER]

Acetylacetone (forces and energies of density functional theory), 40 structures of copper from mlearn, and 20 of water
are learned together. For
each seed, a search of 24 candidates with the default proposals and promotions is run by the whole campaign: Parsl,
surrogate and trainer. Then 12 random candidates of the same space are trained to the last rung. From these, a random
search is drawn 1,000 times: candidates in a random order, as long as their node-seconds fit into those of the search
(one at least). Printed is a Markdown table: node-seconds, the best objective of the search, the median of the best
objectives of the random searches, and the share of random searches that the search beats. Campaigns that were kept in
``--folder`` are used again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gfm_pipeline.api.drive import drive
from gfm_pipeline.api.run_request import RunRequest, SiteChoice
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.training_result import TrainResult

WORKFLOW = """\
name: {name}
seed: {seed}
data:
  sources:
    acac: {{reader: ase, files: {data}/acac/train_300K.xyz, group_key: "@block:25"}}
    mlearn: {{reader: ase, files: {small}/Cu.xyz, group_key: "@block:5"}}
    water: {{reader: deepmd, files: {small}/water, group_key: "@block:2"}}
search:
  candidates: {candidates}
  wave: 4
  rungs: [{first}, {second}, {last}]
  reduction: 3
  validation_limit: 30
  proposals: {proposals}
  stopping: {stopping}
  space:
    algorithm: [SchNet, EGNN, PaiNN]
    hidden: [8, 16, 24]
    layers: [1, 2]
    cutoff: {{low: 3.0, high: 5.0}}
    learning_rate: {{low: 1.0e-4, high: 3.0e-2, scale: log}}
    batch_size: [2, 4]
converge: {{members: 1, check_every: {last}, max_graphs: {last}}}
"""
SEARCHED, RANDOM, DRAWS = 24, 12, 1000
CRYSTALS, FRAMES = 40, 20  # structures of copper and of water: one costs as much as ten of acetylacetone
Trials = list[tuple[float, float]]  # node-seconds of a candidate, and its objective at the last rung (nan: none)


def write_small(data: Path, folder: Path) -> None:
    """Write an even selection of the crystals and of the frames of water, which are large."""
    from ase.io import read, write

    crystals = read(data / "mlearn" / "Cu_train.xyz", index=":")
    write(folder / "Cu.xyz", [crystals[i] for i in evenly(len(crystals), CRYSTALS)], format="extxyz")
    source, target = data / "water" / "data_0", folder / "water"
    (target / "set.000").mkdir(parents=True, exist_ok=True)
    for name in ("type.raw", "type_map.raw"):
        (target / name).write_bytes((source / name).read_bytes())
    for file in (source / "set.000").glob("*.npy"):
        frames = np.load(file)
        np.save(target / "set.000" / file.name, frames[evenly(len(frames), FRAMES)])


def evenly(total: int, count: int) -> np.ndarray:
    """Return ``count`` indices from 0 to ``total``, evenly spaced."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int)


def trained(
    folder: Path, data: Path, name: str, seed: int, graphs: int, candidates: int, policies: tuple[str, str]
) -> Trials:
    """Return what the candidates of a campaign cost and reached; it is run unless it was kept."""
    place, workflow = folder / name, folder / f"{name}.yaml"
    proposals, stopping = policies
    workflow.write_text(
        WORKFLOW.format(
            name=name, seed=seed, data=data.resolve(), small=folder.resolve(), candidates=candidates, first=graphs,
            second=3 * graphs, last=9 * graphs, proposals=proposals, stopping=stopping,
        )
    )  # fmt: skip
    overrides = ("site.compile_training=never", "site.slots=1")
    drive(RunRequest(workflow, SiteChoice("local", ()), place, overrides, until="search"), print, quiet=True)
    stage = load_state(place / "journal.jsonl").stage("search")
    if stage is None:
        raise SystemExit(f"{place} has no search.")
    found = []
    for candidate in stage.candidates():
        tasks = [stage.tasks.get(f"{candidate}-r{rung}") for rung in range(3)]
        last = None if tasks[2] is None else tasks[2].decoded(TrainResult)
        reached = None if last is None else last.objective
        found.append((sum(task.seconds for task in tasks if task is not None), np.nan if reached is None else reached))
    return found


def random_bests(pool: Trials, seconds: float, seed: int) -> Iterator[float]:
    """Yield the best objectives of random searches that take at most ``seconds`` (one candidate at least)."""
    chance = np.random.default_rng(seed)
    costs, objectives = np.array(pool).T
    for _ in range(DRAWS):
        order = chance.permutation(len(pool))
        count = max(1, int(np.searchsorted(np.cumsum(costs[order]), seconds, side="right")))
        reached = objectives[order[:count]]
        yield float(np.nanmin(reached)) if np.isfinite(reached).any() else np.inf


def main() -> None:
    """Print the table, a row per seed as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--graphs", type=int, default=500, help="of the first rung; the last has nine times as many")
    parser.add_argument("--folder", type=Path, default=None, help="keep the campaigns here")
    options = parser.parse_args()
    if "GFM_REAL_DATA" not in os.environ:
        parser.error("Set GFM_REAL_DATA to the folder that has acac, mlearn and water.")
    data = Path(os.environ["GFM_REAL_DATA"])
    print("| seed | node-seconds: search / random pool | best of the search | median of random search | beaten |")
    print("|---|---|---|---|---|", flush=True)
    with TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        write_small(data, folder)
        for seed in range(options.seeds):
            ours = trained(folder, data, f"search-{seed}", seed, options.graphs, SEARCHED, ("batch-gp", "asha"))
            pool = trained(folder, data, f"random-{seed}", 100 + seed, options.graphs, RANDOM, ("random", "none"))
            seconds, best = sum(cost for cost, _ in ours), float(np.nanmin([reached for _, reached in ours]))
            bests = np.array(list(random_bests(pool, seconds, seed)))
            spent = f"{seconds:.0f} / {sum(cost for cost, _ in pool):.0f}"
            print(
                f"| {seed} | {spent} | {best:.4f} | {np.median(bests):.4f} | {np.mean(best < bests):.0%} |", flush=True
            )


if __name__ == "__main__":
    main()
