"""Training here and by HydraGNN: the same structures, splits, sizes, batches and learning rate, one CPU thread.

    git clone https://github.com/ORNL/HydraGNN && pip install -r HydraGNN/requirements-base.txt e3nn vesin
    pip install torch_geometric mpi4py mpich
    GFM_REAL_DATA=FOLDER python benchmarks/against_hydragnn.py HydraGNN [--algorithms NAME] [--sets NAME] [--eager]
    python benchmarks/against_hydragnn.py HydraGNN --learn PaiNN [--files FILE.extxyz ...] [--epochs 10]

The first form prints a table: structures that each side trains on per second of processor time (medians of the turns),
for molecules and crystals. Both sides have the same malloc settings, predict forces as gradients, and take turns; ours
runs eagerly and compiled. HydraGNN is configured as its published foundation models (``gfm_mlip.json``) but for the
sizes, and MACE here has their orders. An algorithm that HydraGNN cannot train is named, and the rest is compared.

The second form trains by both (``--files``; without them on random alloys labelled by ASE's effective medium
potential), exported by ``dataset export --hydragnn`` with energies without those of the elements, and prints a row per
epoch: structures per second so far, and mean absolute errors of the validation split, eV per atom and eV/Angstrom per
component. HydraGNN's loss has energies, energies per atom and ten times forces; ours has forces ten times.
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
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from against_hydragnn_speed import NAMES, SETS, Structures, compare, versions

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
        process.stdin.write(json.dumps(asked) + "\n")
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


def some(data: Path, of: Structures, folder: Path) -> list[str]:
    """Write a set of structures as a file, and return its name."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import iread, write

    path, found = folder / "some.xyz", []
    frames = list(iread(data / of.file, ":"))
    for frame in frames[:: max(1, len(frames) // of.records)][: of.records]:
        atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        forces = frame.arrays["force"] if "force" in frame.arrays else frame.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=frame.get_potential_energy(), forces=forces)
        found.append(atoms)
    write(path, found)
    return [str(path)]


def exported(folder: Path, files: list[str], asked: dict[str, Any]) -> Dataset:
    """Ingest files, or random alloys, and export them for HydraGNN."""
    with redirect_stdout(sys.stderr):  # its warnings are no part of a table
        dataset = ingest(folder, files)
    export(dataset, Path(asked["file"]), HydragnnExport(asked["cutoff"], MAX_NEIGHBOURS, name="ani1x"))
    asked |= {"dataset": str(dataset.path), "structures": dataset.statistics.n_structures[Split.TRAIN]}
    return dataset


def settings(given: argparse.Namespace, folder: Path, name: str, batch: int) -> dict[str, Any]:
    """Return the settings of both sides."""
    return {
        "checkout": str(given.checkout.absolute()), "file": str(folder / "b-v2.bp"), "hidden": given.hidden,
        "name": name, "algorithm": NAMES[name], "layers": 3, "cutoff": 5.0, "max_neighbours": MAX_NEIGHBOURS,
        "epochs": given.epochs, "batch": batch, "learning_rate": given.learning_rate, "seed": 0,
    }  # fmt: skip


def speed(given: argparse.Namespace, data: Path) -> None:
    """Print the table of speeds."""
    print(f"{versions(given.checkout)}; {given.hidden} channels, 3 layers; structures per second of processor time,")
    print(f"medians of {given.turns} turns.\n")
    compiled = ["compiled"] if not given.eager else []
    titles = ["structures", "algorithm", "parameters, HydraGNN", "here", "HydraGNN/s", "here, eager"]
    titles += [f"here, {one}" for one in compiled] + ["ratio, eager"] + [f"ratio, {one}" for one in compiled]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    for title in given.sets:
        with tempfile.TemporaryDirectory() as place:
            folder, of = Path(place), SETS[title]
            batch = given.batch or of.batch
            first = settings(given, folder, given.algorithms[0], batch)
            exported(folder, some(data, of, folder), first)
            for name in given.algorithms:
                asked = first | settings(given, folder, name, batch) | {"epochs": given.turns + 2}
                cells = compare(given.checkout.absolute(), folder, asked, bool(compiled), given.turns)
                print(f"| {' | '.join([title, name, *cells])} |", flush=True)


def learn(given: argparse.Namespace) -> None:
    """Train by both and print errors by epoch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = settings(given, folder, given.learn, 16)
        dataset = exported(folder, [str(Path(file).absolute()) for file in given.files], asked)
        facts, n = dataset.statistics, dataset.statistics.n_structures[Split.TRAIN] // 16 * 16
        print(f"{given.learn}, {given.hidden} channels, 3 layers; {n} structures to train on, batches of 16,")
        print(f"{facts.n_atoms[Split.TRAIN] / facts.n_structures[Split.TRAIN]:.0f} atoms each on average")
        print(f"{'':12}{'epoch':>6}{'structures/s':>14}{'eV/atom':>10}{'eV/A':>10}")
        ways = {
            "HydraGNN": theirs(given.checkout.absolute(), asked),
            "here": ours(folder, dataset, given.learn, asked),
        }
        for title, epochs in ways.items():
            for k, line in enumerate(epochs, 1):
                rate = k * n / line["seconds"]
                print(f"{title:12}{k:6}{rate:14.0f}{line['energy_mae']:10.4f}{line['force_mae']:10.4f}", flush=True)


def main() -> None:
    """Compare speeds, or learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="HydraGNN's repository")
    parser.add_argument("--algorithms", nargs="*", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, help="structures per step; the default is 16 molecules or 8 crystals")
    parser.add_argument(
        "--eager", action="store_true", help="without the compiled pass, which takes minutes to compile"
    )
    parser.add_argument("--learn", choices=list(NAMES), help="train this algorithm and print its errors")
    parser.add_argument("--files", nargs="*", default=[], help="extended XYZ, with --learn")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--hidden", type=int, default=64)
    given = parser.parse_args()
    if not (given.checkout / "hydragnn").is_dir():
        parser.error(f"{given.checkout} is no checkout of HydraGNN: git clone https://github.com/ORNL/HydraGNN.")
    if given.learn:
        learn(given)
        return
    data = os.environ.get("GFM_REAL_DATA")
    if data is None:
        parser.error("GFM_REAL_DATA must name the folder of real datasets; --learn needs none.")
    speed(given, Path(data))


if __name__ == "__main__":
    main()
