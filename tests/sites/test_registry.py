"""Overlays, extension, origins, and site files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflow_cases import VALID

from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import SiteError
from gfm_pipeline.sites.registry import LoadedSite, SettingSource, json_schema, known, load_site, split_sets
from gfm_pipeline.sites.schema import SiteModel


@pytest.fixture(autouse=True)
def user(monkeypatch, tmp_path) -> Path:
    """Return the user's folder of sites, within the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "gfm-pipeline" / "sites"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "w.yaml").write_text(VALID)
    return folder


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def shown(site: LoadedSite, *location: str) -> tuple[str, int | None]:
    origin = site.origin(*location)
    return (origin.path.name if origin.path else str(origin.source), origin.line)


def test_layers_win_in_order_and_each_value_knows_its_own(user, tmp_path):
    write(user, "frontier.yaml", "# mine\nscheduler:\n  account: abc123\n  poll_seconds: 60\n")
    overlay = write(tmp_path, "o.yaml", "scheduler:\n  poll_seconds: 90\ndriver: {spare_share: 0.1}\n")
    second = write(tmp_path, "p.yaml", "driver:\n  spare_share: 0.2\n")
    site = load_site("frontier", [overlay, second], ["site.energy.pue=1.1", "site.node.memory_gb=500"])
    assert site.model.name == "frontier"
    assert site.model.scheduler.account == "abc123"
    assert shown(site, "scheduler", "account") == ("frontier.yaml", 3)
    assert site.origin("scheduler", "account").source is SettingSource.USER
    assert site.model.scheduler.poll_seconds == 90
    assert shown(site, "scheduler", "poll_seconds") == ("o.yaml", 2)
    assert site.model.driver.spare_share == 0.2
    assert shown(site, "driver", "spare_share") == ("p.yaml", 2)
    assert site.model.energy.pue == 1.1
    assert shown(site, "energy", "pue") == ("--set", None)
    assert site.model.driver.max_jobs == SiteModel.model_fields["driver"].default.max_jobs
    assert shown(site, "driver", "max_jobs") == ("default", None)
    assert site.origin("node", "gpus").source is SettingSource.SHIPPED


def test_mappings_are_merged_and_lists_replaced(tmp_path):
    text = """\
launch: {scrub: [ONLY]}
environment: {EXTRA: "1"}
scheduler:
  queues:
    batch:
      bins: [{max_nodes: 7, max_hours: 1}]
    tiny: {bins: [{max_nodes: 1, max_hours: 1}], as_of: 2026-11-20, source: me}
"""
    plain, site = load_site("frontier").model, load_site("frontier", [write(tmp_path, "o.yaml", text)]).model
    assert site.launch.scrub == ["ONLY"]
    assert site.launch.template == plain.launch.template
    assert site.environment == plain.environment | {"EXTRA": "1"}
    assert [b.max_nodes for b in site.scheduler.queues["batch"].bins] == [7]
    assert site.scheduler.queues["batch"].partition == "batch"
    assert list(site.scheduler.queues) == [*plain.scheduler.queues, "tiny"]


def test_places_within_a_list_that_was_replaced_are_those_of_the_new_one(tmp_path):
    bins = "".join(f"        - {{max_nodes: {nodes}, max_hours: 1}}\n" for nodes in (9, 0))
    text = f"scheduler:\n  queues:\n    batch:\n      bins:\n{bins}"
    with pytest.raises(SiteError, match=r"o\.yaml:6: scheduler\.queues\.batch\.bins\.1\.max_nodes is 0"):
        load_site("frontier", [write(tmp_path, "o.yaml", text)])


def test_a_site_of_the_users_own_extends_a_shipped_one_with_what_lies_over_it(user):
    write(user, "frontier.yaml", "scheduler: {account: abc123}\n")
    write(user, "quick.yaml", "extends: frontier\nscheduler:\n  default_queue: debug\n")
    assert "quick" in known()
    site = load_site("quick")
    assert (site.model.name, site.model.scheduler.account) == ("quick", "abc123")
    assert site.model.scheduler.default_queue == "debug"
    assert shown(site, "scheduler", "default_queue") == ("quick.yaml", 3)


