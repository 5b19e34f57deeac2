"""What an ensemble says of structures unlike its training data: ethanol, and the sets that are meant to mislead it.

    GFM_REAL_DATA=FOLDER python benchmarks/uncertainty.py [--campaign FOLDER]

Three PaiNN are trained on ``ethanol/train.xyz`` by a whole campaign, and calibrated (about 10 minutes on 2 cores; a
campaign that was kept is used again). Then each test set of that folder is predicted. Printed for each: the error of
energies, how often 90 % intervals of energies cover the label, the share that is flagged (``in_domain`` is false), the
share that is covered or flagged, and how well distance and spread tell the set from the molecular dynamics of the same
molecule (AUROC; 0.5 is chance). Last, how well they find the tenth of the atoms with the largest force errors.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray
from scipy.stats import rankdata

from gfm_pipeline import Campaign
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor

WORKFLOW = """\
name: ethanol
seed: 1
data:
  sources:
    ethanol: {{reader: ase, files: {file}, group_key: "@record"}}
  validation: 0.15
  test: 0.15
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
converge: {{members: 3, check_every: 6000, patience: 3, max_graphs: 40000}}
"""
REFERENCE = "molecular dynamics"
SETS = {
    REFERENCE: "test_MD.xyz",
    "methanol": "test_eth_meth.xyz",
    "hydrogen removal": "test_H_removal.xyz",
    "normal mode 874": "test_norm_mode_874.xyz",
    "normal mode 3005": "test_norm_mode_3005.xyz",
    "dimers": "test_dimers.xyz",
}
MOST = 400  # structures of a set
TOGETHER = 64  # structures computed at once
Floats = NDArray[np.float64]


def auroc(inside: Floats, outside: Floats) -> float:
    """Return the probability that a value from ``outside`` is larger than one from ``inside``; ties count half."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    return float((ranks.sum() - len(outside) * (len(outside) + 1) / 2) / (len(inside) * len(outside)))


def structures(folder: Path, name: str) -> list[Atoms]:
    """Return the structures of a set."""
    found: list[Atoms] = read(folder / "ethanol" / SETS[name], ":")
    if name == "methanol":
        found = [atoms for atoms in found if atoms.info["config_type"] == "methanol"]
    return found[:MOST]


def predicted(predictor: Predictor, frames: list[Atoms]) -> list[dict[str, Any]]:
    """Return the results of structures."""
    parts = (frames[first : first + TOGETHER] for first in range(0, len(frames), TOGETHER))
    return [result for part in parts for result in predictor.predict(part)]


def worst_forces(frames: list[Atoms], results: list[dict[str, Any]]) -> str:
    """Return how well each measure finds the tenth of the atoms with the largest force errors."""

    def of_atoms(values: list[Floats]) -> Floats:
        return np.concatenate([np.linalg.norm(v, axis=1) if v.ndim == 2 else v for v in values])

    error = of_atoms([r["forces"] - a.get_forces() for r, a in zip(results, frames, strict=True)])
    spread, force = (of_atoms([r[name] for r in results]) for name in ("forces_std", "forces"))
    distance = of_atoms([r["distances"] for r in results])
    worst = error > np.quantile(error, 0.9)
    measures = {"spread": spread, "distance": distance, "spread x distance": spread * distance, "size of force": force}
    return ", ".join(f"{name} {auroc(m[~worst], m[worst]):.2f}" for name, m in measures.items())


def compare(predictor: Predictor, folder: Path) -> None:
    """Print the table."""
    titles = ("structures", "median energy error, eV", "covered", "flagged", "covered or flagged")
    print(f"| set | {' | '.join([*titles, 'AUROC distance', 'AUROC spread'])} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    inside: tuple[Floats, Floats] | None = None
    for name in SETS:
        frames = structures(folder, name)
        results = predicted(predictor, frames)
        error = np.array([abs(r["energy"] - a.get_potential_energy()) for r, a in zip(results, frames, strict=True)])
        covered = error <= np.array([r["energy_interval"] for r in results])
        flagged = ~np.array([r["in_domain"] for r in results])
        distance = np.array([r["distance"] for r in results])
        spread = np.array([r["energy_std"] / len(a) for r, a in zip(results, frames, strict=True)])
        told = ["", ""]
        if inside is None:
            inside, forces = (distance, spread), worst_forces(frames, results)
        else:
            told = [f"{auroc(*pair):.3f}" for pair in zip(inside, (distance, spread), strict=True)]
        shares = (f"{100 * np.mean(share):.0f} %" for share in (covered, flagged, covered | flagged))
        print(f"| {name} | {len(frames)} | {np.median(error):.3g} | {' | '.join([*shares, *told])} |")
    print(f"\nThe tenth of the atoms of {REFERENCE} with the largest force errors, AUROC: {forces}")


def main() -> None:
    """Train where there is no campaign yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaign", type=Path, help="Folder of a campaign of an earlier run, or for this one.")
    given = parser.parse_args()
    if "GFM_REAL_DATA" not in os.environ:
        parser.error("GFM_REAL_DATA is not set: it names the folder with ethanol/train.xyz.")
    folder = Path(os.environ["GFM_REAL_DATA"]).resolve()
    with TemporaryDirectory() as temporary:
        place = given.campaign or Path(temporary) / "campaign"
        if not (place / "journal.jsonl").exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            workflow = place.parent / "ethanol.yaml"
            workflow.write_text(WORKFLOW.format(file=folder / "ethanol" / "train.xyz"))
            Campaign.from_yaml(workflow, site="local", folder=place).run()
        compare(Predictor(open_ensemble(place), dtype="float32"), folder)


if __name__ == "__main__":
    main()
