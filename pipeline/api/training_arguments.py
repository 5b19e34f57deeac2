"""Checks of the arguments of ``train_model``, before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gfm_pipeline.core.contracts.algorithms import ALGORITHMS, PREFIX
from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.hyperparameters import Hyperparameter, find
from gfm_pipeline.core.contracts.optimisation.losses import FINAL_WEIGHT, WEIGHT
from gfm_pipeline.core.contracts.optimisation.settings import FIELDS, PER_TARGET
from gfm_pipeline.core.contracts.training import HYPERPARAMETERS, Device
from gfm_pipeline.core.errors import ConfigError, Refused

OPTIONS = "options"


def flat_hyperparameters(algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters by their names in a candidate, each checked against its declaration.

    Parameters
    ----------
    algorithm
        Name of the message passing algorithm.
    given
        Hyperparameters by name, the algorithm's as a mapping under ``options``, and those of single targets as
        mappings under ``losses``, ``weights`` and ``final_weights``.

    Raises
    ------
    ConfigError
        When a name is unknown, or a value is of the wrong type or out of bounds.
    """
    about = ALGORITHMS.describe(str(algorithm))
    found: dict[str, Any] = {"algorithm": algorithm}
    known = (*HYPERPARAMETERS, *FIELDS.values(), OPTIONS)
    for name, value in given.items():
        if name in HYPERPARAMETERS:
            found[name] = _one(name, HYPERPARAMETERS[name], value)
        elif name not in known:
            raise ConfigError(f"train_model has no argument or hyperparameter {name!r}.", suggestion(name, known))
    for option, value in _mapping(OPTIONS, given, "{'sharpness': 2.0}").items():
        try:
            declared = find(about.options, algorithm, str(option))
        except Refused as error:
            raise ConfigError(f"{OPTIONS}: {option} {error.message}.", error.hint) from None
        found[f"{PREFIX}{option}"] = _one(f"{OPTIONS}: {option}", declared, value)
    for what, field in FIELDS.items():
        example = "{'forces': 'huber'}" if what not in (WEIGHT, FINAL_WEIGHT) else "{'forces': 2.0}"
        for target, value in _mapping(field, given, example).items():
            found[f"{what}.{target}"] = _one(f"{field}: {target}", PER_TARGET[what], value)
    return found


def check_target_names(found: Mapping[str, Any], targets: Collection[str], datasets: Collection[str]) -> None:
    """Refuse losses and weights of targets or datasets that are not trained.

    Raises
    ------
    ConfigError
        When there is one.
    """
    for name in found:
        what, _, rest = name.partition(".")
        target, _, dataset = rest.partition(".")
        if what not in FIELDS or not rest:
            continue
        if target not in targets:
            raise ConfigError(
                f"{FIELDS[what]}: the target {target!r} is not trained.", suggestion(target, list(targets))
            )
        if dataset and dataset not in datasets:
            raise ConfigError(
                f"{FIELDS[what]}: the dataset {dataset!r} is not trained.", suggestion(dataset, list(datasets))
            )


def checked_weight(target: str, weight: Any) -> float:
    """Return the weight of a target; raises ConfigError when it is negative or no number."""
    return float(_one(f"targets: {target}", PER_TARGET[WEIGHT], weight))


def checked_device(device: str) -> Device:
    """Return the kind of device of a name; raises ConfigError when there is none."""
    kinds: Sequence[str] = [str(kind) for kind in Device]
    if device not in kinds:
        raise ConfigError(f"There is no device {device!r}.", suggestion(str(device), kinds))
    return Device(device)


def check_counts(**counts: int | None) -> None:
    """Refuse numbers that are not whole and at least 1; None stands for a default."""
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1):
            raise ConfigError(
                f"{name} must be a whole number of at least 1, not {value!r}.", f"Write {name}=1 or more."
            )


def check_seed(seed: int) -> None:
    """Refuse a seed that is no whole number of at least 0; raises ConfigError."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or int(seed) < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, not {seed!r}.", "Write for instance seed=0.")


def _mapping(name: str, given: Mapping[str, Any], example: str) -> Mapping[str, Any]:
    value = given.get(name) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be a mapping, not {value!r}.", f"Write for instance {name}={example}.")
    return value


def _one(name: str, declared: Hyperparameter, value: Any) -> Any:
    try:
        return declared.one(value.item() if hasattr(value, "item") else value)  # a number of NumPy
    except Refused as error:
        meant = error.hint if error.hint is not None and error.hint.startswith("Did you mean") else None
        raise ConfigError(f"{name} {error.message}.", meant or f"The default is {declared.default!r}.") from None
