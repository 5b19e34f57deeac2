"""Keys of stages: nothing that does not matter changes one, everything that matters changes exactly its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from identity_cases import PLAIN, keys, keys_of, write_inputs

from gfm_pipeline.api.run_request import resolve
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.identity import differences, file_digests, remember_digests, stage_key
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.engine.decisions.decide import opening
from gfm_pipeline.engine.stages.table import NAMES
from gfm_pipeline.workflow.schema import WorkflowModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("identity"))


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


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
