"""The model card says where the data come from, and what to cite."""

from __future__ import annotations

import json
from pathlib import Path

from gfm_pipeline.apps.calibrate.card_sources import how_to_cite, sources
from gfm_pipeline.core.contracts.evaluation import DATA_FILE, MODEL_CARD_FILE, CalibrateResult
from gfm_pipeline.core.version import __version__


def facts(train: int, **provenance: str) -> dict[str, object]:
    counts = {"trainset": train, "valset": 0, "testset": 1500}
    return {"digest": "ab" * 32, "provenance": provenance, "statistics": {"n_structures": counts, "n_groups": counts}}


def test_each_dataset_has_its_origin_splits_and_digest():
    data = {"a": facts(20, licence="MIT", level_of_theory="PBE"), "a@hot": facts(0, citation="doi:1")}
    first, second = sources(data).splitlines()
    assert first.startswith(
        "- **a**: level of theory: PBE; licence: MIT; citation: not said; splits: training 20 in 20"
    )
    assert first.endswith(f"test 1,500 in 1,500 groups; SHA-256 {'ab' * 32}")
    assert "training" not in second
    assert "validation" not in first


def test_one_citation_of_several_datasets_is_given_once_and_none_is_said():
    data = {"a": facts(1, citation="doi:1"), "b": facts(1, citation="doi:1"), "c": facts(1)}
    lines = how_to_cite(data).splitlines()
    assert __version__ in lines[0]
    assert lines[1:] == ["- doi:1 (data: a, b)", "- the data of c, whose sources name no citation"]


def test_the_card_of_an_ensemble_has_both(result: CalibrateResult) -> None:
    folder = Path(result.output)
    data = json.loads((folder / DATA_FILE).read_text())
    card = (folder / MODEL_CARD_FILE).read_text()
    assert f"### Sources\n\n{sources(data)}" in card
    assert f"## How to cite\n\n{how_to_cite(data)}" in card
