"""What an ensemble says of structures unlike its training data: ethanol and 3BPA, and sets meant to mislead it.

    GFM_REAL_DATA=FOLDER python benchmarks/uncertainty.py [--campaigns FOLDER] [--only NAME] [--graphs N]

For each molecule three PaiNN are trained by a whole campaign, and calibrated (about 10 minutes each on 2 cores;
campaigns that were kept are used again). Then each test set is predicted. Printed for each: the error of energies, how
often 90 % intervals of energies and of forces cover the label, the share that is flagged (``in_domain`` is false), the
share of energies that is covered or flagged, and how well distance and spread tell the set from the structures that
are like the training data (AUROC; 0.5 is chance). Of those, also: coverage of forces by element with its error, and how
well each measure finds the tenth of the force components with the largest errors (AUROC, AUPRC, AUSE).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read, write
from numpy.typing import NDArray

from gfm_pipeline import Campaign
from gfm_pipeline.apps.calibrate.groups import bootstrap_error
from gfm_pipeline.apps.calibrate.ranking import auprc, auroc, ause, worst
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor

WORKFLOW = """\
name: {name}
seed: 1
data:
  sources:
    {name}: {{reader: ase, files: {file}, group_key: "@record"}}
  validation: {validation}
  test: 0.1
search:
  candidates: 3
  rungs: [2000]
  space:
    algorithm: [PaiNN]
    hidden: 48
    layers: 3
    cutoff: 5.0
    learning_rate: {{low: 3e-3, high: 6e-3, scale: log}}
    force_weight: 10
