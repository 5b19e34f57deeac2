"""What an ensemble says of structures unlike its training data: ethanol and 3BPA, and sets meant to mislead it.

    GFM_REAL_DATA=FOLDER python benchmarks/uncertainty.py [--campaigns FOLDER] [--only NAME] [--seeds 3] [--measures]

For each molecule three PaiNN are trained by a whole campaign, and calibrated (3 to 6 minutes of processor time each;
campaigns that were kept in FOLDER are used again, with the calibration that they have, or with a new one of the same
members: ``--calibrate``). Then each test set is predicted. `uncertainty_sets.py` says which structures are out of
domain, by a criterion that no model enters. Printed for each set: the error of energies, how often 90 % intervals of
energies and of forces cover the label, the share that is flagged (``in_domain`` is false), that of energies that is
covered or flagged, the share of those not flagged that is covered, and how well distance and spread tell the set from
the first one, which is like the training data (AUROC; 0.5 is chance), beside what an ideal detector would reach where
a set also holds structures like the training data; the same for the structures that are out of domain. Of sets like
the training data, also: the coverage of forces by element, how well each measure finds the tenth
of the atoms with the largest force errors, and the tails of energy errors.

``--seeds`` repeats the sets like the training data with other splits and other members, and ``--measures`` compares the
ensemble with its first member alone (``calibrate.uncertainty: llpr``) and with one model that has a shallow ensemble.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase.io import write
from uncertainty_sets import MOLECULES, Molecule, sets
from uncertainty_tables import (
    Floats,
    Predicted,
    by_element,
    by_set,
    header,
    percent,
    print_chance,
    print_worst_forces,
    tails,
    worst_forces,
)

from gfm_pipeline import Campaign
from gfm_pipeline.apps.calibrate.aggregate import aggregate, predictions_file
from gfm_pipeline.apps.calibrate.fit import calibrate
from gfm_pipeline.apps.calibrate.predict import predict
from gfm_pipeline.apps.calibrate.ranking import auroc
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import CalibrateSpec, MemberRef, PredictSpec
from gfm_pipeline.core.contracts.policies import PolicyChoice
from gfm_pipeline.core.contracts.training import DatasetRef

WORKFLOW = """\
name: {name}
seed: {seed}
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
{space}converge: {{members: {members}, check_every: 6000, patience: 3, max_graphs: {graphs}}}
"""
HEADS = 16  # of the shallow ensemble
LEVEL = 0.9


def campaign(places: Path, name: str, seed: int, folder: Path, graphs: int, shallow: bool = False) -> Path:
    """Return the folder of a campaign; it is run unless it was kept."""
    molecule = MOLECULES[name]
    place = places / f"{name}-{seed}{'-shallow' if shallow else ''}"
    if not list(place.glob("stages/calibrate-*/ensemble/manifest.json")):
        places.mkdir(parents=True, exist_ok=True)
        file, workflow = places / f"{name}.xyz", places / f"{place.name}.yaml"
        write(file, molecule.trained(folder))
        space = f"    shallow_ensemble: {HEADS}\n" if shallow else ""
        values = {"name": f"m{name}", "file": file, "validation": molecule.validation, "seed": seed, "space": space}
        workflow.write_text(WORKFLOW.format(**values, members=1 if shallow else 3, graphs=graphs))
        Campaign.from_yaml(workflow, site="local", folder=place).run()
    return place


def members_of(place: Path, anew: bool) -> tuple[tuple[MemberRef, ...], tuple[DatasetRef, ...], Path]:
    """Return the members of a campaign, its datasets, and its calibrated ensemble.

    If ``anew``, the present version predicts with the members and calibrates them, in a folder beside the campaign.
    """
    datasets = tuple(DatasetRef(path.name, str(path)) for path in place.glob("stages/ingest-*/datasets/*"))
    names = sorted(path.name for path in place.glob("stages/converge-*/checkpoints/m*"))
    checkpoints = next(iter(place.glob("stages/converge-*/checkpoints")))
    stage = next(iter(place.glob("stages/calibrate-*")))
    predictions, ensemble = stage / "predictions", stage / "ensemble"
    if anew:
        predictions = ensemble = place.with_name(f"{place.name}-calibrated")
        ensemble = ensemble / "ensemble"
    members = tuple(MemberRef(n, str(checkpoints / n), str(predictions / n)) for n in names)
    if anew and not ensemble.exists():
        task = task_in(predictions / "task")
        for member in members:
            predict(PredictSpec(member.name, member.checkpoint, datasets, member.predictions), task)
        calibrate(CalibrateSpec(members, datasets, LEVEL, str(ensemble), 0), task)
    return members, datasets, ensemble


def task_in(folder: Path) -> Task:
    """Return a task in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Task(folder)


def first_alone(place: Path, anew: bool) -> Path:
    """Return the first member of a campaign as an ensemble of its own, with the rigidity of its last layer."""
    members, datasets, _ = members_of(place, anew)
    output = place.with_name(f"{place.name}-llpr{'-calibrated' if anew else ''}")
    if not output.exists():
        spec = CalibrateSpec(members[:1], datasets, LEVEL, str(output), 0, PolicyChoice("llpr", {}))
        with TemporaryDirectory() as folder:
            calibrate(spec, task_in(Path(folder)))
    return output


