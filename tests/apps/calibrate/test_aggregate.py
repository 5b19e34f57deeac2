"""Predictions of members joined, from their files."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

from gfm_pipeline.apps.calibrate.aggregate import aggregate, predictions_file
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import MemberRef
from gfm_pipeline.core.errors import DataError


def write_predictions(folder: Path, dataset: str, split: Split, seed: int, *, label_seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    label_rng, rng = (
        np.random.default_rng([label_seed, *split.encode()]),
        np.random.default_rng([seed, *split.encode()]),
    )
    natoms = label_rng.integers(2, 6, size=60)
    energy, forces = 3.0 * natoms + label_rng.normal(size=60), label_rng.normal(size=(int(natoms.sum()), 3))
    np.savez(
        predictions_file(folder, dataset, split),
        natoms=natoms,
        group=np.arange(60) // 3,
        energy_reference=3.0 * natoms,
        energy_label=energy,
        forces_label=forces,
        energy=energy + 0.1 * natoms * rng.normal(size=60),
        forces=forces + 0.2 * rng.normal(size=forces.shape),
    )


def test_energies_are_per_atom_and_forces_per_component(tmp_path: Path) -> None:
    members = []
    for k in range(3):
        write_predictions(tmp_path / f"m{k}", "oxides", Split.TEST, seed=k + 1)
        members.append(MemberRef(f"m{k}", "", str(tmp_path / f"m{k}")))
    found = aggregate(members, "oxides", Split.TEST)
    files = [np.load(predictions_file(tmp_path / f"m{k}", "oxides", Split.TEST)) for k in range(3)]
    natoms = files[0]["natoms"]
    energies = [statistics.stdev(float(f["energy"][7] / natoms[7]) for f in files)]
    assert found.n_structures == 60
    assert found.targets["energy"].spread[7] == pytest.approx(energies[0], rel=1e-9)
    assert found.targets["energy"].label[7] == pytest.approx(files[0]["energy_label"][7] / natoms[7] - 3.0)
    assert found.targets["energy"].error[7] * natoms[7] == pytest.approx(
        np.mean([f["energy"][7] for f in files]) - files[0]["energy_label"][7]
    )
    assert found.targets["forces"].mean.shape == (3 * natoms.sum(),)
    assert found.targets["forces"].mean[5] == pytest.approx(np.mean([f["forces"][1, 2] for f in files]))
    assert np.bincount(found.targets["forces"].cluster)[0] == 3 * natoms[:3].sum()


def test_members_of_another_dataset_are_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a", "oxides", Split.TEST, seed=1)
    write_predictions(tmp_path / "b", "oxides", Split.TEST, seed=2, label_seed=9)
    refs = [MemberRef(name, "", str(tmp_path / name)) for name in ("a", "b")]
    with pytest.raises(DataError, match="their datasets differ"):
        aggregate(refs, "oxides", Split.TEST)
    with pytest.raises(DataError, match="is missing"):
        aggregate(refs, "alloys", Split.TEST)


def test_missing_labels_are_left_out(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a", "oxides", Split.TEST, seed=1)
    path = predictions_file(tmp_path / "a", "oxides", Split.TEST)
    content = dict(np.load(path))
    content["energy_label"][:5] = np.nan
    np.savez(path, **content)
    found = aggregate([MemberRef("a", "", str(tmp_path / "a"))], "oxides", Split.TEST)
    assert len(found.targets["energy"].label) == 55
    assert len(found.targets["energy"].cluster) == 55
