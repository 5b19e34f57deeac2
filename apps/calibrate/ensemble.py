"""The deployable ensemble: a published folder with its members, their calibration and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from gfm_pipeline.apps.calibrate.domain import Domain
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.apps.train.checkpoint import TrainedModel, load_model
from gfm_pipeline.core.contracts.evaluation import (
    CALIBRATION_FILE,
    DOMAIN_FOLDER,
    MEMBERS_FOLDER,
    EnsembleCalibration,
)
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import verify
from gfm_pipeline.core.records import read_record, to_plain

CALIBRATION_VERSION = 1  # schema of ``calibration.json``


@dataclass(frozen=True)
class Ensemble:
    """An ensemble ready to predict.

    Attributes
    ----------
    path, digest
        Its folder or file, and the SHA-256 over its content.
    calibration
        Its members' names and the calibration of each dataset.
    members
        Averaged (EMA) parameters of each member, evaluation mode, float32.
    domains
        `Domain` of the training split by member and dataset; empty for older ensembles.
    """

    path: Path
    digest: str
    calibration: EnsembleCalibration
    members: tuple[TrainedModel, ...]
    domains: Mapping[tuple[str, str], Domain] = field(default_factory=dict)

    def weights(self, dataset: str) -> Array:
        """Return the share of each member [K] in the mean for ``dataset``; they sum to one."""
        return member_weights(self.calibration, dataset)


def member_weights(calibration: EnsembleCalibration, dataset: str) -> Array:
    """Return the weight of each member [K], in the order of ``calibration.members``; equal weights by default.

    Raises
    ------
    IntegrityError
        When the weights belong to other members, are negative, or do not sum to one.
    """
    names, found = calibration.members, calibration.datasets[dataset].weights
    if not found:
        return np.full(len(names), 1.0 / len(names))
    if set(found) != set(names) or min(found.values()) < 0.0 or not math.isclose(sum(found.values()), 1.0):
        raise IntegrityError(
            f"{CALIBRATION_FILE}: the weights of {dataset} are not shares of the members {', '.join(names)}.",
            "Run the calibrate stage again.",
        )
    return np.array([found[name] for name in names])


def load_ensemble(path: Path) -> Ensemble:
    """Check every file against the manifest, then load all members.

    Raises
    ------
    IntegrityError
        When a file is missing, was changed, or the folder is not an ensemble.
    """
    manifest = verify(path, digests=True)
    if CALIBRATION_FILE not in manifest.files:
        raise IntegrityError(f"{path} is not an ensemble: its manifest lists no {CALIBRATION_FILE}.")
    calibration = read_record(EnsembleCalibration, path / CALIBRATION_FILE)
    members = tuple(load_model(path / MEMBERS_FOLDER / name) for name in calibration.members)
    check_calibration(path, calibration, members)
    files = {name: (path / name).read_bytes() for name in manifest.files if name.startswith(f"{DOMAIN_FOLDER}/")}
    return Ensemble(path, manifest.digest, calibration, members, read_domains(files, calibration))


def check_calibration(path: Path, calibration: EnsembleCalibration, members: Sequence[TrainedModel]) -> None:
    """Refuse a calibration that cannot be that of the members: of a newer version, edited, or of other datasets.

    Raises
    ------
    IntegrityError
        With ``path``, and what does not fit.
    """
    if calibration.schema_version > CALIBRATION_VERSION:
        found = f"{CALIBRATION_FILE} was written by a newer version (schema {calibration.schema_version})"
        raise IntegrityError(f"{path}: {found}.", "Upgrade gfm-pipeline.")
    if not members or any(set(m.datasets) != set(members[0].datasets) for m in members):
        raise IntegrityError(f"{path}: the members are missing or were not trained on the same datasets.")
    wrong = next(_misfits(calibration, set(members[0].datasets)), None)
    if wrong is not None:
        raise IntegrityError(f"{path}: in {CALIBRATION_FILE}, {wrong}.", "Run the calibrate stage again.")
    for dataset in calibration.datasets:
        member_weights(calibration, dataset)


def _misfits(calibration: EnsembleCalibration, trained_on: set[str]) -> Iterator[str]:
    """Yield what is wrong with a calibration, in words."""
    if len(set(calibration.members)) < len(calibration.members):
        yield "a member is listed twice"
    if set(calibration.datasets) != trained_on:
        names = (", ".join(sorted(some)) or "none" for some in (calibration.datasets, trained_on))
        yield "the datasets are {}, and those of the members {}".format(*names)
    for name, value in _numbers(to_plain(calibration)["datasets"]):
        if not math.isfinite(value) or (value < 0.0 and not name.startswith("undetermined")):
            yield f"{name} is {value:g}"
    if not 0.0 < calibration.level < 1.0:
        yield f"the level is {calibration.level:g}"
    for name, found in calibration.datasets.items():
        if any(len(direction) != len(found.elements) for direction in found.undetermined):
            yield f"the directions of compositions of {name} have other elements than its {len(found.elements)}"


def _numbers(plain: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record and the names of their fields."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from _numbers(value, key)
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from _numbers(value, name)
    elif isinstance(plain, int | float):
        yield name, float(plain)


def read_domains(files: Mapping[str, bytes], calibration: EnsembleCalibration) -> dict[tuple[str, str], Domain]:
    """Return the domains in the files of an ensemble, by member and dataset."""
    pairs = {domain_name(m, d): (m, d) for m in calibration.members for d in calibration.datasets}
    return {pairs[name]: Domain.from_arrays(load(content)) for name, content in files.items() if name in pairs}


def domain_name(member: str, dataset: str) -> str:
    """Return the name of the file of a domain within an ensemble."""
    return f"{DOMAIN_FOLDER}/{member}-{dataset}.safetensors"
