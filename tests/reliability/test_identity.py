"""Keys of stages: nothing that does not matter changes one, everything that matters changes exactly its own."""

from __future__ import annotations

import json
import types
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from results_tables import results_of

from gfm_pipeline.api.run_request import ResolvedRun, resolve
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.identity import differences, file_digests, remember_digests, stage_key
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.engine.decisions.decide import opening
from gfm_pipeline.engine.stages.table import NAMES
from gfm_pipeline.workflow.schema import WorkflowModel

# Keys that need another one beside them.
WITH = {
    "data.sources.*.labels": {"targets": {"energy": {}, "forces": {}, "dipole": {}}},
    "data.sources.*.label_units": {"targets": {"energy": {}, "forces": {}, "dipole": {}}},
}
PLAIN: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "data": {
        "sources": {
            "zinc": {"reader": "ase", "files": "z*.xyz", "energy_unit": "Ha", "max_force": 30.5},
            "alloys": {"reader": "emt-alloys", "shards": 2, "options": {"parents": 30, "children": 2, "sizes": [4]}},
        },
        "validation": 0.2,
    },
    "search": {
        "candidates": 6,
        "rungs": [40, 80],
        "reduction": 2,
        "space": {
            "algorithm": ["SchNet", "EGNN"],
            "hidden": [16, 32],
            "learning_rate": {"low": 1e-3, "high": 1e-2, "scale": "log"},
            "per_algorithm": {"EGNN": {"hidden": [8, 16], "layers": 2}},
        },
    },
    "converge": {"members": 2, "check_every": 40},
    "calibrate": {"level": 0.9},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("identity")
    (found / "z1.xyz").write_text("one")
    (found / "z2.xyz").write_text("two")
    space = WorkflowModel.model_validate(PLAIN).search.space.compile()
    (found / "results.csv").write_text(results_of(space))
    return found


def keys(folder, text: str, *overrides: str) -> dict[str]:
    """Return the key of every stage, each stage's outputs being a function of its key."""
    (folder / "w.yaml").write_text(text)
    return keys_of(resolve(folder / "w.yaml", "local", folder / "campaign", overrides))


def keys_of(request: ResolvedRun) -> dict[str]:
    state = CampaignState()
    found = {}
    for name in NAMES:
        opened = opening(request.context, state, name)
        assert opened is not None
        found[name] = opened.key
        state.apply(opened, 0.0)
        state.apply(ev.StageDone(opened.key, {"all": f"made from {opened.key}"}), 1.0)
    return found


class Scribe:
    """Writes the same plain data as YAML in a hand that changes from node to node."""

    def __init__(self, draw):
        self.draw = draw

    def chance(self, *choices):
        return self.draw(st.sampled_from(choices))

    def scalar(self, value) -> str:
        if value is None:
            return self.chance("null", "~")
        if isinstance(value, str):
            return self.chance(value, json.dumps(value), f"'{value}'") if value != "*" else f"'{value}'"
        if isinstance(value, float):
            return self.chance(repr(value), f"{value:e}", f"{value:.12f}")
        return json.dumps(value)

    def items(self, node: dict) -> list:
        return self.draw(st.permutations(list(node.items())))

    def flow(self, node) -> str:
        space = self.chance("", " ")
        if isinstance(node, dict):
            inner = f",{space} ".join(f"{self.key(k)}: {self.flow(v)}" for k, v in self.items(node))
            return f"{{{space}{inner}{space}}}"
        if isinstance(node, list):
            return f"[{space}" + f",{space} ".join(self.flow(v) for v in node) + f"{space}]"
        return self.scalar(node)

    def key(self, key: str) -> str:
        return self.chance(key, f'"{key}"', f"'{key}'")

    def noise(self) -> str:
        return self.chance("", "", "\n", "# a comment: with a colon\n", "\n   # indented\n\n")

    def block(self, node, indent: int) -> str:
        """Return ``node`` as lines, each ended, at ``indent``."""
        step = self.chance(2, 4)
        lines = ""
        pairs = self.items(node) if isinstance(node, dict) else [(None, v) for v in node]
        for key, value in pairs:
            lines += self.noise()
            head = " " * indent + ("-" if key is None else f"{self.key(key)}:")
            if isinstance(value, dict | list) and value and key is not None and self.chance(True, False):
                lines += f"{head}{self.chance('', '  # why')}\n{self.block(value, indent + step)}"
            else:
                lines += f"{head} {self.flow(value)}{self.chance('', '   ', '  # why')}\n"
        return lines


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_how_a_workflow_is_written_changes_no_key(folder, data):
    scribe = Scribe(data.draw)
    text = scribe.chance("", "---\n", "%YAML 1.2\n---\n") + scribe.block(PLAIN, 0) + scribe.noise()
    assert keys(folder, text) == keys(folder, json.dumps(PLAIN))


