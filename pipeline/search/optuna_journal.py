"""Reads journals of Optuna as results of an earlier search, and writes journals for optuna-dashboard.

A journal consists of lines of JSON, one per operation; the source of ``JournalStorage`` in Optuna 4 is the
specification. Neither direction needs Optuna.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import IntEnum
from pathlib import Path
from typing import Any

from gfm_pipeline.core.errors import FileError
from gfm_pipeline.search.space import Choice, Dimension, Range, SearchSpace

WORKER = "gfm-pipeline"
MINIMIZE, MAXIMIZE = 1, 2
WRITE_STUDY = "Write it again with this version of Optuna, or export the study's table as results.csv."


class Operation(IntEnum):
    """The operation of a line (``op_code``)."""

    CREATE_STUDY = 0
    DELETE_STUDY = 1
    CREATE_TRIAL = 4
    SET_PARAMETER = 5
    SET_STATE = 6
    SET_INTERMEDIATE = 7
    SET_USER_ATTRIBUTE = 8


class TrialState(IntEnum):
    """State of a trial."""

    RUNNING = 0
    COMPLETE = 1
    PRUNED = 2
    FAIL = 3


@dataclass
class Trial:
    """A trial of a study: its first line, its parameters, and its value in the study."""

    line: int
    parameters: dict[str, Any] = field(default_factory=dict)
    state: int = TrialState.RUNNING
    value: float | None = None
    intermediate: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Trials that have ended, and whether a smaller value is better."""

    trials: tuple[Trial, ...]
    minimized: bool


def is_journal(first_line: str) -> bool:
    """Return whether a file with this first line is a journal of Optuna."""
    return first_line.lstrip().startswith("{") and '"op_code"' in first_line


