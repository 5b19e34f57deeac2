"""Keys of stages: each setting changes the keys of the stages that depend on that setting, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from identity_cases import PLAIN, SETTINGS, WITH, keys, leaves, write_inputs

from gfm_pipeline.engine.stages.table import NAMES
from gfm_pipeline.workflow.schema import WorkflowModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("identity"))


def test_the_table_lists_every_setting_of_the_schema():
    assert sorted(SETTINGS) == sorted(leaves(WorkflowModel))


def changed(dotted: str, value: Any) -> dict[str, Any]:
    plain = json.loads(json.dumps(PLAIN | WITH.get(dotted, {})))
    *sections, last = dotted.replace("*", "zinc" if dotted.startswith("data") else "search").split(".")
    node = plain
    for section in sections:
        node = node.setdefault(section, {})
    assert node.get(last) != value
    node[last] = value
    return plain


@pytest.mark.parametrize("dotted", SETTINGS)
def test_each_setting_changes_exactly_the_stages_that_depend_on_it(dotted, folder):
    value, first = SETTINGS[dotted]
    before = keys(folder, json.dumps(PLAIN | WITH.get(dotted, {})))
    after = keys(folder, json.dumps(changed(dotted, value)))
    different = [name for name in NAMES if before[name] != after[name]]
    order = list(NAMES)
    assert different == ([] if first is None else order[order.index(first) :])


def test_of_a_target_the_weight_changes_the_search_and_the_print_nothing_that_is_trained(folder):
    def with_targets(**targets):
        return keys(folder, json.dumps(PLAIN | {"targets": {"energy": {}, "forces": {}, **targets}}))

    assert with_targets() == keys(folder, json.dumps(PLAIN))
    before = with_targets(band_gap={})
    heavier, other = with_targets(band_gap={"weight": 2.0}), with_targets(band_gap={"keys": ["gap"]})
    assert [name for name in NAMES if before[name] != heavier[name]] == [name for name in NAMES if name != "ingest"]
    assert before["ingest"] != other["ingest"]
