"""One model of six real datasets beside a model of each alone, with the same share of the compute.

    GFM_REAL_DATA=FOLDER python benchmarks/multitask.py WORK [--graphs 30000] [--seeds 2]

The campaign of `examples/multitask.yaml` goes through all four stages in the folder WORK: five levels of theory, and of
the datasets one has energies alone, one stresses, one charges of atoms, one a number of each structure. Then one model
is trained on all of its datasets until it has seen so many structures, and one on each dataset, with the same settings,
until it has seen as many of it as the common model has; over the last fifth the learning rate falls to zero. Errors are
those of the test splits, as shares of those of a model that learned nothing, averaged over the targets of a dataset.
Results are kept in ``WORK/results.jsonl``, so a benchmark that was interrupted goes on.

FOLDER holds the published sets acac, ethanol, 3bpa, comp6, inp and oxides, each in a folder of its name.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gfm_pipeline import Campaign, evaluate_model
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.sampler import BLOCK, draws_per_block
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Target, order_of
from gfm_pipeline.core.contracts.training import Convergence, DatasetRef, TrainSpec, settings_of
from gfm_pipeline.workflow.load import load_workflow

WORKFLOW = Path(__file__).parents[1] / "examples" / "multitask.yaml"
HARTREE = 27.211386024367243
TEMPERATURE = 2.0  # of the sampling of trainings
ANNEALED = 0.25  # share of the structures seen before, over which the learning rate falls to zero, as in a campaign


def prepare(work: Path, real: Path) -> None:
    """Put the workflow and its data into a folder; the charges of COMP6 have a last row that is their sum."""
    import h5py
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    work.mkdir(parents=True, exist_ok=True)
    shutil.copy(WORKFLOW, work)
    if not (work / "data").exists():
        (work / "data").symlink_to(real)
    frames = []
    with h5py.File(real / "comp6" / "s66x8_wb97x6-31gd.h5") as file:
        for molecule in file["s66x8"].values():
            symbols = [s.decode() for s in molecule["species"]]
            labels = (molecule[name][:] for name in ("coordinates", "energies", "forces", "hirshfeld"))
            for pos, energy, gradient, charges in zip(*labels, strict=True):
                atoms = Atoms(symbols, pos)
                atoms.arrays["hirshfeld"] = charges[: len(symbols)]
                known = {"energy": energy * HARTREE, "forces": -gradient * HARTREE}
                atoms.calc = SinglePointCalculator(atoms, **known)
                frames.append(atoms)
    write(work / "dimers.extxyz", frames)


def weights_of(work: Path) -> dict[str, float]:
    """Return the fixed weights of targets and datasets in the workflow, by hyperparameter."""
    space = load_workflow(work / WORKFLOW.name).model.search.space.compile()
    return {name: one.values[0] for name, one in space.shared.items() if name.startswith("weight.")}


def campaign(work: Path) -> Campaign:
    """Run the campaign, or go on with it."""
    subprocess.run(
        [sys.executable, "-m", "gfm_pipeline", "run", WORKFLOW.name, "--site", "local"], cwd=work, check=True
    )
    return Campaign(work / "campaigns" / "multitask")


def targets_of(datasets: list[Dataset]) -> tuple[Target, ...]:
    """Return what datasets have labels of."""
    found = {ENERGY.name: ENERGY}
    for dataset in datasets:
        facts = dataset.statistics
        found |= {FORCES.name: FORCES} if facts.force_rms > 0 else {}
        found |= {name: one.target for name, one in facts.targets.items() if one.known.get(str(Split.TRAIN))}
    return tuple(sorted(found.values(), key=order_of))


def shares(datasets: list[Dataset], graphs: int) -> list[int]:
    """Return how many structures of each dataset a common model sees."""
    sizes = [dataset.statistics.n_structures[Split.TRAIN] for dataset in datasets]
    return [int(n) * graphs // BLOCK for n in draws_per_block(sizes, TEMPERATURE)]


def trained(
    work: Path, datasets: list[Dataset], graphs: int, seed: int, asked: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the errors of one model on each of its datasets."""
    names = "+".join(dataset.name for dataset in datasets)
    output = work / "models" / f"{names}-{graphs}-{seed}-{asked['label']}"
    own = {k: v for k, v in asked.items() if k not in ("label", "weights")}
    weights = {k: v for k, v in asked["weights"].items() if k.rpartition(".")[2] in {d.name for d in datasets}}
    model, optimiser = settings_of({"batch_size": 16} | own | weights)
    rate = 1.0 / (1.0 + ANNEALED)
    rule = Convergence(round(rate * graphs), 1, 0.5, round(rate * graphs), ANNEALED, criterion="limit")
    spec = TrainSpec(
        task=output.name, model=model, optimiser=optimiser, seed=seed, output=str(output), convergence=rule,
        datasets=tuple(DatasetRef(d.name, str(d.path.resolve())) for d in datasets), targets=targets_of(datasets),
    )  # fmt: skip
    folder = output.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    result, _ = train(spec, Task(folder))
    seconds = time.process_time() - started
    for dataset in datasets:
        errors = evaluate_model(output, dataset, "test")
        yield {
            "model": "together" if len(datasets) > 1 else "alone", "dataset": dataset.name, "seed": seed,
            "graphs": graphs, "label": asked["label"], "seconds": round(seconds, 1), "parameters": result.parameters,
            "errors": {e.target.name: [e.mae, e.null] for e in errors.by_target() if e.ratio is not None},
        }  # fmt: skip