def read_study(path: Path, lines: Iterable[str]) -> Study:
    """Return the one study of a journal.

    Raises
    ------
    FileError
        When a line does not belong to a journal, or the journal does not have exactly one study with one objective.
    """
    studies: dict[int, list[int]] = {}
    gone: set[int] = set()
    trials: list[tuple[int, Trial]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            code = int(entry["op_code"])
            if code == Operation.CREATE_STUDY:
                studies[len(studies)] = [int(d) for d in entry["directions"]]
            elif code == Operation.DELETE_STUDY:
                gone.add(int(entry["study_id"]))
            elif code == Operation.CREATE_TRIAL:
                trials.append((int(entry["study_id"]), _created(entry, number)))
            elif code in (Operation.SET_PARAMETER, Operation.SET_STATE, Operation.SET_INTERMEDIATE):
                _change(trials[int(entry["trial_id"])][1], code, entry)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            message = f"this line is not one of an Optuna journal ({error})."
            raise FileError(message, path, number, WRITE_STUDY) from error
    left = [study for study in studies if study not in gone]
    if len(left) != 1:
        fix = "Copy the one that is meant into a journal of its own (optuna.copy_study)."
        raise FileError(f"it holds {len(left)} studies, not one.", path, hint=fix)
    directions = studies[left[0]]
    if len(directions) != 1:
        raise FileError(f"its study has {len(directions)} objectives, not one.", path, hint="Name another journal.")
    return Study(tuple(t for of, t in trials if of == left[0]), directions[0] != MAXIMIZE)


def _created(entry: Mapping[str, Any], line: int) -> Trial:
    """Return a new trial; the journal may already give its parameters, state and value."""
    trial = Trial(line)
    for name, internal in entry.get("params", {}).items():
        trial.parameters[name] = _value(entry["distributions"][name], internal)
    _settle(trial, entry)
    trial.intermediate = {int(step): float(v) for step, v in entry.get("intermediate_values", {}).items()}
    return trial


def _change(trial: Trial, code: int, entry: Mapping[str, Any]) -> None:
    if code == Operation.SET_PARAMETER:
        trial.parameters[str(entry["param_name"])] = _value(entry["distribution"], entry["param_value_internal"])
    elif code == Operation.SET_INTERMEDIATE:
        trial.intermediate[int(entry["step"])] = float(entry["intermediate_value"])
    else:
        _settle(trial, entry)


def _settle(trial: Trial, entry: Mapping[str, Any]) -> None:
    trial.state = int(entry.get("state", trial.state))
    values = entry.get("values") or ([entry["value"]] if entry.get("value") is not None else None)
    if values:
        trial.value = float(values[0])


def _value(distribution: str, internal: float) -> Any:
    """Return the value of a parameter from its number in the journal."""
    entry = json.loads(distribution)
    attributes = entry["attributes"]
    if "choices" in attributes:
        return attributes["choices"][int(internal)]
    return int(internal) if entry["name"].startswith("Int") else float(internal)


def table_rows(study: Study) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and row of each ended trial, in the format of DeepHyper's ``results.csv``.

    A pruned trial has its last value before the pruning; a trial without any value is skipped.
    """
    for trial in study.trials:
        value = trial.value
        if trial.state == TrialState.PRUNED and trial.intermediate:
            value = trial.intermediate[max(trial.intermediate)]
        if trial.state == TrialState.FAIL:
            objective = "F_failed"
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and value is not None:
            objective = repr(-value if study.minimized else value)
        else:
            continue
        yield trial.line, {**{f"p:{k}": str(v) for k, v in trial.parameters.items()}, "objective": objective}


@dataclass(frozen=True)
class TrialRecord:
    """A candidate in the journal.

    Parameters
    ----------
    settings
        Its hyperparameters.
    objectives
        Objective (lower is better) by graphs seen, in order.
    state
        State of the candidate; pruned if the search stopped it early.
    begun, ended
        Unix seconds; None: not yet.
    notes
        Further facts to show.
    """

    settings: Mapping[str, Any]
    objectives: Sequence[tuple[int, float]]
    state: TrialState
    begun: float
    ended: float | None
    notes: Mapping[str, Any]


def journal_text(study: str, space: SearchSpace, trials: Sequence[TrialRecord]) -> str:
    """Return the journal of a study that minimises the objective."""
    entry: list[dict[str, Any]] = [_line(Operation.CREATE_STUDY, study_name=study, directions=[MINIMIZE])]
    for number, trial in enumerate(trials):
        entry.append(_line(Operation.CREATE_TRIAL, study_id=0, datetime_start=_time(trial.begun)))
        algorithm = trial.settings["algorithm"]
        for name, value in trial.settings.items():
            dimension = space.own.get(algorithm, {}).get(name, space.shared.get(name, Choice((value,))))
            distribution, internal = _distribution(_shared(space, name, dimension), value)
            text = json.dumps(distribution)
            change = {"param_name": name, "param_value_internal": internal, "distribution": text}
            entry.append(_line(Operation.SET_PARAMETER, trial_id=number, **change))
        for step, value in trial.objectives:
            entry.append(_line(Operation.SET_INTERMEDIATE, trial_id=number, step=step, intermediate_value=value))
        for name, value in trial.notes.items():
            entry.append(_line(Operation.SET_USER_ATTRIBUTE, trial_id=number, user_attr={name: value}))
        if trial.state is not TrialState.RUNNING:
            values = [trial.objectives[-1][1]] if trial.objectives and trial.state is not TrialState.FAIL else None
            end = {"values": values, "datetime_complete": _time(trial.ended or trial.begun)}
            entry.append(_line(Operation.SET_STATE, trial_id=number, state=int(trial.state), **end))
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in entry)


def _line(code: Operation, **entry: Any) -> dict[str, Any]:
    return {"op_code": int(code), "worker_id": WORKER, **entry}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _shared(space: SearchSpace, name: str, dimension: Dimension) -> Dimension:
    """Return the union of a parameter's values over all algorithms: Optuna needs one list of choices per study."""
    dimensions = space.dimensions(name) or [dimension]
    if all(isinstance(one, Choice) for one in dimensions):
        return Choice(tuple(dict.fromkeys(v for one in dimensions if isinstance(one, Choice) for v in one.values)))
    return dimension


def _distribution(dimension: Dimension, value: Any) -> tuple[dict[str, Any], float]:
    """Return a distribution of Optuna, and the number of a value in this distribution."""
    if isinstance(dimension, Choice):
        choices = list(dimension.values)
        if value not in choices:
            choices.append(value)
        return {"name": "CategoricalDistribution", "attributes": {"choices": choices}}, choices.index(value)
    return _range(dimension), float(value)


def _range(dimension: Range) -> dict[str, Any]:
    if dimension.whole:
        bounds = {"low": int(dimension.low), "high": int(dimension.high)}
        return {"name": "IntDistribution", "attributes": {"log": dimension.log, "step": 1, **bounds}}
    bounds_of = {"low": float(dimension.low), "high": float(dimension.high)}
    return {"name": "FloatDistribution", "attributes": {"step": None, "log": dimension.log, **bounds_of}}
