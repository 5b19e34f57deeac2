"""Training here and by HydraGNN: the same structures, splits, sizes, batches, learning rate and epochs, one CPU thread.

    git clone https://github.com/ORNL/HydraGNN && pip install -r HydraGNN/requirements-base.txt e3nn vesin
    pip install torch_geometric mpi4py mpich
    python benchmarks/against_hydragnn.py HydraGNN [FILE.extxyz ...] [--algorithm PaiNN] [--epochs 10]

Without files, random alloys labelled by ASE's effective medium potential are made. They are ingested, exported
(``dataset export --hydragnn``, energies without those of the elements), and trained on by both: HydraGNN as its
published configuration of foundation models says (``gfm_mlip.json``, loss of energies, energies an atom and ten times
forces) but for the sizes, this project by its own loss with forces ten times. Both predict forces as gradients.
Printed a row per epoch: structures trained on a second of processor time so far, and mean absolute errors of the
validation split, eV an atom and eV/Angstrom a component.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.dataset.store.hydragnn_export import export
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.apps.train.trainer import Trainer
from gfm_pipeline.core.contracts.data import AssembleSpec, ReadShardSpec, SourceSettings, Split
from gfm_pipeline.core.contracts.layout import HydragnnExport
from gfm_pipeline.core.contracts.sources import validate_options
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec

THEIR_NAMES = {"PaiNN": "PAINN", "SchNet": "SchNet", "EGNN": "EGNN"}
MAX_NEIGHBOURS = 1000  # of both: all within the cutoff


def ingest(folder: Path, files: list[str]) -> Dataset:
    """Ingest the files, or random alloys, as a campaign does."""
    if files:
        source = SourceSettings(
            "b", "ase", tuple(files), validate_options("ase", {"format": "extxyz"}), group_key="@block:25"
        )
    else:
        source = SourceSettings("b", "emt-alloys", (), validate_options("emt-alloys", {}))
    read_shard_program(ReadShardSpec(source, 0, 3, str(folder / "shard")), Task(folder))
    spec = AssembleSpec(source, (str(folder / "shard"),), 0.2, 0.1, 0.5, 5, str(folder / "b"))
    return Dataset.open(Path(assemble_program(spec, Task(folder)).output))


def theirs(checkout: Path, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what HydraGNN's child says of each epoch."""
    paths = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = Path(__file__).with_name("against_hydragnn_child.py")
    with (
        tempfile.TemporaryDirectory() as place,  # it writes logs where it runs
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, str(child)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            cwd=place, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        ) as process,
    ):  # fmt: skip
        if process.stdin is None or process.stdout is None:
            raise SystemExit("there is no pipe to HydraGNN's process")
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        yield from map(json.loads, process.stdout)
        if process.wait():
            errors.seek(0)
            raise SystemExit(f"HydraGNN ended with exit code {process.returncode}:\n{errors.read()[-2000:]}")


def ours(folder: Path, dataset: Dataset, algorithm: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the same of our training."""
    seconds = [0.0]
    step = Trainer.step

    def timed(self: Trainer, stopping: bool = False) -> None:
        started = time.process_time()
        step(self, stopping)
        seconds[-1] += time.process_time() - started

    Trainer.step = timed  # type: ignore[method-assign]
    n = dataset.statistics.n_structures[Split.TRAIN] // asked["batch"] * asked["batch"]
    spec = TrainSpec(
        task="b",
        model=ModelSettings(algorithm, asked["hidden"], asked["layers"], asked["cutoff"]),
        optimiser=OptimiserSettings(asked["learning_rate"], asked["batch"], 10.0),
        datasets=(DatasetRef("b", str(dataset.path)),),
        seed=asked["seed"],
        output=str(folder / "trained"),
        budget_graphs=asked["epochs"] * n,
        validate_every=n,
    )
    train(spec, Task(folder))
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    for k, line in enumerate(found for found in lines if "errors" in found):
        yield {"seconds": seconds[0] * (k + 1) / asked["epochs"], **line["errors"]["b"]}


def main() -> None:
    """Train by both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="HydraGNN's repository")
    parser.add_argument("files", nargs="*", help="extended XYZ")
    parser.add_argument("--algorithm", choices=sorted(THEIR_NAMES), default="PaiNN")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--hidden", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = ingest(folder, [str(Path(file).absolute()) for file in given.files])
        asked = {
            "checkout": str(given.checkout.absolute()), "file": str(folder / "b-v2.bp"), "hidden": given.hidden,
            "algorithm": THEIR_NAMES[given.algorithm], "layers": 3, "cutoff": 5.0, "max_neighbours": MAX_NEIGHBOURS,
            "epochs": given.epochs, "batch": 16, "learning_rate": given.learning_rate, "seed": 0,
        }  # fmt: skip
        export(dataset, Path(asked["file"]), HydragnnExport(asked["cutoff"], MAX_NEIGHBOURS, name="ani1x"))
        facts, n = dataset.statistics, dataset.statistics.n_structures[Split.TRAIN] // 16 * 16
        print(f"{given.algorithm}, {given.hidden} channels, 3 layers; {n} structures to train on, batches of 16,")
        print(f"{facts.n_atoms[Split.TRAIN] / facts.n_structures[Split.TRAIN]:.0f} atoms each on average")
        print(f"{'':12}{'epoch':>6}{'structures/s':>14}{'eV/atom':>10}{'eV/A':>10}")
        ways = {
            "HydraGNN": theirs(given.checkout.absolute(), asked),
            "here": ours(folder, dataset, given.algorithm, asked),
        }
        for title, epochs in ways.items():
            for k, line in enumerate(epochs, 1):
                rate = k * n / line["seconds"]
                print(f"{title:12}{k:6}{rate:14.0f}{line['energy_mae']:10.4f}{line['force_mae']:10.4f}", flush=True)


if __name__ == "__main__":
    main()
