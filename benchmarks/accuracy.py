"""Accuracy at equal cost: this project, mace-torch and nequip on published splits, the same CPU time of one thread.

    python benchmarks/accuracy.py DATA --seconds 90 --mace-python VENV/bin/python --nequip-python VENV/bin/python
    python benchmarks/accuracy.py DATA --seconds 1800 ...            # half an hour a side: a day for all sets
    python benchmarks/accuracy.py DATA --seconds 28800 --sets acac 3BPA --sides ours ...             # a night
    python benchmarks/accuracy.py DATA --sets acac --sides ours --variant huber --settings '{"loss": "huber"}'
    python benchmarks/accuracy.py --tables                           # writes docs/accuracy.md from the results

DATA holds the folders acac, 3bpa, ethanol, mlearn and water of the published sets. Every side trains on the same
structures with the same cutoff, its own model, loss, optimiser and averaged weights, and a learning rate that falls to
the end of the budget. CPU time is that of the training of all threads, from the first step on: without imports and
reading. All have the same settings of malloc. mace-torch and nequip need different versions of e3nn, so each has an
environment of its own; a side without one is named and left out.

Each training is a row of benchmarks/accuracy.csv as soon as it ends. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from equal_cost.results import OURS, Result, ablation, add_result, errors, figures, newest, read_results, replaced  # noqa: E402
from equal_cost.splits import SETS, labels, write_split  # noqa: E402

RESULTS, PAGE = HERE / "accuracy.csv", HERE.parent / "docs" / "accuracy.md"
# of all sides: freed memory is kept, and one thread computes
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(HERE),
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One side: its training program, the package that it needs, its settings, and what changes for crystals."""

    program: str
    package: str
    settings: dict[str, Any] = field(default_factory=dict)
    crystals: dict[str, Any] = field(default_factory=dict)


_MACE = {"max_ell": 2, "correlation": 3, "lr": 0.01, "batch": 5}
SIDES = {
    OURS: Side("ours_side", "gfm_pipeline"),
    "MACE small": Side("mace_side", "mace", _MACE | {"hidden_irreps": "128x0e", "max_ell": 3}, {"batch": 1}),
    "MACE L=0": Side("mace_side", "mace", _MACE | {"hidden_irreps": "32x0e"}, {"batch": 1}),
    "NequIP": Side(
        "nequip_side",
        "nequip",
        {"layers": 4, "l_max": 1, "parity": False, "features": 32, "lr": 0.01, "batch": 5, "ema": 0.99},
        {"batch": 1},
    ),
}


def missing_sides(chosen: list[str], interpreters: dict[str, str | None]) -> dict[str, str]:
    """Return why sides cannot run, by name: one sentence each."""
    found = {}
    for name in chosen:
        package = SIDES[name].package
        python = interpreters[package]
        if python is None:
            found[name] = f"{package} is not installed; give --{package}-python."
            continue
        test = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        try:
            absent = subprocess.run([python, "-c", test], check=False, capture_output=True).returncode != 0
        except OSError:
            found[name] = f"{python} cannot be run."
            continue
        if absent:
            found[name] = f"{python} has no package {package}."
    return found


def train_side(side: Side, python: str, given: dict[str, Any], folder: Path) -> tuple[dict[str, Any], Any]:
    """Run one training, and return its facts and predictions."""
    task = given | {"output": str(folder / "predictions.npz")}
    done = subprocess.run(
        [python, "-m", f"equal_cost.{side.program}"],
        input=json.dumps(task), text=True, check=False, capture_output=True, cwd=folder, env=os.environ | ENVIRONMENT,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side.program} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]), np.load(folder / "predictions.npz")


def run_set(name: str, sides: list[str], asked: argparse.Namespace, pythons: dict[str, str | None]) -> None:
    """Train all sides on one set, and record each that has no result yet."""
    known = newest(read_results(asked.results))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = write_split(SETS[name], asked.data, folder)
        test = ase.io.read(files["test"], ":")
        energies = np.array([labels(atoms)[0] for atoms in test])
        forces = np.concatenate([labels(atoms)[1] for atoms in test])
        for which in sides:
            side = SIDES[which]
            settings = side.settings | (side.crystals if test[0].pbc.any() else {}) | asked.settings
            row: dict[str, Any] = {
                "set": name, "side": which, "variant": asked.variant, "settings": json.dumps(settings, sort_keys=True),
                "seed": asked.seed, "budget": asked.seconds,
            }  # fmt: skip
            key = tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in row.values())
            if key in known and not asked.again:
                print(f"{name}, {which}: is there")
                continue
            given = {split: str(path) for split, path in files.items()}
            given |= {"cutoff": SETS[name].cutoff, "seconds": asked.seconds, "seed": asked.seed, "settings": settings}
            facts, found = train_side(side, pythons[side.package] or "", given, folder)
            wrong = errors([len(atoms) for atoms in test], found["energy"], found["forces"], energies, forces)
            result = Result(**row, **facts, **wrong, date=datetime.now(timezone.utc).date().isoformat())
            add_result(asked.results, result)
            print(
                f"{name}, {which} {asked.variant}: {result.version}, {result.parameters:,} parameters, "
                f"{result.cpu_seconds:.0f} CPU s, {result.steps:,} steps, {result.structures:,} structures: "
                f"energy {result.energy_rmse:.3g} ({result.energy_mae:.3g}) meV/atom, "
                f"forces {result.force_rmse:.3g} ({result.force_mae:.3g}) meV/A RMSE (MAE)",
                flush=True,
            )


def write_tables(results: Path, page: Path, missing: dict[str, str]) -> None:
    """Write both tables into the page."""
    rows = list(newest(read_results(results)).values())
    text = page.read_text(encoding="utf-8")
    text = replaced(replaced(text, "figures", figures(rows, missing)), "ablation", ablation(rows))
    page.write_text(text, encoding="utf-8")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the published sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seconds", type=float, default=90.0, help="CPU time of each training")
    parser.add_argument("--mace-python", help="interpreter of an environment with mace-torch")
    parser.add_argument("--nequip-python", help="interpreter of an environment with nequip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", default="", help="name of a trial; it is in the table of trials alone")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of what the trial changes")
    parser.add_argument("--again", action="store_true", help="train what has a result, too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tables", action="store_true", help="train nothing; write docs/accuracy.md")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    if asked.settings and not asked.variant:
        parser.error("--settings need a --variant that names them.")
    if not asked.tables and (asked.data is None or not asked.data.is_dir()):
        parser.error(f"There is no folder {asked.data}: name the one that holds acac, 3bpa, ethanol, mlearn and water.")
    return asked


def main() -> int:
    """Train and record, or write the tables."""
    asked = options()
    if asked.tables:
        write_tables(asked.results, asked.page, {})
        return 0
    asked.data = asked.data.absolute()
    pythons = {"gfm_pipeline": sys.executable, "mace": asked.mace_python, "nequip": asked.nequip_python}
    missing = missing_sides(asked.sides, pythons)
    for name, why in missing.items():
        print(f"Left out: {name}: {why}", file=sys.stderr)
    present = [name for name in asked.sides if name not in missing]
    for name in asked.sets:
        run_set(name, present, asked, pythons)
    rows = newest(read_results(asked.results)).values()
    print("\n".join(figures([r for r in rows if r.budget == asked.seconds], missing)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
