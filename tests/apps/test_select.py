"""Structures to label: uncertain ones that differ, none of the training data, each with the reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from hypothesis import given
from hypothesis import strategies as st

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.deploy.diversity import choose
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.deploy.select import _structures, select
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.deploy import PredictFilesSpec, SelectFacts, SelectSpec
from gfm_pipeline.core.errors import ConfigError, DataError

CAMPAIGN = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"


def test_the_most_uncertain_comes_first_and_its_copies_never():
    features = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.001], [1.0, 1.0], [0.2, 0.1]])
    uncertainty = np.array([3.0, 3.0, 2.9, 1.0, 0.5])
    chosen = choose(uncertainty, features, 3)
    assert chosen.places.tolist() == [0, 3, 4]
    assert np.isinf(chosen.distances[0])
    assert chosen.distances[1] > chosen.distances[2] > 0
    everything = choose(uncertainty, features, 99).places.tolist()
    assert sorted(everything) in ([0, 2, 3, 4], [1, 2, 3, 4])  # of the two copies, one


def test_what_is_known_is_not_chosen_again():
    features = np.array([[0.0, 1.0], [5.0, 1.0], [5.1, 1.0]])
    chosen = choose(np.ones(3), features, 3, known=np.array([[0.0, 1.0], [9.0, 1.0]]))
    assert 0 not in chosen.places
    assert chosen.places[0] in (1, 2)
    assert np.isfinite(chosen.distances).all()


@given(st.integers(0, 12), st.integers(1, 15), st.integers(0, 2**32 - 1))
def test_no_place_is_chosen_twice_and_none_that_is_certain(size, n, seed):
    rng = np.random.default_rng(seed)
    uncertainty = np.maximum(0.0, rng.normal(size=size))
    chosen = choose(uncertainty, rng.normal(size=(size, 3)), n).places
    assert len(set(chosen.tolist())) == len(chosen) == min(n, np.count_nonzero(uncertainty))
    assert (uncertainty[chosen] > 0).all()


def test_numbers_that_mean_nothing_are_refused():
    for uncertainty, features in (([1.0], np.zeros((2, 1))), ([np.nan], np.zeros((1, 1))), ([-1.0], np.zeros((1, 1)))):
        with pytest.raises(ValueError, match=r"finite|uncertainties"):
            choose(np.array(uncertainty), features, 1)


@pytest.fixture(scope="module")
def dataset() -> Path:
    (found,) = CAMPAIGN.glob("stages/ingest-*/datasets/*")
    return found


def run(folder: Path, pool: list[Atoms], n: int, training: tuple[str, ...], name: str = "out.extxyz") -> SelectFacts:
    write(folder / "pool.extxyz", pool)
    source = SourceSettings("files", "ase", (str(folder / "pool.extxyz"),))
    return select(SelectSpec(PredictFilesSpec(str(CAMPAIGN), source), str(folder / name), n, training))


def test_a_pool_is_ranked_and_written_with_reasons_and_without_what_is_known(tmp_path, dataset):
    known = [next(iter(_structures(Dataset.open(dataset).columns(split)))) for split in (Split.TRAIN, Split.TEST)]
    pool = [bulk(("Cu", "Au", "Ni")[k % 3], cubic=True) for k in range(8)]
    for k, atoms in enumerate(pool):
        atoms.rattle(0.02 * (1 + k), seed=k)
    odd = [bulk("Fe"), Atoms("Cu2", [[0, 0, 0], [0, 0, 0]])]
    found = run(tmp_path, [*pool, *known, *odd], 4, (str(dataset),))
    assert (found.chosen, found.pool, found.n_overlap, found.n_refused) == (4, 10, 2, 2)
    place = tmp_path / "pool.extxyz"
    splits = {8: "training", 9: "test"}
    assert found.overlap == tuple(f"{place}, record {k}, in the {split} data of alloys" for k, split in splits.items())
    assert found.compared
    assert found.uncertainty > found.uncertainty_of_pool
    frames = read(tmp_path / "out.extxyz", ":")
    assert [atoms.info["selected"] for atoms in frames] == [1, 2, 3, 4]
    assert len({atoms.info["source_record"] for atoms in frames}) == 4
    for atoms in frames:
        assert "most uncertain" in atoms.info["selected_by"]
        assert np.allclose(atoms.positions, pool[atoms.info["source_record"]].positions)
    alone = run(tmp_path, [*pool, *known], 99, (), "alone.extxyz")
    assert (alone.chosen, alone.n_overlap, alone.compared) == (10, 0, False)


def test_features_are_of_structures_whatever_is_computed_beside_them():
    from gfm_pipeline.apps.deploy.bundle import open_ensemble

    predictor = Predictor(open_ensemble(CAMPAIGN))
    frames = [bulk("Cu", cubic=True), bulk("Au")]
    together = predictor.predict(frames, features=True)
    for atoms, result in zip(frames, together, strict=True):
        (alone,) = predictor.predict([atoms], features=True)
        assert np.allclose(alone["features"], result["features"])
        assert "features" not in predictor.predict([atoms])[0]


def test_faults_are_sentences_and_nothing_is_written(tmp_path, dataset):
    known = [next(iter(_structures(Dataset.open(dataset).columns(Split.TRAIN))))]
    with pytest.raises(
        DataError, match=r"All 1 structures of the pool are in the data of the model .*in the training data of"
    ):
        run(tmp_path, known, 2, (str(dataset),))
    with pytest.raises(DataError, match=r"None of the structures.*holds no Fe"):
        run(tmp_path, [bulk("Fe")], 2, ())
    with pytest.raises(ConfigError, match=r"does not end in \.extxyz"):
        run(tmp_path, known, 2, (), "out.db")
    assert [p.name for p in tmp_path.iterdir()] == ["pool.extxyz"]
    with pytest.raises(ConfigError, match=r"pool\.extxyz is also read"):
        run(tmp_path, known, 2, (), "pool.extxyz")
    (tmp_path / "out.extxyz").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        run(tmp_path, known, 2, ())
    assert (tmp_path / "out.extxyz").read_text() == "mine"
