"""The energy of a node, dealt out: tasks and idle time together are what its counters counted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from counter_tree import CrayTree, RaplTree

from gfm_pipeline.apps.energy.attempt_meter import AttemptMeter
from gfm_pipeline.apps.energy.node_accounts import Book, NodeAccounts, TaskAccount, settled
from gfm_pipeline.apps.energy.node_meter import NodeMeter
from gfm_pipeline.core.contracts.attempts.energy import of_nodes, read_energy
from gfm_pipeline.core.contracts.energy import (
    ENERGY_FOLDER,
    CounterReading,
    EnergyLabel,
    EnergyPlan,
    EnergyScope,
    EnergyUse,
    NodeEnergy,
)
from gfm_pipeline.core.processes import ProcessId, identify


class Node:
    """A node with a clock of its own."""

    def __init__(self, folder, tree=None):
        self.now = 100.0
        self.tree = tree or CrayTree(folder / "cray")
        self.folder = folder / "accounts"
        self.plan = EnergyPlan(("pm_counters",), {"pm_counters": str(self.tree.root)}, "a")

    def accounts(self):
        return NodeAccounts(NodeMeter(self.plan), "n1", "a", self.folder, lambda: self.now)

    def run(self, seconds, joules):
        self.now += seconds
        self.tree.add(joules)


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_a_task_that_has_the_node_is_measured_and_what_came_before_was_idle(node):
    node.accounts().open()
    node.run(10, 300)
    node.accounts().enter("a", 1.0, None)
    node.run(20, 2000)
    found = node.accounts().read("a", leave=True)
    assert (found.task.joules, found.task.node_seconds) == (2000.0, 20.0)
    assert (found.idle.joules, found.idle.node_seconds) == (300.0, 10.0)
    assert found.all.joules == 2300.0
    assert found.task.label is EnergyLabel.MEASURED
    assert found.task.source == "pm_counters"
    assert found.task.error == pytest.approx(100.0 * 0.1)  # an update period at the mean power


def test_tasks_that_share_a_node_share_what_both_used_and_are_attributed(node):
    node.accounts().enter("a", 0.25, None)
    node.run(10, 1000)
    node.accounts().enter("b", 0.75, None)
    node.run(10, 1000)
    a, b = node.accounts().read("a", leave=True), node.accounts().read("b")
    assert (a.task.joules, b.task.joules) == (1250.0, 750.0)
    assert a.task.node_seconds + b.task.node_seconds == 20.0
    assert a.task.label is b.task.label is EnergyLabel.ATTRIBUTED
    node.run(5, 700)
    assert node.accounts().read("b", leave=True).task.joules == 1450.0
    node.run(5, 50)
    left = node.accounts().close()
    assert (left.idle.joules, left.all.joules) == (50.0, 2750.0)
    assert not list(node.folder.glob("*.json"))


def test_whatever_happens_tasks_and_idle_time_are_what_was_counted(node):
    chance, running, told, used, idle = random.Random(4), {}, 0, {}, []
    node.accounts().open()
    first = node.tree.joules
    for _ in range(300):
        node.run(chance.uniform(0, 5), chance.randrange(0, 4000))
        what = chance.choice(["enter", "look", "leave", "nothing"])
        if what == "enter" and len(running) < 8:
            running[f"t{told}"] = chance.choice([0.125, 0.25])
            node.accounts().enter(f"t{told}", running[f"t{told}"], None)
            told += 1
        elif what in ("look", "leave") and running:
            name = chance.choice(list(running))
            found = node.accounts().read(name, leave=what == "leave")
            used[name] = found.task.joules
            if what == "leave":
                idle.append(found.idle.joules)
                del running[name]
    for name in list(running):
        found = node.accounts().read(name, leave=True)
        used[name] = found.task.joules
        idle.append(found.idle.joules)
    left = node.accounts().close()
    assert len(used) > 50
    assert sum(used.values()) + sum(idle) + left.idle.joules == pytest.approx(node.tree.joules - first)
    assert left.all.joules == pytest.approx(node.tree.joules - first)


def test_the_share_of_a_task_whose_process_died_is_taken_by_those_that_live(node):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    dead = identify(gone.pid)
    gone.wait()
    node.accounts().enter("a", 0.5, None)
    path = next(node.folder.glob("*.json"))
    book = json.loads(path.read_text())
    book["tasks"]["dead"] = book["tasks"]["a"] | {"process": vars(dead)}
    path.write_text(json.dumps(book))
    node.run(10, 1000)
    assert node.accounts().read("a").task.joules == 1000.0


def test_a_gpu_is_of_the_task_that_has_it():
    me = ProcessId("h", "b", 1, "1")
    tasks = {"a": TaskAccount(me, 0.5, (0,)), "b": TaskAccount(me, 0.5, (1, 2))}
    before = {str(k): CounterReading(0.0, EnergyScope.GPU, 0.1, device=k) for k in range(4)}
    before["cpu"] = CounterReading(0.0, EnergyScope.PACKAGE, 0.1)
    after = {n: CounterReading(10.0, r.scope, r.period_seconds, device=r.device) for n, r in before.items()}
    book = settled(Book(0.0, {}), before, 0.0)
    book = settled(Book(0.0, book.marks, tasks), after, 1.0)
    assert book.tasks["a"].used.joules == 10.0 + 5.0
    assert book.tasks["b"].used.joules == 20.0 + 5.0
    assert book.idle.joules == 10.0  # GPU 3 is nobody's
    assert book.all.joules == 50.0


def test_a_counter_that_vanishes_is_said_by_label_and_error_bar(node):
    node.accounts().enter("a", 1.0, None)
    node.run(10, 1000)
    node.accounts().read("a")
    node.tree.vanish()
    node.now += 10
    found = node.accounts().read("a", leave=True).task
    assert found.joules == pytest.approx(2000.0)
    assert found.error > 1000.0
    assert found.label is EnergyLabel.ATTRIBUTED


def test_a_folder_of_somebody_else_is_not_written_into(node, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    node.folder.symlink_to(elsewhere)
    with pytest.raises(OSError, match="not ours"):
        node.accounts().open()
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("text", ["", "{", '{"looked": 1}', "[]", '{"looked": "x", "marks": {}}'])
def test_damaged_accounts_are_begun_anew(node, text):
    node.accounts().open()
    next(node.folder.glob("*.json")).write_text(text)
    node.accounts().enter("a", 1.0, None)
    node.run(1, 50)
    assert node.accounts().read("a", leave=True).task.joules == 50.0


def test_an_attempt_leaves_its_record_and_is_not_failed_by_what_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    cray = CrayTree(tmp_path / "cray")
    plan = EnergyPlan(("pm_counters",), {"pm_counters": str(cray.root)}, f"x{os.getpid()}")
    meter = AttemptMeter(plan, tmp_path)
    cray.add(70)
    meter.close()
    (found,) = read_energy(tmp_path)
    assert found.task.joules == 70.0
    for sources in ((), ("pm_counters",)):
        silent = AttemptMeter(EnergyPlan(sources, {"pm_counters": str(tmp_path / "none")}), tmp_path / "other")
        silent.poll()
        silent.close()
    assert not (tmp_path / "other").exists()


def test_nodes_that_left_no_record_are_guessed_and_said_to_be(tmp_path):
    use = EnergyUse(100.0, 1.0, EnergyLabel.MEASURED, "pm_counters", 10.0)
    nothing = EnergyUse(0.0, 0.0, EnergyLabel.MEASURED, "pm_counters", 0.0)
    found = [NodeEnergy(f"n{k}", use, nothing, use) for k in range(3)]
    whole, part = of_nodes(found, 3), of_nodes(found, 4)
    assert (whole.task.joules, whole.task.error, whole.task.label) == (300.0, 3.0, EnergyLabel.MEASURED)
    assert (part.task.joules, part.task.error, part.task.label) == (400.0, 103.0, EnergyLabel.ATTRIBUTED)
    assert sorted(part.nodes) == ["n0", "n1", "n2"]
    assert of_nodes([], 2) is None
    (tmp_path / ENERGY_FOLDER).mkdir()
    (tmp_path / ENERGY_FOLDER / "n1.json").write_text('{"node": "n1"')
    assert read_energy(tmp_path) == ()


def test_processors_wrap_around_under_a_task(tmp_path):
    rapl = RaplTree(tmp_path / "rapl")
    rapl.set("intel-rapl:0", RaplTree.RANGE - 1_000_000)
    plan = EnergyPlan(("rapl",), {"rapl": str(rapl.root)}, "a")
    now = [0.0]
    accounts = NodeAccounts(NodeMeter(plan), "n1", "a", tmp_path / "accounts", lambda: now[0])
    accounts.enter("a", 1.0, None)
    for zone in ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl:2"):
        rapl.add(zone, 40.0)
    now[0] = 2.0
    assert accounts.read("a", leave=True).task.joules == pytest.approx(120.0)