def errors_of_splits(place: Path, anew: bool, weights: Floats) -> dict[str, Floats]:
    """Return the errors of energies (eV) of each split of a campaign."""
    members, datasets, _ = members_of(place, anew)
    found = {}
    for title, split in (("training", Split.TRAIN), ("validation", Split.VALIDATION), ("test split", Split.TEST)):
        if predictions_file(Path(members[0].predictions), datasets[0].name, split).exists():
            predicted = aggregate(members, datasets[0].name, split).weighted(weights)
            energy = predicted.targets["energy"]
            found[title] = energy.error * predicted.natoms[energy.place]
    return found


def opened(ensemble: Path) -> Predictor:
    """Return the predictor of an ensemble."""
    return Predictor(open_ensemble(ensemble), dtype="float32")


def compare(place: Path, anew: bool, molecule: Molecule, folder: Path) -> list[Predicted]:
    """Print all tables of an ensemble, and return its predictions of the sets like the training data."""
    ensemble = open_ensemble(members_of(place, anew)[2])
    predictor = Predictor(ensemble, dtype="float32")
    found = [Predicted.by(predictor, of) for of in sets(molecule, folder)]
    whole = []
    if molecule.joined is not None:
        name, parts = molecule.joined
        whole = [Predicted.joined(name, [one for one in found if one.of.name in parts])]
    by_set([*found, *whole])
    like = [one for one in found if one.of.name in molecule.like]
    for one in like:
        by_element(one)
    print_worst_forces(like[0])
    (dataset,) = ensemble.calibration.datasets
    print_chance(like, ensemble.calibration.datasets[dataset].energy.n, LEVEL)
    tails({**errors_of_splits(place, anew, ensemble.weights(dataset)), **{one.of.name: one.error for one in like}})
    return like


def repeated(like: dict[int, list[Predicted]]) -> None:
    """Print a row for each seed, and the mean: coverage and false alarms on structures like the training data."""
    header("seed", *(f"{one.of.name}: {what}" for one in like[1] for what in ("energies", "forces", "flagged")))
    rows = {
        seed: [np.mean(s) for one in found for s in (one.covered, one.forces_covered, one.flagged)]
        for seed, found in like.items()
    }
    for seed, shares in [*rows.items(), ("mean", np.mean(list(rows.values()), axis=0))]:
        print(f"| {seed} | {' | '.join(f'{100 * share:.1f} %' for share in shares)} |")


def measures(name: str, places: Path, anew: bool, folder: Path, graphs: int) -> None:
    """Print a row for each measure of the spread, on the first set, and on what is out of domain."""
    molecule = MOLECULES[name]
    place, shallow = (campaign(places, name, 1, folder, graphs, kind) for kind in (False, True))
    ensembles = {
        "ensemble of 3": members_of(place, anew)[2],
        "one member, llpr": first_alone(place, anew),
        f"one model, shallow ensemble of {HEADS}": members_of(shallow, anew)[2],
    }
    header(
        "measure", "graphs trained on", "prediction, s", "energy MAE, eV", "force MAE, eV/Å", "energies covered",
        "forces covered", "AUROC worst forces, half-width", "spread", "out of domain: AUROC of the spread",
    )  # fmt: skip
    chosen = list(sets(molecule, folder))
    for title, ensemble in ensembles.items():
        predictor, begun = opened(ensemble), time.process_time()
        first = Predicted.by(predictor, chosen[0])
        seconds = time.process_time() - begun
        others = [Predicted.by(predictor, of) for of in chosen[1:] if of.outside.any()]
        spreads = np.concatenate([first.spread, *(one.spread[one.of.outside] for one in others)])
        ranks = worst_forces(first)
        outside = np.arange(len(spreads)) >= len(first.spread)
        row = [
            title,
            f"{graphs * len(open_ensemble(ensemble).members):,}",
            f"{seconds:.1f}",
            f"{np.mean(np.abs(first.error)):.4f}",
            f"{np.mean(np.abs(first.force_errors())):.4f}",
            percent(first.covered),
            percent(first.forces_covered),
            *(f"{ranks[key][0]:.3f}" for key in ("half-width", "spread")),
            f"{auroc(spreads, outside):.3f}",
        ]
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Train where there is no campaign yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=Path, help="Folder of the campaigns of an earlier run, or for these.")
    parser.add_argument("--calibrate", action="store_true", help="Predict with kept members and calibrate them anew.")
    parser.add_argument("--only", choices=MOLECULES, help="This molecule only.")
    parser.add_argument("--graphs", type=int, help="Structures that each member is trained on.")
    parser.add_argument("--seeds", type=int, default=1, help="Repeat with so many splits.")
    parser.add_argument("--measures", action="store_true", help="Compare measures of the spread only.")
    given = parser.parse_args()
    if "GFM_REAL_DATA" not in os.environ:
        parser.error("GFM_REAL_DATA is not set: it names the folder with ethanol/train.xyz.")
    folder = Path(os.environ["GFM_REAL_DATA"]).resolve()
    with TemporaryDirectory() as temporary:
        places = (given.campaigns or Path(temporary)).resolve()
        for name in [given.only] if given.only else MOLECULES:
            molecule, graphs = MOLECULES[name], given.graphs or MOLECULES[name].graphs
            print(f"\n{name}", flush=True)
            if given.measures:
                measures(name, places, given.calibrate, folder, graphs)
                continue
            like = {1: compare(campaign(places, name, 1, folder, graphs), given.calibrate, molecule, folder)}
            for seed in range(2, given.seeds + 1):
                ensemble = members_of(campaign(places, name, seed, folder, graphs), given.calibrate)[2]
                like[seed] = [Predicted.by(opened(ensemble), of) for of in sets(molecule, folder, only_like=True)]
            if len(like) > 1:
                repeated(like)


if __name__ == "__main__":
    main()
