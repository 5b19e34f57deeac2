"""Stored validation errors: those of the validation, in a small file of the checkpoint, and the same after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as arrays_of
from training_cases import publish_dataset, run, small_spec

from gfm_pipeline.apps.train.checkpoint import load
from gfm_pipeline.core.contracts.attempts.stored_errors import ERRORS_FILE, error_key, group_key, largest_bytes
from gfm_pipeline.core.publish import verify

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return publish_dataset(folder, "soft", 0, 1.0), publish_dataset(folder, "hard", 10, 2.0)


def test_they_are_the_errors_of_the_last_validation(datasets, tmp_path):
    spec = replace(small_spec(datasets, tmp_path / "out"), budget_graphs=160, store_errors=True)
    result = run(spec, tmp_path / "a")
    folder = Path(result.checkpoint)
    assert ERRORS_FILE in verify(folder, digests=True).files
    assert (folder / ERRORS_FILE).stat().st_size < largest_bytes(2, load(folder).card.targets)
    arrays = arrays_of((folder / ERRORS_FILE).read_bytes())
    for name, errors in load(folder).card.errors.items():
        assert np.abs(arrays[error_key(name, "energy")]).mean() == pytest.approx(errors.energy_mae, rel=1e-4)
        assert np.abs(arrays[error_key(name, "forces")]).mean() == pytest.approx(errors.force_mae, rel=1e-4)
        assert arrays[error_key(name, "forces")].shape[1] == 3
        for target in ("energy", "forces"):
            assert len(arrays[group_key(name, target)]) == len(arrays[error_key(name, target)])


def test_equal_trainings_store_equal_errors_and_others_none(datasets, tmp_path):
    spec = replace(small_spec(datasets, tmp_path / "out"), budget_graphs=80, store_errors=True)
    first = run(spec, tmp_path / "a")
    second = run(replace(spec, output=str(tmp_path / "again")), tmp_path / "b")
    assert first.digest == second.digest
    without = run(replace(spec, output=str(tmp_path / "without"), store_errors=False), tmp_path / "c")
    assert not (Path(without.checkpoint) / ERRORS_FILE).exists()
