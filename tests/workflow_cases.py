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
    "unknown optimiser": ("    hidden: [16]", "    optimiser: [adamw, moun]", 14, ["optimiser", "Did you mean muon?"]),
    "unknown schedule": ("    hidden: [16]", "    schedule: cosin", 14, ["schedule", "Did you mean cosine?"]),
    "unknown precision": ("    hidden: [16]", "    precision: bf61", 14, ["precision", "Did you mean bf16?"]),
    "unknown loss": ("    hidden: [16]", "    loss: [l1, hubber]", 14, ["loss", "Did you mean huber?"]),
    "loss of no target": (
        "    hidden: [16]",
        "    per_target: {force: {loss: l1}}",
        14,
        ["per_target.force", "not in targets", "Did you mean forces?"],
    ),
    "weight of no target": (
        "    hidden: [16]",
        "    per_target: {dipole: {weight: 3}}",
        14,
        ["per_target.dipole", "not in targets"],
    ),
    "weight that is none": (
        "    hidden: [16]",
        "    per_target: {energy: {final_weight: heavy}}",
        14,
        ["per_target.energy.final_weight", "a number from 0"],
    ),
    "loss of no dataset": (
        "    hidden: [16]",
        "    per_dataset: {aloys: {energy: {loss: l1}}}",
        14,
        ["per_dataset.aloys", "not in data.sources", "Did you mean alloys?"],
    ),
    "key of no target": (
        "    hidden: [16]",
        "    per_target: {energy: {los: l1}}",
        14,
        ["per_target.energy.los", "Did you mean loss?"],
    ),
    "force weight twice": (
        "    hidden: [16]",
        "    per_target: {forces: {weight: 3}}",
        14,
        ["search.space.force_weight"],
    ),
    "unknown target": ("seed: 3", "targets: {energy: {}, dipol: {}}", 2, ["targets.dipol", "dipole", "declare it"]),
    "no energy": ("seed: 3", "targets: {forces: {}}", 2, ["targets", "energy: {}"]),
    "a target twice": ("seed: 3", "targets:\n  energy:\n  energy:", 4, ["duplicate", "energy"]),
    "unknown level": ("seed: 3", "targets: {energy: {}, gap: {level: grph}}", 2, ["targets.gap.level", "'graph'"]),
    "unknown rank": (
        "seed: 3",
        "targets: {energy: {}, gap: {level: graph, rank: vektor}}",
        2,
        ["targets.gap.rank", "'vector'"],
    ),
    "unknown unit": (
        "seed: 3",
        "targets: {energy: {}, gap: {level: graph, unit: eVV}}",
        2,
        ["targets.gap.unit", "eV?"],
    ),
    "another dipole": (
        "seed: 3",
        "targets: {energy: {}, dipole: {unit: Debye}}",
        2,
        ["targets.dipole.unit", "label_units"],
    ),
    "name of a column": ("seed: 3", "targets: {energy: {}, cell: {level: graph}}", 2, ["targets.cell", "another name"]),
    "reference of vectors": (
        "seed: 3",
        "targets: {energy: {}, mu: {level: graph, rank: vector, reference: mean}}",
        2,
        ["targets.mu.reference"],
    ),
    "two weights of forces": (
        "[8, 16]}\nconverge:",
        "[8, 16]}\n    force_weight: 2\ntargets: {energy: {}, forces: {weight: 3}}\nconverge:",
        19,
        ["targets.forces.weight", "is 3", "is 2"],
    ),
    "label of no target": (
        "sizes: [4]}",
        "sizes: [4]}\n      labels: {dipole: mu}",
        8,
        ["labels.dipole", "not in targets"],
    ),
    "target without labels": (
        "seed: 3",
        "seed: 3\ntargets: {energy: {}, forces: {}, dipole: {}}",
        3,
        ["No source labels the target dipole", "energy, forces, stress"],
    ),
    "unit of energy": ("sizes: [4]}", "sizes: [4]}\n      label_units: {energy: Ha}", 8, ["energy_unit"]),
    "unknown key": ("candidates: 4", "candidats: 4", 9, ["Unknown key 'search.candidats'", "'candidates'"]),
    "wrong type": ("candidates: 4", "candidates: many", 9, ["search.candidates", "many", "whole number"]),
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
    "log of nothing": (
        "learning_rate: {low: 1e-3, high: 1e-2",
        "weight_decay: {low: 0, high: 1e-2",
        15,
        ["weight_decay.low", "log scale"],
    ),
    "fraction of a layer": ("hidden: [16]", "hidden: [16, 1.5]", 14, ["search.space.hidden.1", "whole number", "1.5"]),
    "no values": ("hidden: [16]", "hidden: []", 14, ["search.space.hidden", "empty list"]),
    "twice the same": ("hidden: [16]", "hidden: [16, 16]", 14, ["lists 16 twice"]),
    "half a range": ("hidden: [16]", "hidden: {low: 1}", 14, ["without high", "{low: ..., high: ...}"]),
    "unknown end": ("low: 1e-3,", "lo: 1e-3,", 15, ["learning_rate.lo", "'low'"]),
    "negative rate": ("low: 1e-3, high: 1e-2, scale: log", "low: -1, high: 1", 15, ["learning_rate.low", "above 0"]),
    "average of more than all": ("hidden: [16]", "ema_decay: 1.5", 14, ["search.space.ema_decay", "below 1", "1.5"]),
    "no neighbour": ("hidden: [16]", "cutoff: 0.1", 14, ["search.space.cutoff", "0.5"]),
    "no head": ("hidden: [16]", "force_head: []", 14, ["search.space.force_head", "empty list", "conservative"]),
    "unknown option of an algorithm": (
        "EGNN: {hidden: [8, 16]}",
        "EGNN: {options.vector_chanels: [4, 8]}",
        17,
        ["per_algorithm.EGNN.options.vector_chanels", "not an option of EGNN", "vector_channels"],
    ),
    "option out of range": (
        "EGNN: {hidden: [8, 16]}",
        "EGNN: {options.vector_channels: [4, 0]}",
        17,
        ["options.vector_channels.1", "whole number from 1", "not 0"],
    ),
    "option of another type": (
        "EGNN: {hidden: [8, 16]}",
        "EGNN: {options.vector_channels: [a, b]}",
        17,
        ["options.vector_channels.0", "whole number"],
    ),
    "infinite force": (
        "      options: {p",
        "      max_force: .inf\n      options: {p",
        7,
        ["max_force", "finite number"],
    ),
    "a seed of thirty digits": ("seed: 3", "seed: 1e30", 2, ["seed is", "fewer digits"]),
    "falling rungs": ("rungs: [40, 80]", "rungs: [80, 40]", 10, ["rungs must rise"]),
    "more members than survivors": (
        "members: 2",
        "members: 3",
        19,
        ["converge.members is 3", "at most 2 of 4 candidates survive", "search.candidates to 6 or more"],
    ),
    "nobody promoted": (
        "  reduction: 2",
        "  reduction: 5",
        11,
        ["search.reduction lets none of 4 candidates reach rung 1", "search.candidates to 5 or more"],
    ),
    "nobody kept": (
        "  reduction: 2",
        "  stopping: {name: fixed, keep: 100}",
        11,
        ["search.stopping.keep lets none", "search.candidates to 100 or more"],
    ),
    "wave of more than all": ("  reduction: 2", "  reduction: 2\n  wave: 5", 12, ["search.wave is 5", "4 candidates"]),
    "memory that no candidate can keep": (
        "  reduction: 2",
        "  reduction: 2\n  max_memory_gb: 0.1",
        12,
        ["search.max_memory_gb is 0.1", "PyTorch", "more than 0.2"],
    ),
    "never validated": ("check_every: 40", "check_every: 400", 20, ["converge.check_every is 400", "to 200 or less"]),
    "cap below the members": (
        "    algorithm: [SchNet, EGNN]\n    hidden: [16]\n    learning_rate: {low: 1e-3, high: 1e-2, scale: log}\n"
        "    per_algorithm:\n      EGNN: {hidden: [8, 16]}\nconverge:",
        "    algorithm: [SchNet]\nconverge:\n  max_per_algorithm: 1",
        15,
        ["converge.max_per_algorithm is 1", "1 of the 2 members", "to 2 or more"],
    ),
    "stage above its campaign": (
        "converge:\n  members: 2",
        "budget: {kwh: 5, stages: {search: {kwh: 9}}}\nconverge:\n  members: 2",
        18,
        ["budget.stages.search.kwh is 9", "budget.kwh (5)"],
    ),
    "unknown objective": (
        "  reduction: 2",
        "  reduction: 2\n  objective: [error, kw]",
        12,
        ["search.objective", "'kw'", "no objective", "Did you mean 'kwh'?"],
    ),
    "objectives without error": (
        "  reduction: 2",
        "  reduction: 2\n  objective: kwh",
        12,
        ["lacks error", "[error, kwh]"],
    ),
    "an objective twice": ("  reduction: 2", "  reduction: 2\n  objective: [error, error]", 12, ["lists error twice"]),
    "curves of several objectives": (
        "  reduction: 2",
        "  stopping: gain\n  objective: [error, memory]",
        11,
        ["search.stopping is gain", "size of one objective"],
    ),
    "too many members": ("members: 2", "members: 9", 19, ["converge.members (9)", "search.candidates (4)"]),
    "stray override": ("EGNN: {hidden", "PNA: {hidden", 17, ["PNA", "not in the list"]),
    "unknown override": ("EGNN: {hidden", "EGNN: {hiden", 17, ["hiden"]),
    "bad name": ("name: small", "name: a/b", 1, ["name", "a/b"]),
    "a list": (VALID, "- a\n- b\n", 1, ["mapping"]),
}