def test_a_file_extends_a_name_or_a_file_beside_it(tmp_path, monkeypatch):
    write(tmp_path, "base.yaml", "extends: perlmutter\nnode: {gpu_memory_gb: 80}\n")
    path = write(tmp_path, "big.yaml", "extends: base.yaml\nscheduler: {constraint: gpu&hbm80g}\n")
    monkeypatch.chdir("/")
    site = load_site(str(path)).model
    assert (site.name, site.node.gpu_memory_gb, site.scheduler.constraint) == ("big", 80, "gpu&hbm80g")
    assert site.gpu.runtime == "cuda"


def test_numbers_in_the_environment_are_text(tmp_path):
    overlay = write(tmp_path, "o.yaml", "environment: {OMP_NUM_THREADS: 4}\n")
    site = load_site("frontier", [overlay], ["site.profiles.hydragnn.exports.GPU_MAX_HW_QUEUES=1"]).model
    assert site.environment["OMP_NUM_THREADS"] == "4"
    assert site.profiles["hydragnn"].exports["GPU_MAX_HW_QUEUES"] == "1"


def test_a_file_of_the_same_name_may_stand_alone(user):
    write(user, "mine.yaml", "name: mine\ndescription: x\n")
    assert load_site("mine").model == SiteModel(name="mine", description="x")


@given(st.lists(st.sampled_from(["site.slots=3", "search.candidates=8", " site.a.b=c", "siteless.x=1", "name=site.x"])))
def test_settings_go_to_the_workflow_or_the_site(texts):
    workflow, site = split_sets(texts)
    assert sorted([*workflow, *site]) == sorted(texts)
    assert all(text.strip().startswith("site.") for text in site)
    assert not any(text.strip().startswith("site.") for text in workflow)