def test_order_of_sources_changes_neither_keys_nor_branches(folder):
    turned = PLAIN | {"data": PLAIN["data"] | {"sources": dict(reversed(PLAIN["data"]["sources"].items()))}}
    found = []
    for plain in (PLAIN, turned):
        (folder / "w.yaml").write_text(json.dumps(plain))
        request = resolve(folder / "w.yaml", "local", folder / "campaign", ())
        found.append(([s.name for s in request.context.sources], keys_of(request)))
    assert found[0] == found[1]


def test_writing_out_a_default_changes_no_key(folder):
    model = WorkflowModel.model_validate(PLAIN)
    assert keys(folder, json.dumps(model.model_dump(mode="json"))) == keys(folder, json.dumps(PLAIN))


def test_neither_place_nor_site_nor_verbosity_changes_a_key(folder, tmp_path):
    text = json.dumps(PLAIN)
    before = keys(folder, text)
    for name in ("z1.xyz", "z2.xyz"):
        (tmp_path / name).write_text((folder / name).read_text())
    assert keys(tmp_path, text) == before
    site = tmp_path / "site.yaml"
    site.write_text(
        "name: other\ndescription: x\nscheduler: {kind: local}\nslots: 7\nthreads_per_task: 2\n"
        "energy: {core_watts: 3}\ndriver: {heartbeat_seconds: 9}\nenvironment: {LOG_LEVEL: debug}\n"
    )
    assert keys_of(resolve(tmp_path / "w.yaml", str(site), tmp_path / "elsewhere", ())) == before


