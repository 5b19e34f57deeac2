"""A small valid workflow, and ways to change and to spoil it."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML

from gfm_pipeline.workflow.schema import WorkflowModel

VALID = """\
name: small
seed: 3
data:
  sources:
    alloys:
      reader: emt-alloys
      options: {parents: 30, children: 2, sizes: [4]}
search:
  candidates: 4
  rungs: [40, 80]
  reduction: 2
  space:
    algorithm: [SchNet, EGNN]
    hidden: [16]
    learning_rate: {low: 1e-3, high: 1e-2, scale: log}
    per_algorithm:
      EGNN: {hidden: [8, 16]}
converge:
  members: 2
  check_every: 40
  max_graphs: 200
"""


def workflow(**changes: Any) -> WorkflowModel:
    """Return the model of `VALID` with changes, e.g. ``search__wave=3``."""
    plain = YAML(typ="safe", pure=True).load(VALID)
    for dotted, value in changes.items():
        *keys, last = dotted.split("__")
        target = plain
        for key in keys:
            target = target.setdefault(key, {})
        target[last] = value
    return WorkflowModel.model_validate(plain)


# name: (text to replace, replacement, line of the fault or None, words the message must hold)
FAULTS = {
    "unknown key": ("candidates: 4", "candidats: 4", 9, ["Unknown key 'search.candidats'", "'candidates'"]),
    "wrong type": ("candidates: 4", "candidates: many", 9, ["search.candidates", "many", "integer"]),
    "out of range": ("members: 2", "members: -1", 19, ["converge.members", "-1"]),
    "unknown algorithm": ("[SchNet, EGNN]", "[SchNet, EGNM]", 13, ["EGNM", "EGNN"]),
    "unknown reader": ("reader: emt-alloys", "reader: emt-aloys", 6, ["emt-aloys", "emt-alloys"]),
    "unknown option": ("parents: 30", "parent: 30", 7, ["parent", "parents"]),
    "wrong option": ("sizes: [4]", "sizes: [1]", 7, ["sizes"]),
    "missing file": (
        "reader: emt-alloys\n      options: {parents: 30, children: 2, sizes: [4]}",
        "reader: ase\n      files: gone.xyz",
        7,
        ["gone.xyz", "no file"],
    ),
    "empty glob": (
        "reader: emt-alloys\n      options: {parents: 30, children: 2, sizes: [4]}",
        "reader: ase\n      files: 'gone*.xyz'",
        7,
        ["gone*.xyz"],
    ),
    "no files": (
        "reader: emt-alloys\n      options: {parents: 30, children: 2, sizes: [4]}",
        "reader: ase",
        5,
        ["files"],
    ),
    "files for a generator": ("options: {parents: 30, children: 2, sizes: [4]}", "files: Makefile*", 7, []),
    "not yaml": ("name: small", "name: [small", 2, ["YAML"]),
    "duplicate key": ("seed: 3", "seed: 3\nseed: 4", 3, ["duplicate", "seed"]),
    "missing key": ("    algorithm: [SchNet, EGNN]\n", "", 12, ["search.space.algorithm", "missing"]),
    "reversed range": ("low: 1e-3, high: 1e-2", "low: 1e-2, high: 1e-3", 15, ["low", "below"]),
    "log of nothing": ("low: 1e-3, high: 1e-2", "low: 0, high: 1e-2", 15, ["log"]),
    "falling rungs": ("rungs: [40, 80]", "rungs: [80, 40]", 10, ["rungs must rise"]),
    "too many members": ("members: 2", "members: 9", 19, ["converge.members (9)", "search.candidates (4)"]),
    "stray override": ("EGNN: {hidden", "PNA: {hidden", 16, ["PNA", "not in the list"]),
    "unknown override": ("EGNN: {hidden", "EGNN: {hiden", 17, ["hiden"]),
    "bad name": ("name: small", "name: a/b", 1, ["name", "a/b"]),
    "a list": (VALID, "- a\n- b\n", 1, ["mapping"]),
}