WRONG = {
    "typo": ("scheduler:\n  acount: abc\n", "o.yaml:2: Unknown key 'scheduler.acount'.", "Did you mean 'account'?"),
    "typo deep": (
        "scheduler:\n  queues:\n    batch:\n      max_queued: 3\n",
        "o.yaml:4: Unknown key 'scheduler.queues.batch.max_queued'.",
        "'max_queued_jobs'",
    ),
    "wrong type": ("nodes: many\n", 'o.yaml:1: nodes is "many", but should be a whole number', ""),
    "wrong choice": ("\ndriver: {mode: resdent}\n", 'o.yaml:2: driver.mode cannot be "resdent".', "'resident'"),
    "profile": ("profile: rocm-7.2\n", "o.yaml:1: profile names 'rocm-7.2', which is not there.", "'rocm-7.1'"),
    "queue": (
        "scheduler:\n  default_queue: bach\n",
        "o.yaml:2: scheduler: default_queue names 'bach', which is not there.",
        "Did you mean 'batch'?",
    ),
    "placeholder": ("launch: {template: ['srun -N{node}']}\n", "o.yaml:1: launch: template has the unknown", "{nodes}"),
    "cores": ("node:\n  gpu_cores: [0-7, 8-15]\n", "o.yaml:2: node: gpu_cores names 2 groups", "8 gpus"),
    "two GPUs on a core": (
        "node:\n  gpus: 2\n  gpu_cores: [1-4, 4-7]\n  rank_gpus: [0, 1]\n",
        "o.yaml:3: node: gpu_cores gives a core to two GPUs.",
        "",
    ),
    "reserved": (
        "node:\n  gpus: 2\n  rank_gpus: []\n  gpu_cores: [1-7, 8-15]\n",
        "o.yaml:4: node: gpu_cores names reserved cores.",
        "",
    ),
    "no list of cores": ("node:\n  gpu_cores: [x]\n", "o.yaml:2: node.gpu_cores.0: 'x' is not a list of cores", ""),
    "not YAML": ("node: {\n", "o.yaml:2: This is not valid YAML", ""),
    "no mapping": ("- a\n", "o.yaml:1: An overlay is a mapping", ""),
    "twice": ("nodes: 3\nnodes: 4\n", "o.yaml:2: There is a duplicate key 'nodes'", "Rename one"),
    "extends": ("extends: local\n", "o.yaml:1: An overlay is laid over the site", "Remove 'extends'."),
    "ports": ("driver: {worker_ports: [9, 8]}\n", "o.yaml:1: driver.worker_ports: ports must rise", ""),
    "archive": ("staging:\n  kind: sbcast\n", "o.yaml:2: staging: kind sbcast needs archive", ""),
    "missing": (
        "scheduler:\n  queues:\n    tiny: {bins: [{max_nodes: 1, max_hours: 1}], as_of: 2026-11}\n",
        "o.yaml:3: The key 'scheduler.queues.tiny.source' is missing.",
        "Add it.",
    ),
    "number or word": ("slots: many\n", 'o.yaml:1: slots is "many", but should be a whole number', "or 'auto'"),
    "when": (
        "scheduler: {queues: {batch: {as_of: yesterday}}}\n",
        'o.yaml:1: scheduler.queues.batch.as_of is "yesterday", but should be text of the form',
        "",
    ),
    "two addresses": (
        "driver:\n  address: 10.0.0.1\n",
        "o.yaml:2: driver: address and interface exclude each other",
        "",
    ),
    "null": ("scheduler: null\n", "o.yaml:1: scheduler is null, but should be a mapping of keys", ""),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_wrong_overlay_is_one_sentence_with_its_place(case, command, here, capsys):
    text, sentence, more = WRONG[case]
    write(here, "o.yaml", text)
    before = sorted(here.rglob("*"))
    assert invoke([command, "w.yaml", "--site", "frontier", "--overlay", "o.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Error: {sentence}")
    assert more in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(here.rglob("*")) == before


COMMANDS = {
    "unknown site": (["--site", "frontie"], ["Unknown site 'frontie'.", "Did you mean 'frontier'?"]),
    "missing file": (["--site", "gone.yaml"], ["There is no site file gone.yaml."]),
    "missing overlay": (["--overlay", "gone.yaml"], ["There is no overlay file gone.yaml."]),
    "unknown key set": (["--set", "site.slotz=3"], ["Unknown key '--set site.slotz'.", "'slots'"]),
    "unknown profile set": (["--set", "site.profile=x"], ["--set site: profile names 'x'"]),
    "not a setting": (["--set", "site.slots"], ["--set 'site.slots' is not of the form"]),
    "through a value": (["--set", "site.slots=3", "--set", "site.slots.x=3"], ["slots holds a value"]),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_wrong_choice_is_one_sentence(case, here, capsys):
    arguments, words = COMMANDS[case]
    before = sorted(here.rglob("*"))
    assert invoke(["run", "w.yaml", *arguments]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words), err
    assert len(err.strip().splitlines()) == 1
    assert sorted(here.rglob("*")) == before


def test_a_circle_of_sites_is_refused(tmp_path):
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "\nextends: a.yaml\n")
    with pytest.raises(SiteError, match=r"a\.yaml:1: This site extends itself"):
        load_site(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: frontie\n", r"m\.yaml:1: extends: Unknown site 'frontie'\. Did you mean 'frontier'\?"),
        ("nodes: 3\nextends: gone.yaml\n", r"m\.yaml:2: extends: There is no site file .*gone\.yaml"),
        ("extends: [frontier]\n", r"m\.yaml:1: extends is \['frontier'\], but should be"),
        ("description: x\n", r"m\.yaml: The key 'name' is missing"),
    ],
)
def test_a_wrong_site_file_names_the_place(tmp_path, text, message):
    with pytest.raises(SiteError, match=message):
        load_site(str(write(tmp_path, "m.yaml", text)))


def test_errors_of_others_point_at_the_value(user, tmp_path):
    overlay = write(tmp_path, "o.yaml", "\nscheduler:\n  account: abc\n")
    site = load_site("frontier", [overlay], ["site.nodes=3"])
    assert str(site.error(("scheduler", "account"), "No.")).endswith("o.yaml:3: No.")
    assert str(site.error(("nodes",), "No.")) == "--set site.nodes: No."
    assert "frontier.yaml:" in str(site.error(("energy", "source"), "No."))
    assert "frontier.yaml:" in str(site.error(("energy", "core_watts"), "No.")), "a default: the mapping it is in"


# The commands --------------------------------------------------------------------------------------------------


def run(capsys, *arguments: str) -> str:
    assert invoke(list(arguments)) == 0
    return capsys.readouterr().out


def test_sites_lists_shipped_ones_and_the_users(user, capsys):
    write(user, "mine.yaml", "extends: frontier\ndescription: My own machine\n")
    for command in (["sites"], ["sites", "list"]):
        lines = run(capsys, *command).splitlines()
        assert any(line.startswith("frontier ") and "(yours)" not in line for line in lines)
        assert any(line.startswith("mine ") and line.endswith("My own machine  (yours)") for line in lines)
    assert json.loads(run(capsys, "sites", "list", "--json"))["sites"]["mine"] == "My own machine"


def test_what_is_shown_is_a_site_file_again(tmp_path, capsys):
    for name in known():
        text = run(capsys, "sites", "show", name)
        again = load_site(str(write(tmp_path, f"{name}.yaml", text)))
        assert again.model == load_site(name).model


def test_show_says_where_values_come_from(user, here, capsys):
    write(user, "frontier.yaml", "scheduler: {account: abc123}\n")
    write(here, "o.yaml", "nodes: 9\n")
    text = run(capsys, "sites", "show", "frontier", "--overlay", "o.yaml", "--set", "site.slots=3")
    origin = {line.split("#")[0].strip(): line.split("#")[1].strip() for line in text.splitlines() if " # " in line}
    assert origin["account: abc123"].endswith("frontier.yaml:1")
    assert origin["nodes: 9"] == "o.yaml:1"
    assert origin["slots: 3"] == "--set"
    assert origin["max_jobs: 50"] == "default"
    shipped = load_site("perlmutter").main.with_name("frontier.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(shipped, 1) if text.startswith("  runtime:"))
    assert origin["runtime: rocm"] == f"frontier.yaml:{line}"


@pytest.mark.parametrize("command", [["sites", "show", "local"], ["resume", "nowhere"]])
def test_only_settings_of_the_site_are_taken(command, here, capsys):
    assert invoke([*command, "--set", "search.candidates=3"]) == 2
    assert "--set 'search.candidates=3' is not for the site." in capsys.readouterr().err


def test_show_as_json(capsys):
    shown = json.loads(run(capsys, "sites", "show", "local", "--json"))
    assert SiteModel.model_validate(shown["site"]) == load_site("local").model
    assert shown["origins"]["driver.heartbeat_seconds"]["source"] == "shipped"
    assert shown["origins"]["driver.heartbeat_seconds"]["line"] > 1
    assert shown["origins"]["nodes"] == {"source": "default", "path": None, "line": None}
    assert shown["slots_here"] >= 1


def test_one_part_is_shown_alone(capsys):
    text = run(capsys, "sites", "show", "frontier", "--only", "scheduler.queues.debug")
    assert "qos: debug" in text
    assert "runtime" not in text
    assert invoke(["sites", "show", "frontier", "--only", "scheduler.queus"]) == 2
    assert "queues" in capsys.readouterr().err


def test_the_schema_is_one_for_overlays_too(capsys):
    schema = json.loads(run(capsys, "sites", "schema"))
    assert schema == json_schema()
    assert "extends" in schema["properties"]
    assert set(SiteModel.model_fields) <= set(schema["properties"])
    assert '"required"' not in json.dumps(schema)
    assert schema["additionalProperties"] is False
