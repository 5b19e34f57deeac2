"""What labels that `select` asks for are worth, beside as many random ones.

    GFM_REAL_DATA=FOLDER python benchmarks/active_learning.py [--seeds 3] [--graphs 6000] [--folder FOLDER]

3BPA: an ensemble is trained on 100 structures at 300 K. Half of ``train_mixedT.xyz`` (300, 600 and 1200 K) is the pool,
the other half is held out. 50 structures of the pool are selected, 50 are drawn at random, and with each of both sets
added to the 100 an ensemble is trained anew. Printed for each seed: the mean absolute error of forces on the held-out
half, and how many times as much as random ones the selected structures lower it. Campaigns that were kept in
``--folder`` are used again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.io import read, write

from gfm_pipeline import Campaign
from gfm_pipeline.api.folders import dataset_folders
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.deploy.select import select
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.deploy import PredictFilesSpec, SelectSpec

WORKFLOW = """\
name: {name}
seed: {seed}
data:
  sources:
    bpa: {{reader: ase, files: {file}, group_key: "@record"}}
  validation: 0.1
  test: 0.1
search:
  candidates: {members}
  rungs: [{first}]
  space:
    algorithm: [PaiNN]
    hidden: 24
    layers: 2
    cutoff: 4.5
    learning_rate: [3.0e-3, 5.0e-3]
    batch_size: 8
    force_weight: 10
converge: {{members: {members}, check_every: {first}, patience: 4, max_graphs: {graphs}}}
"""
START, ADDED = 100, 50
TOGETHER = 32  # structures computed at once


def trained(folder: Path, name: str, frames: list[Atoms], seed: int, graphs: int, members: int) -> Path:
    """Return the folder of a campaign on structures; it is run unless it was kept."""
    place = folder / name
    if not (place / "journal.jsonl").exists():
        write(folder / f"{name}.xyz", frames, format="extxyz")
        workflow = folder / f"{name}.yaml"
        first = max(200, graphs // 8)
        file = folder / f"{name}.xyz"
        workflow.write_text(
            WORKFLOW.format(name=name, seed=seed, file=file, first=first, graphs=graphs, members=members)
        )
        Campaign.from_yaml(workflow, site="local", folder=place).run()
    return place


def force_error(campaign: Path, frames: list[Atoms]) -> float:
    """Return the mean absolute error of force components, meV/Angstrom."""
    predictor = Predictor(open_ensemble(campaign), dtype="float32")
    errors = []
    for first in range(0, len(frames), TOGETHER):
        part = frames[first : first + TOGETHER]
        found = predictor.predict(part)
        errors += [np.abs(r["forces"] - a.get_forces()).ravel() for r, a in zip(found, part, strict=True)]
    return 1000.0 * float(np.concatenate(errors).mean())


def chosen(campaign: Path, folder: Path, pool: list[Atoms], seed: int) -> list[Atoms]:
    """Return the structures of the pool that `select` chooses, with their labels."""
    file, output = folder / f"pool-{seed}.xyz", folder / f"selected-{seed}.extxyz"
    write(file, pool, format="extxyz")
    spec = PredictFilesSpec(str(campaign), SourceSettings("pool", "ase", (str(file),)), overwrite=True)
    training = tuple(map(str, dataset_folders(campaign)))
    select(SelectSpec(spec, str(output), ADDED, training))
    return [pool[atoms.info["source_record"]] for atoms in read(output, ":")]


def compare(data: Path, folder: Path, seed: int, graphs: int, members: int) -> float:
    """Print the errors of one seed, and return the ratio."""
    rng = np.random.default_rng(seed)
    cold, mixed = read(data / "3bpa" / "train_300K.xyz", ":"), read(data / "3bpa" / "train_mixedT.xyz", ":")
    lone = read(data / "3bpa" / "iso_atoms.xyz", ":")
    start = [cold[k] for k in rng.choice(len(cold), START, replace=False)]
    order = rng.permutation(len(mixed))
    pool, held_out = ([mixed[k] for k in half] for half in np.array_split(order, 2))
    base = trained(folder, f"base-{seed}", [*lone, *start], seed, graphs, members)
    sets = {
        "selected": chosen(base, folder, pool, seed),
        "random": [pool[k] for k in rng.choice(len(pool), ADDED, replace=False)],
    }
    before = force_error(base, held_out)
    after = {
        name: force_error(trained(folder, f"{name}-{seed}", [*lone, *start, *more], seed, graphs, members), held_out)
        for name, more in sets.items()
    }
    ratio = (before - after["selected"]) / (before - after["random"])
    print(f"| {seed} | {before:.1f} | {after['selected']:.1f} | {after['random']:.1f} | {ratio:.2f} |", flush=True)
    return ratio


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--graphs", type=int, default=6000, help="Graphs each member sees at most.")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where campaigns are, or will be, kept.")
    given = parser.parse_args()
    if "GFM_REAL_DATA" not in os.environ:
        parser.error("GFM_REAL_DATA is not set: it names the folder with 3bpa/train_300K.xyz.")
    data = Path(os.environ["GFM_REAL_DATA"]).resolve()
    print("| seed | 100 structures | + 50 selected | + 50 random | ratio of the gains |")
    print("|---:|---:|---:|---:|---:|")
    with TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        ratios = [compare(data, folder, seed, given.graphs, given.members) for seed in range(1, given.seeds + 1)]
    print(f"\nForce MAE on the held-out half, meV/A; mean of the ratios {np.mean(ratios):.2f}.")


if __name__ == "__main__":
    main()