# Every setting of the schema: a changed value (of PLAIN above), and the first stage that depends on it; so do all
# stages after it, through its outputs. None: no stage depends on it.
SETTINGS: dict[str, tuple[Any, str | None]] = {
    "name": ("other", None),
    "seed": (4, "ingest"),
    "data.sources.*.reader": ("hydragnn", "ingest"),
    "data.sources.*.files": ("z1.xyz", "ingest"),
    "data.sources.*.options": ({"format": "extxyz"}, "ingest"),
    "data.sources.*.energy_unit": ("eV", "ingest"),
    "data.sources.*.length_unit": ("Bohr", "ingest"),
    "data.sources.*.energy_key": ("REF_energy", "ingest"),
    "data.sources.*.forces_key": ("REF_forces", "ingest"),
    "data.sources.*.group_key": ("run", "ingest"),
    "data.sources.*.max_force": (31.5, "ingest"),
    "data.sources.*.energy_per_atom": (True, "ingest"),
    "data.sources.*.force_sign": ("gradients", "ingest"),
    "data.sources.*.charge": (1, "ingest"),
    "data.sources.*.spin": (2, "ingest"),
    "data.sources.*.level_of_theory": ("PBE", "ingest"),
    "data.sources.*.licence": ("MIT", "ingest"),
    "data.sources.*.citation": ("doi:10.1/x", "ingest"),
    "data.sources.*.energy_window": ([-1.0, 2.0], "ingest"),
    "data.sources.*.duplicates": ("rounded", "ingest"),
    "data.sources.*.isolated_atoms": (5.0, "ingest"),
    "data.sources.*.inconsistent_pbc": ("quarantine", "ingest"),
    "data.sources.*.overlap": (0.5, "ingest"),
    "data.sources.*.shards": (3, "ingest"),
    "data.sources.*.isolated_energies": ({"H": -13.6}, "ingest"),
    "data.sources.*.select": ({"head": "pbe"}, "ingest"),
    "data.sources.*.stated_units": ("ignore", "ingest"),
    "data.sources.*.split_key": ("part", "ingest"),
    "data.sources.*.labels": ({"dipole": "REF_dipole"}, "ingest"),
    "data.sources.*.label_units": ({"dipole": "Debye"}, "ingest"),
    "targets": ({"energy": {}, "dipole": {}}, "ingest"),
    "data.sources.*.splits.train": ("z*.xyz", "ingest"),
    "data.sources.*.splits.validation": ("z1.xyz", "ingest"),
    "data.sources.*.splits.test": ("z1.xyz", "ingest"),
    "data.split_across_sources": ("together", "ingest"),
    "data.validation": (0.3, "ingest"),
    "data.test": (0.3, "ingest"),
    "data.max_quarantined": (0.5, "ingest"),
    "data.shard_mb": (64.0, "ingest"),
    "data.edges": ("stored", "ingest"),
    "search.candidates": (8, "search"),
    "search.wave": (3, "search"),
    "search.rungs": ([40, 90], "search"),
    "search.reduction": (3, "search"),
    "search.validation_limit": (10, "search"),
    "search.space.algorithm": (["SchNet", "EGNN", "PNA"], "search"),
    "search.space.hidden": ([16, 64], "search"),
    "search.space.layers": (3, "search"),
    "search.space.cutoff": (6.0, "search"),
    "search.space.n_radial": (12, "search"),
    "search.space.learning_rate": ({"low": 1e-3, "high": 1e-2, "scale": "linear"}, "search"),
    "search.space.batch_size": ([8], "search"),
    "search.space.force_weight": (5, "search"),
    "search.space.weight_decay": (0.1, "search"),
    "search.space.ema_decay": (0.5, "search"),
    "search.space.clip_norm": (5.0, "search"),
    "search.space.warmup": (20, "search"),
    "search.space.forbidden": ([{"hidden": 8, "layers": 2}], "search"),
    "search.space.force_head": ("direct", "search"),
    "search.space.condition_on": ("charge", "search"),
    "search.space.repulsion": (True, "search"),
    "search.space.per_algorithm": ({"EGNN": {"hidden": [8, 24], "layers": 2}}, "search"),
    "converge.members": (3, "search"),  # the search chooses them
    "converge.max_per_algorithm": (2, "search"),
    "search.stopping": ("none", "search"),
    "search.proposals": ("random", "search"),
    "search.warm_start": ("results.csv", "search"),
    "converge.selection": ("diverse", "search"),
    "converge.criterion": ("limit", "converge"),
    "converge.check_every": (50, "converge"),
    "converge.patience": (5, "converge"),
    "converge.min_delta": (0.1, "converge"),
    "converge.max_graphs": (1000, "converge"),
    "converge.anneal_fraction": (0.5, "converge"),
    "calibrate.level": (0.8, "calibrate"),
    "resources.ingest.nodes": (0, None),  # nothing else is possible
    "resources.ingest.cores": (2, None),
    "resources.search.nodes": (1, None),
    "resources.search.ranks_per_node": (1, None),
    "resources.converge.nodes": (1, None),
    "resources.converge.ranks_per_node": (1, None),
    "resources.calibrate.nodes": (0, None),
    "resources.calibrate.cores": (2, None),
    "allocation.nodes": (1, None),
    "allocation.hours": (3.0, None),
    "allocation.queue": ("debug", None),
    "allocation.blocks": (2, None),
    "allocation.stages.*.nodes": (1, None),
    "allocation.stages.*.hours": (1.0, None),
    "allocation.stages.*.queue": ("debug", None),
    "budget.node_hours": (9.0, None),
    "budget.kwh": (9.0, None),
    "budget.hours": (9.0, None),
    "budget.trials": (5, None),
    "budget.stages.*.node_hours": (9.0, None),
    "budget.stages.*.kwh": (9.0, None),
    "budget.stages.*.hours": (9.0, None),
    "limits.task_hours": (1.0, None),
    "limits.heartbeat_timeout_seconds": (5.0, None),
    "limits.wrapper_timeout_seconds": (5.0, None),
    "limits.record_seconds": (5.0, None),
    "limits.reading_gb": (1.0, None),
    "limits.visible_seconds": (9.0, None),
    "limits.stop_seconds": (5.0, None),
}


