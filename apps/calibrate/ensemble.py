"""The deployable ensemble: a published folder with its members, their calibration and evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
from gfm_pipeline.core.records import read_record


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
    if not members or any(set(m.datasets) != set(members[0].datasets) for m in members):
        raise IntegrityError(f"{path}: the members are missing or were not trained on the same datasets.")
    for dataset in calibration.datasets:
        member_weights(calibration, dataset)
    files = {name: (path / name).read_bytes() for name in manifest.files if name.startswith(f"{DOMAIN_FOLDER}/")}
    return Ensemble(path, manifest.digest, calibration, members, read_domains(files, calibration))


def read_domains(files: Mapping[str, bytes], calibration: EnsembleCalibration) -> dict[tuple[str, str], Domain]:
    """Return the domains in the files of an ensemble, by member and dataset."""
    pairs = {domain_name(m, d): (m, d) for m in calibration.members for d in calibration.datasets}
    return {pairs[name]: Domain.from_arrays(load(content)) for name, content in files.items() if name in pairs}


def domain_name(member: str, dataset: str) -> str:
    """Return the name of the file of a domain within an ensemble."""
    return f"{DOMAIN_FOLDER}/{member}-{dataset}.safetensors"
