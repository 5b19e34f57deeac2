"""The part of a search space for single targets: their losses and weights, in all datasets or in one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.optimisation.losses import WEIGHT
from gfm_pipeline.core.contracts.optimisation.settings import PER_TARGET
from gfm_pipeline.core.contracts.targets import FORCES
from gfm_pipeline.core.errors import Refused
from gfm_pipeline.core.strict import within

PER_TARGET_KEY, PER_DATASET_KEY = "per_target", "per_dataset"  # of search.space
EXAMPLE = "{forces: {loss: huber}}"
_OF_ONE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {name: declared.json_schema() for name, declared in PER_TARGET.items()},
        "additionalProperties": False,
    },
}
TARGETS_SCHEMA: dict[str, Any] = {"anyOf": [_OF_ONE, {"type": "null"}]}
DATASETS_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "object", "additionalProperties": _OF_ONE}, {"type": "null"}]}


def read_targets_space(given: Any) -> dict[str, dict[str, Any]] | None:
    """Return the contents of ``per_target``, checked except for the names of targets.

    Raises
    ------
    Refused
        With the location of the fault, relative to ``given``.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise Refused("must hold the names of targets", f"Write for instance {EXAMPLE}.")
    found: dict[str, dict[str, Any]] = {}
    for target, own in given.items():
        if not isinstance(own, Mapping):
            raise Refused("must hold a loss, a weight or a final_weight", f"Write for instance {EXAMPLE}.", (target,))
        found[str(target)] = {}
        for key, value in own.items():
            with within(str(target), str(key)):
                if key not in PER_TARGET:
                    raise Refused("is not a hyperparameter of a target", suggestion(str(key), PER_TARGET))
                found[str(target)][str(key)] = PER_TARGET[key].read(value)
    return found


def read_datasets_space(given: Any) -> dict[str, dict[str, dict[str, Any]]] | None:
    """Return the contents of ``per_dataset``, checked except for the names; raises as `read_targets_space`."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise Refused("must hold the names of datasets", f"Write for instance {{alloys: {EXAMPLE}}}.")
    found = {}
    for dataset, own in given.items():
        with within(str(dataset)):
            found[str(dataset)] = read_targets_space(own) or {}
    return found


def check_names(space: Any, targets: Collection[str], datasets: Collection[str]) -> None:
    """Refuse losses and weights of targets and datasets that are not in the workflow.

    Raises
    ------
    Refused
        With the location of the fault, relative to the search space.
    """
    for target, own in (space.per_target or {}).items():
        with within(PER_TARGET_KEY, target):
            _check_target(target, targets)
            if target == FORCES.name and WEIGHT in own:
                raise Refused("has a key of its own", "Use search.space.force_weight.", (WEIGHT,))
    for dataset, of_targets in (space.per_dataset or {}).items():
        with within(PER_DATASET_KEY, dataset):
            if dataset not in datasets:
                raise Refused(f"names {dataset!r}, which is not in data.sources", suggestion(dataset, datasets))
            for target in of_targets:
                with within(target):
                    _check_target(target, targets)


def _check_target(target: str, targets: Collection[str]) -> None:
    if target not in targets:
        hint = suggestion(target, targets)
        raise Refused(f"names {target!r}, which is not in targets", hint)


def flat_targets(
    per_target: Mapping[str, Mapping[str, Any]] | None,
    per_dataset: Mapping[str, Mapping[str, Mapping[str, Any]]] | None,
) -> dict[str, Any]:
    """Return the values by their names in a candidate: ``loss.forces``, ``weight.forces.alloys``."""
    found = {f"{key}.{target}": value for target, own in (per_target or {}).items() for key, value in own.items()}
    for dataset, of_targets in (per_dataset or {}).items():
        found |= {f"{k}.{target}.{dataset}": v for target, own in of_targets.items() for k, v in own.items()}
    return found
