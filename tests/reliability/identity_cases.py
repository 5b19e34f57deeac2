"""A workflow whose stage keys are compared, and every setting that may change one."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from results_tables import results_of

from gfm_pipeline.api.run_request import ResolvedRun, resolve
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.decide import opening
from gfm_pipeline.engine.stages.table import NAMES
from gfm_pipeline.workflow.schema import WorkflowModel
from gfm_pipeline.workflow.source_schema import TestSetModel

# Keys that need another one beside them.
WITH = {
    "data.sources.*.labels": {"targets": {"energy": {}, "forces": {}, "dipole": {}}},
    "data.sources.*.label_units": {"targets": {"energy": {}, "forces": {}, "dipole": {}}},
    "data.sources.*.attributes": {"attributes": {"pressure": {}}},
}
BUNDLE = str(Path(__file__).parents[1] / "apps" / "fixtures" / "bundle-v1.gfm")
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


def _with_test_set(data: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    zinc = {**data["sources"]["zinc"], "test_sets": {"zinc": given}}
    return {**data, "sources": {**data["sources"], "zinc": zinc}}


def write_inputs(folder: Path) -> Path:
    """Write the files that the workflow of these tests names."""
    (folder / "z1.xyz").write_text("one")
    (folder / "z2.xyz").write_text("two")
    (folder / "numbers.txt").write_text("0 1\n")
    space = WorkflowModel.model_validate(PLAIN).search.space.compile()
    (folder / "results.csv").write_text(results_of(space))
    return folder


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
    "data.sources.*.record_weights": ("ignore", "ingest"),
    "data.sources.*.split_key": ("part", "ingest"),
    "data.sources.*.labels": ({"dipole": "REF_dipole"}, "ingest"),
    "data.sources.*.label_units": ({"dipole": "Debye"}, "ingest"),
    "data.sources.*.attributes": ({"pressure": 1.5}, "ingest"),
    "targets": ({"energy": {}, "dipole": {}}, "ingest"),
    "attributes": ({"pressure": {"unit": "GPa"}}, "ingest"),
    "data.sources.*.splits.train": ("z*.xyz", "ingest"),
    "data.sources.*.splits.validation": ("z1.xyz", "ingest"),
    "data.sources.*.splits.test": ("z1.xyz", "ingest"),
    "data.sources.*.split_indices.train": ("numbers.txt", "ingest"),
    "data.sources.*.split_indices.validation": ("numbers.txt", "ingest"),
    "data.sources.*.split_indices.test": ("numbers.txt", "ingest"),
    "data.split_across_sources": ("together", "ingest"),
    "data.validation": (0.3, "ingest"),
    "data.test": (0.3, "ingest"),
    "data.max_quarantined": (0.5, "ingest"),
    "data.shard_mb": (64.0, "ingest"),
    "data.edges": ("stored", "ingest"),
    "search.candidates": (8, "search"),
    "search.wave": (3, "search"),
    "search.asynchronous": (False, "search"),
    "search.objective": (["error", "memory"], "search"),
    "search.max_memory_gb": (40.0, "search"),
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
    "search.space.optimiser": ("muon", "search"),
    "search.space.momentum": (0.5, "search"),
    "search.space.beta2": (0.5, "search"),
    "search.space.accumulation": (2, "search"),
    "search.space.direct_share": (0.3, "search"),
    "search.space.schedule": ("cosine", "search"),
    "search.space.final_rate": (0.5, "search"),
    "search.space.plateau_factor": (0.25, "search"),
    "search.space.plateau_patience": (2, "search"),
    "search.space.loss": ("huber", "search"),
    "search.space.huber_delta": (0.1, "search"),
    "search.space.weighting": ("learned", "search"),
    "search.space.precision": ("bf16", "search"),
    "search.space.per_target": ({"energy": {"loss": "l1"}}, "search"),
    "search.space.per_dataset": ({"zinc": {"forces": {"weight": 2.0}}}, "search"),
    "search.space.forbidden": ([{"hidden": 8, "layers": 2}], "search"),
    "search.space.force_head": ("direct", "search"),
    "search.space.condition_on": ("charge", "search"),
    "search.space.global_attention": (True, "search"),
    "search.space.shallow_ensemble": (4, "search"),
    "search.space.repulsion": (True, "search"),
    "search.space.per_algorithm": ({"EGNN": {"hidden": [8, 24], "layers": 2}}, "search"),
    "fine_tune": ({"model": BUNDLE, "settings": {"learning_rate": 1e-4}}, "search"),
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
    "calibrate.uncertainty": ("llpr", "calibrate"),
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
    "allocation.split_nodes": (128, None),
    "allocation.split_seconds": (60.0, None),
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

WITH["fine_tune"] = {"search": None, "fine_tune": {"model": BUNDLE}}
# Keys of test sets are those of sources that say how files are read.
IN_TEST_SET = frozenset(TestSetModel.model_fields) - {"reader"}
for _key in sorted(IN_TEST_SET):
    _dotted = f"data.sources.*.test_sets.*.{_key}"
    SETTINGS[_dotted] = SETTINGS[f"data.sources.*.{_key}"]
    WITH[_dotted] = {
        **WITH.get(f"data.sources.*.{_key}", {}),
        "data": _with_test_set(PLAIN["data"], {"reader": "ase", "files": "z2.xyz"}),
    }
SETTINGS["data.sources.*.test_sets.*.reader"] = ("hydragnn", "ingest")
WITH["data.sources.*.test_sets.*.reader"] = {"data": _with_test_set(PLAIN["data"], {"files": "z2.xyz"})}


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