converge: {{members: 3, check_every: 6000, patience: 3, max_graphs: {graphs}}}
"""
MOST = 400  # structures of a set
TOGETHER = 64  # structures computed at once
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Molecule:
    """Training data, and test sets: the first one is like them. A set may be some structures of its file only.

    The last ``held`` structures of the training file are not trained on, and are the set ``held back``.
    """

    train: str
    validation: float
    sets: dict[str, tuple[str, Callable[[Atoms], bool]]]
    held: int = 0


def _all(_atoms: Atoms) -> bool:
    return True


MOLECULES = {
    "ethanol": Molecule(
        "ethanol/train.xyz",
        0.2,
        {
            "molecular dynamics": ("ethanol/test_MD.xyz", _all),
            "methanol": ("ethanol/test_eth_meth.xyz", lambda atoms: atoms.info["config_type"] == "methanol"),
            "hydrogen removal": ("ethanol/test_H_removal.xyz", _all),
            "normal mode 874": ("ethanol/test_norm_mode_874.xyz", _all),
            "normal mode 3005": ("ethanol/test_norm_mode_3005.xyz", _all),
            "dimers": ("ethanol/test_dimers.xyz", _all),
        },
    ),
    # The published test set of 300 K is not in the folder.
    "3bpa": Molecule("3bpa/train_300K.xyz", 0.25, {"mixed temperatures": ("3bpa/train_mixedT.xyz", _all)}, held=100),
}


def structures(folder: Path, file: str, chosen: Callable[[Atoms], bool]) -> list[Atoms]:
    """Return the structures of a set, at most `MOST` of them, evenly from the whole file."""
    found = [atoms for atoms in read(folder / file, ":") if chosen(atoms)]
    return found[:: max(1, len(found) // MOST)][:MOST]


def predicted(predictor: Predictor, frames: list[Atoms]) -> list[dict[str, Any]]:
    """Return the results of structures."""
    parts = (frames[first : first + TOGETHER] for first in range(0, len(frames), TOGETHER))
    return [result for part in parts for result in predictor.predict(part)]


def of_forces(frames: list[Atoms], results: list[dict[str, Any]]) -> None:
    """Print the coverage of force components by element, and how well each measure finds the largest errors."""
    error = np.concatenate([r["forces"] - a.get_forces() for r, a in zip(results, frames, strict=True)])
    bound = np.concatenate([r["forces_interval"] for r in results])
    symbols = np.concatenate([a.symbols for a in frames])
    structure = np.repeat(np.arange(len(frames)), [len(a) for a in frames])
    shown = []
    for symbol in np.unique(symbols):
        own = symbols == symbol
        inside = (np.abs(error) <= bound)[own].sum(1).astype(float)
        sums = [np.bincount(structure[own], weights=w, minlength=len(frames)) for w in (inside, 3.0 * own[own])]
        shown.append(f"{symbol} {sums[0].sum() / sums[1].sum():.1%} ± {bootstrap_error(sums[0], sums[1]):.1%}")
    print(f"\nForces covered, by element: {', '.join(shown)}")
    lengths = np.linalg.norm(np.concatenate([r["forces"] for r in results]), axis=1)
    measures = {
        "half-width": bound,
        "spread": np.concatenate([r["forces_std"] for r in results]),
        "distance": np.repeat(np.concatenate([r["distances"] for r in results])[:, None], 3, axis=1),
        "length of the force": np.repeat(lengths[:, None], 3, axis=1),
    }
    per_atom = np.linalg.norm(error, axis=1)
    print("\n| largest tenth of force errors | AUROC, components | AUROC, atoms | AUPRC, atoms | AUSE, atoms |")
    print("|---|---:|---:|---:|---:|")
    for name, measure in measures.items():
        of_atom = np.linalg.norm(measure, axis=1)
        parts = [auroc(measure.ravel(), worst(error.ravel()))]
        parts += [auroc(of_atom, worst(per_atom)), auprc(of_atom, worst(per_atom)), ause(per_atom, of_atom)]
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in parts)} |")


def sets(molecule: Molecule, folder: Path) -> Iterator[tuple[str, list[Atoms]]]:
    """Yield the test sets by name, first the one like the training data."""
    if molecule.held:
        yield f"held back of {Path(molecule.train).stem}", read(folder / molecule.train, f"-{molecule.held}:")
    for name, (file, chosen) in molecule.sets.items():
        yield name, structures(folder, file, chosen)


def compare(predictor: Predictor, molecule: Molecule, folder: Path) -> None:
    """Print the tables of a molecule."""
    titles = (
        "structures",
        "median energy error, eV",
        "energies covered",
        "forces covered",
        "flagged",
        "covered or flagged",
    )
    print(f"| set | {' | '.join([*titles, 'AUROC distance', 'AUROC spread'])} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    inside: tuple[Floats, Floats] | None = None
    like: tuple[list[Atoms], list[dict[str, Any]]] | None = None
    for name, frames in sets(molecule, folder):
        results = predicted(predictor, frames)
        error = np.array([abs(r["energy"] - a.get_potential_energy()) for r, a in zip(results, frames, strict=True)])
        covered = error <= np.array([r["energy_interval"] for r in results])
        inside_of_forces = [
            np.abs(r["forces"] - a.calc.results["forces"]) <= r["forces_interval"]
            for r, a in zip(results, frames, strict=True)
            if "forces" in a.calc.results
        ]
        forces = f"{100 * np.mean(np.concatenate(inside_of_forces)):.0f} %" if inside_of_forces else ""
        flagged = ~np.array([r["in_domain"] for r in results])
        distance = np.array([r["distance"] for r in results])
        spread = np.array([r["energy_std"] / len(a) for r, a in zip(results, frames, strict=True)])
        told = ["", ""]
        if inside is None:
            inside, like = (distance, spread), (frames, results)
        else:
            both = [np.concatenate(pair) for pair in zip(inside, (distance, spread), strict=True)]
            outside = np.arange(len(both[0])) >= len(inside[0])
            told = [f"{auroc(values, outside):.3f}" for values in both]
        shares = [f"{100 * np.mean(share):.0f} %" for share in (covered, flagged, covered | flagged)]
        shares.insert(1, forces)
        print(f"| {name} | {len(frames)} | {np.median(error):.3g} | {' | '.join([*shares, *told])} |", flush=True)
    if like is not None:
        of_forces(*like)


def main() -> None:
    """Train where there is no campaign yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=Path, help="Folder of the campaigns of an earlier run, or for these.")
    parser.add_argument("--only", choices=MOLECULES, help="This molecule only.")
    parser.add_argument("--graphs", type=int, default=40000, help="Structures that each member is trained on.")
    given = parser.parse_args()
    if "GFM_REAL_DATA" not in os.environ:
        parser.error("GFM_REAL_DATA is not set: it names the folder with ethanol/train.xyz.")
    folder = Path(os.environ["GFM_REAL_DATA"]).resolve()
    with TemporaryDirectory() as temporary:
        places = given.campaigns or Path(temporary)
        for name in [given.only] if given.only else MOLECULES:
            molecule, place = MOLECULES[name], places / name
            if not (place / "journal.jsonl").exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                workflow = places / f"{name}.yaml"
                training = folder / molecule.train
                if molecule.held:
                    frames, training = read(training, f":-{molecule.held}"), places / f"{name}.xyz"
                    write(training, frames)
                values = {"name": f"m{name}", "file": training, "validation": molecule.validation}
                workflow.write_text(WORKFLOW.format(**values, graphs=given.graphs))
                Campaign.from_yaml(workflow, site="local", folder=place).run()
            print(f"\n{name}\n")
            compare(Predictor(open_ensemble(place), dtype="float32"), molecule, folder)


if __name__ == "__main__":
    main()
