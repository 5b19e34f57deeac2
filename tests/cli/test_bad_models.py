"""Models that cannot be: refused at `validate` in one sentence with line and fix, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from workflow_cases import VALID

from gfm_pipeline.cli.main import invoke

_SPACE = "    hidden: [16]"
_TOP = "seed: 3"
_OWN = "EGNN: {hidden: [8, 16]}"

# name: (text to replace, replacement, line of the fault, words of the message)
SETTINGS = {
    "zero layers": (_SPACE, "    layers: 0", 14, ["search.space.layers", "from 1 to 64, not 0"]),
    "negative width": (_SPACE, "    hidden: [16, -8]", 14, ["search.space.hidden.1", "from 1 to 16384, not -8"]),
    "no radial function": (_SPACE, "    n_radial: 0", 14, ["search.space.n_radial", "from 1 to 512, not 0"]),
    "cutoff 0": (_SPACE, "    cutoff: 0", 14, ["search.space.cutoff", "from 0.5 to 30, not 0"]),
    "negative cutoff": (_SPACE, "    cutoff: [-5]", 14, ["search.space.cutoff.0", "not -5"]),
    "cutoff NaN": (_SPACE, "    cutoff: .nan", 14, ["search.space.cutoff", "not .nan"]),
    "infinite cutoff": (_SPACE, "    cutoff: {low: 3, high: .inf}", 14, ["search.space.cutoff.high", "not .inf"]),
    "unknown loss": (_SPACE, "    loss: lq", 14, ["search.space.loss"]),
    "activation": (_SPACE, "    activation: silu", 14, ["search.space.activation"]),
    "option of another algorithm": (
        _OWN,
        "EGNN: {options.sharpness: 2}",
        17,
        ["options.sharpness", "not an option of EGNN", "vector_channels"],
    ),
    "order beyond the algorithm": (
        "[SchNet, EGNN]\n    hidden: [16]\n    learning_rate: {low: 1e-3, high: 1e-2, scale: log}\n    per_algorithm:\n"
        "      EGNN: {hidden: [8, 16]}",
        "MACE\n    per_algorithm:\n      MACE: {options.l_max: 4}",
        15,
        ["options.l_max", "from 1 to 3, not 4"],
    ),
    "correlation 0": (
        "[SchNet, EGNN]\n    hidden: [16]\n    learning_rate: {low: 1e-3, high: 1e-2, scale: log}\n    per_algorithm:\n"
        "      EGNN: {hidden: [8, 16]}",
        "MACE\n    per_algorithm:\n      MACE: {options.correlation: 0}",
        15,
        ["options.correlation", "from 1 to 3, not 0"],
    ),
    "repulsion of direct forces": (
        _SPACE,
        "    force_head: direct\n    repulsion: true",
        15,
        ["repulsion", "conservative"],
    ),
    "attention switched by a word": (_SPACE, "    global_attention: maybe", 14, ["global_attention", "true or false"]),
}
ATTRIBUTES = {
    "no attribute": (_SPACE, "    condition_on: presure", 14, ["condition_on", "'presure'", "no attribute here"]),
    "near a built-in": (_SPACE, "    condition_on: [none, chrage]", 14, ["condition_on.1", "Did you mean charge?"]),
    "twice in one model": (_SPACE, "    condition_on: charge_and_charge", 14, ["names charge twice"]),
    "of one algorithm": (_OWN, "EGNN: {condition_on: [field]}", 17, ["per_algorithm.EGNN.condition_on.0", "'field'"]),
    "no source states it": (
        _TOP,
        "attributes: {pressure: {unit: GPa}}",
        2,
        ["No source states the pressure", "attributes: {pressure: ...} under a source"],
    ),
    "no source states the charge": (
        _SPACE,
        "    condition_on: charge",
        14,
        ["No source states the total charge", "charge: ... under a source"],
    ),
    "name of a target": (
        _TOP,
        "attributes: {dipole: {}}",
        2,
        ["attributes", "'dipole'", "is a target"],
    ),
    "name of a declared target": (
        _TOP,
        "targets: {energy: {}, gap: {level: graph}}\nattributes: {gap: {}}",
        3,
        ["attributes.gap", "is a target", "Leave one out"],
    ),
    "declared twice": (_TOP, "attributes:\n  field: {}\n  field: {}", 4, ["duplicate", "field"]),
    "one key for two": (
        _TOP,
        "attributes: {field: {keys: [f]}, strength: {keys: [F]}}",
        2,
        ["attributes.strength.keys", "reads F, which field reads"],
    ),
    "built in": (_TOP, "attributes: {charge: {unit: e}}", 2, ["attributes.charge", "all workflows have"]),
    "name of a column": (_TOP, "attributes: {cell: {}}", 2, ["attributes.cell", "another name"]),
    "name with the joining word": (_TOP, "attributes: {a_and_b: {}}", 2, ["'a_and_b'", "without _and_"]),
    "unknown unit": (_TOP, "attributes: {pressure: {unit: GPaa}}", 2, ["attributes.pressure.unit", "GPa?"]),
    "neutral word": (_TOP, "attributes: {field: {neutral: off}}", 2, ["attributes.field.neutral"]),
    "one category": (_TOP, "attributes: {phase: {categories: [ice]}}", 2, ["phase.categories", "two or more"]),
    "a category twice": (_TOP, "attributes: {phase: {categories: [1, 1]}}", 2, ["phase.categories", "lists 1 twice"]),
    "neutral of no category": (
        _TOP,
        "attributes: {phase: {categories: [ice, water], neutral: gas}}",
        2,
        ["attributes.phase.neutral", "Write one of ice, water."],
    ),
    "unit of categories": (
        _TOP,
        "attributes: {phase: {categories: [ice, water], unit: K}}",
        2,
        ["attributes.phase.unit", "categories have no unit"],
    ),
    "unknown key": (_TOP, "attributes: {field: {key: f}}", 2, ["attributes.field.key", "keys"]),
    "value of no attribute": (
        "sizes: [4]}",
        "sizes: [4]}\n      attributes: {field: 1}",
        8,
        ["sources.alloys.attributes.field", "Declare it"],
    ),
    "value of the charge": (
        "sizes: [4]}",
        "sizes: [4]}\n      attributes: {charge: 1}",
        8,
        ["sources.alloys.attributes.charge", "Use charge: 1 of the source"],
    ),
    "value that is none": (
        "sizes: [4]}",
        "sizes: [4]}\n      attributes: {phase: gas}\nattributes: {phase: {categories: [ice, water]}}",
        8,
        ["sources.alloys.attributes.phase", "'gas'", "ice, water"],
    ),
    "label of no target or attribute": (
        "sizes: [4]}",
        "sizes: [4]}\n      label_units: {field: V}",
        8,
        ["label_units.field", "not in targets"],
    ),
}
CASES = SETTINGS | ATTRIBUTES


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_cannot_be_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, line, words = CASES[case]
    assert old in VALID
    monkeypatch.chdir(tmp_path)
    Path("w.yaml").write_text(VALID.replace(old, new, 1))
    assert invoke(["validate", "w.yaml"]) == 2
    captured = capsys.readouterr()
    (sentence,) = captured.err.strip().splitlines()
    assert captured.out == ""
    assert f"w.yaml:{line}: " in sentence
    for word in words:
        assert word in sentence
    assert [file.name for file in tmp_path.iterdir()] == ["w.yaml"]


def test_an_attribute_that_a_source_states_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = VALID.replace("sizes: [4]}", "sizes: [4]}\n      charge: 0\n      attributes: {pressure: 0, phase: ice}", 1)
    text += "attributes: {pressure: {unit: GPa, neutral: 1}, phase: {categories: [water, ice]}}\n"
    text = text.replace(_SPACE, "    condition_on: [none, charge, phase_and_pressure]", 1)
    Path("w.yaml").write_text(text)
    assert invoke(["validate", "w.yaml"]) == 0, capsys.readouterr().err
