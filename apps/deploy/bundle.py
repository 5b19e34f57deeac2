"""One file with a calibrated ensemble and everything needed to use, trust and cite it.

A bundle is a ZIP archive without compression. ``bundle.json`` lists every entry with its SHA-256, the versions of the
programs that made it, and facts of each dataset: statistics, licence, citation, level of theory, digest. Weights are
safetensors. A bundle contains no pickles, and its content is never executed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from gfm_pipeline.apps.calibrate.ensemble import Ensemble, check_calibration, load_ensemble, read_domains
from gfm_pipeline.apps.train.checkpoint import CARD_FILE, ModelCard, TrainedModel
from gfm_pipeline.core.contracts.deploy import BUNDLE_SUFFIX, BundleFacts
from gfm_pipeline.core.contracts.evaluation import (
    CALIBRATION_FILE,
    DATA_FILE,
    DOMAIN_FOLDER,
    EVALUATION_FILE,
    MEMBERS_FOLDER,
    MODEL_CARD_FILE,
    EnsembleCalibration,
)
from gfm_pipeline.core.ensemble_files import (
    FORMAT,
    INDEX_FILE,
    SCHEMA_VERSION,
    BundleIndex,
    absent,
    digest_of_entries,
    find_ensemble,
    read_bundle,
)
from gfm_pipeline.core.errors import BundleError, ConfigError, IntegrityError, ModelError
from gfm_pipeline.core.publish import check_output, storage_errors
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.core.version import __version__
from gfm_pipeline.models import Potential

WEIGHTS_FILE = "weights.safetensors"
_PACKAGES = ("torch", "numpy", "ase", "safetensors")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed, so that equal content gives equal files


def export(model: Path, output: Path, *, overwrite: bool = False, decisions: str = "") -> BundleFacts:
    """Write the newest ensemble of a campaign, or the ensemble in a folder, to one file.

    ``decisions`` is a section of Markdown that the model card gets in addition.

    Raises
    ------
    IntegrityError
        When there is no ensemble, or one of its files changed.
    ConfigError
        When ``output`` has another suffix, or already exists.
    StorageError
        When the disk refuses.
    """
    if output.suffix != BUNDLE_SUFFIX:
        raise ConfigError(
            f"{output} does not end in {BUNDLE_SUFFIX} or .pt2.", f"Use --output {output.stem}{BUNDLE_SUFFIX}."
        )
    check_output(output, overwrite=overwrite)
    if model.is_file():
        raise ConfigError(f"{model} is an exported file already.", "Copy it, or give the campaign that it is from.")
    folder = find_ensemble(model)
    ensemble = load_ensemble(folder)
    entries: dict[str, bytes] = {}
    for name in (CALIBRATION_FILE, EVALUATION_FILE, MODEL_CARD_FILE, DATA_FILE):
        if (folder / name).is_file():
            entries[name] = (folder / name).read_bytes()
    if decisions and MODEL_CARD_FILE in entries:
        entries[MODEL_CARD_FILE] += f"\n{decisions}\n".encode()
    for file in sorted(folder.glob(f"{DOMAIN_FOLDER}/*")):
        entries[f"{DOMAIN_FOLDER}/{file.name}"] = file.read_bytes()
    entries |= member_entries(ensemble)
    index = write_entries(output, entries, ensemble.digest)
    first = ensemble.members[0]
    targets = tuple(target.name for target in first.targets)
    return BundleFacts(
        str(output), index.digest, output.stat().st_size, ensemble.calibration.members, first.datasets, targets
    )


def member_entries(ensemble: Ensemble) -> dict[str, bytes]:
    """Return the entries of the members: a card and weights per member."""
    entries: dict[str, bytes] = {}
    for name, member in zip(ensemble.calibration.members, ensemble.members, strict=True):
        place = f"{MEMBERS_FOLDER}/{name}"
        entries[f"{place}/{CARD_FILE}"] = _json(to_plain(member.card))
        weights = {key: tensor.contiguous() for key, tensor in member.potential.state_dict().items()}
        entries[f"{place}/{WEIGHTS_FILE}"] = save_tensors(weights)
    return entries


def write_entries(output: Path, entries: dict[str, bytes], ensemble: str) -> BundleIndex:
    """Write entries and their index to one file, completely or not at all."""
    index = _index(entries, ensemble)
    partial = output.with_name(f".{output.name}.partial")
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
                for name, content in {INDEX_FILE: _json(asdict(index)), **entries}.items():
                    archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    return index


def open_ensemble(path: Path | str) -> Ensemble:
    """Open an exported file, the folder of an ensemble, or the newest ensemble of a campaign.

    Raises
    ------
    IntegrityError
        When it is none of these, is damaged or changed, or has a newer version.
    """
    path = Path(path)
    if path.is_dir():
        return load_ensemble(find_ensemble(path))
    if not path.is_file():
        raise BundleError(f"{path} {absent(path)}.", "Give a campaign, or a file that was exported.")
    return load_bundle(path)


def load_bundle(path: Path) -> Ensemble:
    """Check every entry of an exported file and load its members.

    Raises
    ------
    IntegrityError
        When it is no exported file, is truncated or changed, or has a newer version.
    """
    index, entries = read_bundle(path)
    try:
        calibration = from_plain(EnsembleCalibration, json.loads(entries[CALIBRATION_FILE]))
        domains = read_domains(entries, calibration)
        members = tuple(_member(entries, f"{MEMBERS_FOLDER}/{name}") for name in calibration.members)
        check_calibration(path, calibration, members)
    except KeyError as error:
        raise BundleError(f"{path} lacks {error.args[0]}.", "Export the campaign again.") from error
    except ModelError as error:
        raise BundleError(f"{path}: {error.message}", error.hint) from error
    except IntegrityError as error:
        raise BundleError(error.message, error.hint) from error
    except (ValueError, SafetensorError, RuntimeError, MemoryError) as error:
        message = str(error).splitlines()[0].rstrip(".")
        raise BundleError(f"{path} does not fit together: {message}.", "Export the campaign again.") from error
    return Ensemble(path, index.digest, calibration, members, domains)


def _member(entries: dict[str, bytes], place: str) -> TrainedModel:
    card = from_plain(ModelCard, json.loads(entries[f"{place}/{CARD_FILE}"]))
    potential = Potential(card.spec)
    try:
        potential.load_state_dict(load_tensors(entries[f"{place}/{WEIGHTS_FILE}"]))
    except RuntimeError as error:  # a title, then a line for each fault
        detail = " ".join(str(error).splitlines()[1:2]).strip().rstrip(".")
        raise ValueError(f"{place}/{WEIGHTS_FILE} is not of the model in {CARD_FILE}: {detail}") from error
    return TrainedModel(potential.eval(), card)  # torch's evaluation mode; this is no eval of text


def _index(entries: dict[str, bytes], ensemble: str) -> BundleIndex:
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()}
    versions = {"gfm-pipeline": __version__, **{name: _version(name) for name in _PACKAGES}}
    return BundleIndex(FORMAT, SCHEMA_VERSION, digest_of_entries(digests), digests, versions, ensemble)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