def score(row: dict[str, Any]) -> float:
    """Return the mean over targets of the error as a share of that of a model that learned nothing."""
    return float(np.mean([mae / null for mae, null in row["errors"].values()]))


def table(rows: list[dict[str, Any]], datasets: list[Dataset], label: str) -> str:
    """Return what was found, a row per dataset."""
    lines = ["| dataset | structures | target | alone | together | ratio |", "|---|---|---|---|---|---|"]
    for dataset in datasets:
        own = {
            model: [r for r in rows if (r["model"], r["dataset"], r["label"]) == (model, dataset.name, label)]
            for model in ("alone", "together")
        }
        if not all(own.values()):
            continue
        size = dataset.statistics.n_structures[Split.TRAIN]
        alone, together = (float(np.mean([score(r) for r in own[m]])) for m in ("alone", "together"))
        lines.append(f"| {dataset.name} | {size} | all | {alone:.3f} | {together:.3f} | {together / alone:.2f} |")
        for target in own["alone"][0]["errors"]:
            a, b = (float(np.mean([r["errors"][target][0] for r in own[m]])) for m in ("alone", "together"))
            lines.append(f"| | | {target} | {a:.4g} | {b:.4g} | {b / a:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the campaign, the trainings that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--graphs", type=int, default=30_000, help="structures that the common model sees")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--algorithm", default="PaiNN")
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--label", default="default", help="of these settings, in the results")
    parser.add_argument("--only", choices=("campaign", "together", "alone"), help="only this part")
    asked = parser.parse_args()
    if "GFM_REAL_DATA" not in os.environ:
        parser.error("GFM_REAL_DATA must name the folder of the data.")
    prepare(asked.work, Path(os.environ["GFM_REAL_DATA"]).resolve())
    done = campaign(asked.work)
    datasets = [done.dataset(name) for name in ("acac", "ethanol", "bpa", "dimers", "inp", "oxides")]
    results = asked.work / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    settings = {name: getattr(asked, name) for name in ("algorithm", "hidden", "layers", "learning_rate", "label")}
    settings["weights"] = weights_of(asked.work)
    for seed in range(asked.seeds):
        parts = [("alone", [d], n) for d, n in zip(datasets, shares(datasets, asked.graphs), strict=True)]
        for model, chosen, graphs in [("together", datasets, asked.graphs), *parts]:
            known = {(r["model"], r["dataset"], r["seed"], r["graphs"], r["label"]) for r in rows}
            if asked.only not in (None, model) or (model, chosen[0].name, seed, graphs, asked.label) in known:
                continue
            found = list(trained(asked.work, chosen, graphs, seed, settings))
            rows += found
            with results.open("a") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in found)
            print(
                *(f"{r['model']} {r['dataset']} {score(r):.3f}" for r in found), f"{found[0]['seconds']} s", flush=True
            )
    print(table(rows, datasets, asked.label))


if __name__ == "__main__":
    main()