def inner_models(annotation: Any) -> list[tuple[str, type[BaseModel]]]:
    """Return the models inside a field that is a section of the file: itself, or the values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [("", annotation)]
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        if isinstance(value, type) and issubclass(value, BaseModel):
            return [(".*", value)]
    if get_origin(annotation) in (Union, types.UnionType):
        return []  # a value that may be written in several ways, e.g. a range or a list
    return []


def leaves(model: type[BaseModel], where: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = inner_models(field.annotation)
        found += [leaf for mark, m in inner for leaf in leaves(m, f"{where}{name}{mark}.")] or [f"{where}{name}"]
    return found


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


def test_content_of_files_counts_and_their_times_do_not(folder, tmp_path):
    for name in ("z1.xyz", "z2.xyz"):
        (tmp_path / name).write_text((folder / name).read_text())
    text = json.dumps(PLAIN)
    before = keys(tmp_path, text)
    (tmp_path / "z1.xyz").touch()
    assert keys(tmp_path, text) == before
    (tmp_path / "z1.xyz").write_text("ONE")
    after = keys(tmp_path, text)
    assert all(before[name] != after[name] for name in NAMES)


def test_a_file_that_is_a_folder_is_digested_by_content(tmp_path):
    bp = tmp_path / "x.bp"
    bp.mkdir()
    (bp / "data.0").write_bytes(b"abc")
    cache = tmp_path / "digests.json"
    first = file_digests([bp], cache)
    remember_digests(first, cache)
    assert file_digests([bp], cache) == first
    (bp / "data.0").write_bytes(b"abd")
    assert file_digests([bp], cache) != first


VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 0.0, 1.0, -0.0, "", "1", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from("abc"), VALUES), st.dictionaries(st.sampled_from("abc"), VALUES))
def test_equal_keys_if_and_only_if_no_differences(old, new):
    same = stage_key("search", old, {}) == stage_key("search", new, {})
    assert same == (not differences(old, new))
    assert differences(old, json.loads(json.dumps(old))) == []


def why(capsys, folder, stage, *options):
    code = invoke(["why", str(folder / "w.yaml"), stage, "--campaign", str(folder / "c"), *options])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out.splitlines()


def test_why_names_old_and_new_values(folder, capsys):
    from gfm_pipeline.campaign.folder import driving

    (folder / "w.yaml").write_text(json.dumps(PLAIN))
    assert why(capsys, folder, "search")[0].startswith("search: to run: ingest is to run before it")
    request = resolve(folder / "w.yaml", "local", folder / "c", ())
    with driving(folder / "c", "small") as campaign:
        for name in NAMES:
            opened = opening(request.context, campaign.state, name)
            for event in (opened, ev.StageDone(opened.key, {f"of-{name}": f"{name:0<64}"})):
                entry = campaign.journal.append(*ev.to_entry(event))
                campaign.state.apply(event, entry.t)
    for name in NAMES:
        assert why(capsys, folder, str(name))[0].startswith(f"{name}: cached: it is done, and nothing it depends on")

    said = why(capsys, folder, "search", "--set", "search.rungs=[40, 90]", "--set", "search.space.hidden=64")
    assert said[0].startswith("search: to run: what it depends on has changed")
    assert said[1:] == ["  rungs: [40,80] -> [40,90]", "  space.hidden: [16,32] -> 64"]
    assert why(capsys, folder, "ingest", "--set", "search.rungs=[40, 90]")[0].startswith("ingest: cached")

    said = why(capsys, folder, "calibrate", "--set", "converge.patience=9", "--set", "calibrate.level=0.5")
    assert said[0].startswith("calibrate: to run: converge is to run before it")
    assert said[1] == "  level: 0.9 -> 0.5"
    assert said[2].startswith("converge: to run: what it depends on has changed")
    assert said[3] == "  patience: 3 -> 9"

    (folder / "z1.xyz").write_text("changed")
    said = why(capsys, folder, "ingest")
    (folder / "z1.xyz").write_text("one")
    assert len(said) == 2
    assert said[1].startswith("  input zinc/00000-z1.xyz: ")
    assert " -> " in said[1]
