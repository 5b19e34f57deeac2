"""Exported files whose entries were changed together with their sums: one sentence with the file, and no model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deploy_cases import EMT_BUNDLE
from safetensors.numpy import load, save

from gfm_pipeline.apps.deploy.bundle import load_bundle, open_ensemble, write_entries
from gfm_pipeline.core.ensemble_files import FORMAT, INDEX_FILE, digest_of_entries, read_bundle
from gfm_pipeline.core.errors import BundleError, IntegrityError

CALIBRATION, CARD, WEIGHTS = "calibration.json", "members/m01/model.json", "members/m01/weights.safetensors"
Edit = Callable[[Any], object]


def of_first(edit: Edit) -> Edit:
    """Return an edit of the calibration of the first dataset."""
    return lambda plain: edit(next(iter(plain["datasets"].values())))


# name: (entry, edit of its JSON, words of the message)
EDITED: dict[str, tuple[str, Edit, str]] = {
    "newer": (CALIBRATION, lambda c: c.update(schema_version=9), "written by a newer version (schema 9)"),
    "other dataset": (CALIBRATION, lambda c: c["datasets"].update(foo=c["datasets"].popitem()[1]), "datasets are foo"),
    "no dataset": (CALIBRATION, lambda c: c.update(datasets={}), "the datasets are none"),
    "no member": (CALIBRATION, lambda c: c.update(members=[]), "the members are missing"),
    "unknown member": (CALIBRATION, lambda c: c.update(members=["m00", "m07"]), "lacks members/m07/model.json"),
    "member twice": (CALIBRATION, lambda c: c.update(members=["m00", "m00"]), "a member is listed twice"),
    "level": (CALIBRATION, lambda c: c.update(level=7), "the level is 7"),
    "text": (CALIBRATION, of_first(lambda d: d["energy"].update(quantile="big")), "got `str`"),
    "not finite": (CALIBRATION, of_first(lambda d: d["energy"].update(quantile=float("nan"))), "quantile is nan"),
    "negative": (CALIBRATION, of_first(lambda d: d["forces"].update(floor=-1.0)), "floor is -1"),
    "directions": (CALIBRATION, of_first(lambda d: d.update(undetermined=[[1.0]])), "directions of compositions"),
    "weights": (CALIBRATION, of_first(lambda d: d.update(weights={"m00": 3.0, "m01": 1.0})), "are not shares"),
    "algorithm": (CARD, lambda c: c["spec"].update(algorithm="Banana"), "Banana"),
    "cutoff": (CARD, lambda c: c["spec"].update(cutoff=-1.0), "cutoff"),
    "width": (CARD, lambda c: c["spec"].update(hidden=6), "is not of the model in model.json"),
}


@pytest.fixture(scope="module")
def entries() -> dict[str, bytes]:
    return read_bundle(EMT_BUNDLE)[1]


def refused(path: Path, entries: dict[str, bytes]) -> str:
    write_entries(path, entries, "0" * 64)
    with pytest.raises(IntegrityError) as caught:
        open_ensemble(path)
    message = str(caught.value)
    assert path.name in message or CALIBRATION in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_description_is_refused(name: str, entries: dict[str, bytes], tmp_path: Path) -> None:
    entry, edit, words = EDITED[name]
    plain = json.loads(entries[entry])
    edit(plain)
    assert words in refused(tmp_path / "model.gfm", {**entries, entry: json.dumps(plain).encode()})


def test_entries_that_are_missing_or_damaged_are_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.gfm"
    for entry in (CALIBRATION, CARD, WEIGHTS):
        assert f"lacks {entry}" in refused(path, {name: c for name, c in entries.items() if name != entry})
        assert "does not fit together" in refused(path, {**entries, entry: b"\x00\xff" * 50})
    weights = load(entries[WEIGHTS])
    weights.pop(next(iter(weights)))
    assert "is not of the model in model.json" in refused(path, {**entries, WEIGHTS: save(weights)})


def test_entries_as_they_were_are_opened(entries: dict[str, bytes], tmp_path: Path) -> None:
    write_entries(tmp_path / "model.gfm", entries, "0" * 64)
    assert load_bundle(tmp_path / "model.gfm").calibration == load_bundle(EMT_BUNDLE).calibration


def rewritten(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED, **index: Any) -> Path:
    """Write a bundle whose index agrees with its entries, with other values of the index."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()}
    plain = {"format": FORMAT, "schema_version": 1, "digest": digest_of_entries(digests), "entries": digests, **index}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {INDEX_FILE: json.dumps(plain).encode(), **entries}.items():
            archive.writestr(name, content)
    return path


ODD_LAYOUTS: dict[str, tuple[Callable[[Path, dict[str, bytes]], Any], str]] = {
    "a place outside": (lambda p, e: rewritten(p, {**e, "../../evil": b"x"}), "is a place outside"),
    "an absolute place": (lambda p, e: rewritten(p, {**e, "/evil": b"x"}), "is a place outside"),
    "compressed": (lambda p, e: rewritten(p, e, zipfile.ZIP_DEFLATED), "is compressed, which exports are not"),
    "a script before it": (
        lambda p, e: p.write_bytes(b"#!/bin/sh\n" + rewritten(p, e).read_bytes()),
        "it is not only an archive",
    ),
    "more behind it": (
        lambda p, e: p.write_bytes(rewritten(p, e).read_bytes() + b"more" * 9),
        "it is not only an archive",
    ),
    "version zero": (lambda p, e: rewritten(p, e, schema_version=0), "its schema_version is 0"),
    "a version in words": (lambda p, e: rewritten(p, e, schema_version="1"), "its schema_version is '1'"),
    "a version that is true": (lambda p, e: rewritten(p, e, schema_version=True), "its schema_version is True"),
}


@pytest.mark.parametrize("name", ODD_LAYOUTS)
def test_a_file_that_is_laid_out_otherwise_is_refused(name: str, entries: dict[str, bytes], tmp_path: Path) -> None:
    make, words = ODD_LAYOUTS[name]
    path = tmp_path / "model.gfm"
    assert load_bundle(rewritten(path, entries)).members
    make(path, entries)
    with pytest.raises(BundleError, match=re.escape(words)):
        load_bundle(path)


def test_an_index_that_expands_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.gfm"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(INDEX_FILE, bytes(1 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("an entry was read"))
    with pytest.raises(BundleError, match="is compressed"):
        load_bundle(path)


def test_what_is_no_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "loop.gfm").symlink_to("loop.gfm")
    os.mkfifo(tmp_path / "pipe.gfm")
    for name, words in {"loop": "leads nowhere", "pipe": "neither a file nor a folder", "gone": "not exist"}.items():
        with pytest.raises(BundleError, match=words):
            open_ensemble(tmp_path / f"{name}.gfm")
