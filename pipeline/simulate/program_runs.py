"""The course of a campaign's programs: their times, their saved progress, and their outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from gfm_pipeline.core.contracts.attempts.files import read_saved
from gfm_pipeline.core.contracts.attempts.records import AttemptReport, ExitCode, ExitRecord
from gfm_pipeline.core.contracts.policies import CRITERIA, PolicyChoice, make_policy
from gfm_pipeline.core.contracts.task import TaskSpec
from gfm_pipeline.core.contracts.training import Convergence, TrainSpec
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.publish import MANIFEST, Manifest, digest_of, read_manifest
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.requests import Program
from gfm_pipeline.simulate.learning_curve import LearningCurves
from gfm_pipeline.simulate.training_cost import TrainingCost


@runtime_checkable
class Criterion(Protocol):
    """The convergence criterion of trainings, as a simulation uses it."""

    def converged(self, history: Sequence[tuple[int, float]], rule: Convergence) -> bool:
        """Return whether training should be annealed and end; ``history`` has graphs seen and objective."""


PRODUCER = "simulate"
LONGEST_SECONDS = 10 * 365 * 86_400.0  # of a training: a simulation of longer ones would not end
OTHER_SECONDS = 60.0  # of a program that does not train and is not in the scenario


@dataclass(frozen=True)
class Run:
    """The course of one attempt without interruption.

    Parameters
    ----------
    startup, work
        Seconds of startup, and of work.
    every
        Seconds of work between two checkpoints; None: no checkpoints.
    reached
        Progress after the given seconds of work, as in its checkpoints.
    finish
        Publishes the program's output, and returns its report after the given total seconds.
    """

    startup: float
    work: float
    every: float | None
    reached: Callable[[float], float]
    finish: Callable[[float], AttemptReport]

    @property
    def seconds(self) -> float:
        """Seconds from the start of the program to its end."""
        return self.startup + self.work

    def kept(self, work: float) -> float:
        """Return how many of ``work`` seconds the last checkpoint has saved."""
        return 0.0 if self.every is None else max(0.0, work) // self.every * self.every


def publish(output: str, meta: Mapping[str, Any]) -> str:
    """Write a manifest without files in place of a program's output, and return its digest."""
    folder, digest = Path(output), digest_of({})
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(1, PRODUCER, digest, {}, dict(meta))
    (folder / MANIFEST).write_text(json.dumps(to_plain(manifest)), encoding="utf-8")
    return digest


def blank(kind: Any) -> Any:
    """Return an empty value of a type: no text, no entries, zero; for a dataclass, with empty fields."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return None if type(None) in get_args(kind) else blank(get_args(kind)[0])
    if is_dataclass(kind) and isinstance(kind, type):
        types = get_type_hints(kind)
        needed = [f for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        return kind(**{f.name: blank(types[f.name]) for f in needed})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    return (origin or kind)()


def settings_from(spec: TrainSpec) -> dict[str, Any]:
    """Return the hyperparameters of a training by name, as in its candidate."""
    model = {name: value for name, value in vars(spec.model).items() if name != "options"}
    options = {f"options.{name}": value for name, value in spec.model.options.items()}
    return {**model, **options, **vars(spec.optimiser)}


class Programs:
    """Computes the course of every program.

    Parameters
    ----------
    cost, curves
        Times, and objectives.
    other_seconds
        Times of programs that do not train, by name.
    """

    def __init__(self, cost: TrainingCost, curves: LearningCurves, other_seconds: Mapping[str, float]) -> None:
        self._cost, self._curves, self._other = cost, curves, other_seconds
        self.checkpoint_every = 0.0  # of the last training (s)
        self._graphs: dict[str, int] = {}  # published checkpoint -> graphs seen by its model

    def run_of(self, program: Program[Any, Any], spec: TaskSpec, task: str, attempt: int, slow: float) -> Run:
        """Return the course of an attempt on nodes that are ``slow`` times slower than others."""
        if isinstance(spec, TrainSpec):
            return self._training(spec, task, attempt, slow)
        seconds = slow * self._other.get(program.name, OTHER_SECONDS) * self._cost.noise(task, attempt)

        def finish(ran: float) -> AttemptReport:
            result = to_plain(blank(program.result))
            output = getattr(spec, "output", None)
            if output is not None:
                result |= {"output": output, "digest": publish(output, {})}
            return AttemptReport(ExitRecord(ExitCode.OK, False, ran), result)

        return Run(0.0, seconds, None, lambda _: 0.0, finish)

    # ---------------------------------------------------------------- trainings

    def _training(self, spec: TrainSpec, task: str, attempt: int, slow: float) -> Run:
        begin = self._begin(spec)
        end, reason = self._end(spec, begin)
        pace = slow * self._cost.pace(spec, task, attempt)
        startup = slow * self._cost.model.startup_seconds

        def reached(work: float) -> float:
            return float(min(end, begin + int(work / pace)))

        def finish(ran: float) -> AttemptReport:
            return self._finished(spec, begin, end, reason, ran, startup)

        work = max(0, end - begin) * pace
        if not startup + work <= LONGEST_SECONDS:
            raise ConfigError(
                f"By the rates of the scenario, training {task} would take {(startup + work) / 3600:,.3g} h, which no "
                "campaign waits for.",
                "Correct the rates under scenario.cost, or the graphs of the rungs and of converge.",
            )
        self.checkpoint_every = self._cost.checkpoint_every(spec)
        return Run(startup, work, self.checkpoint_every, reached, finish)

    def _begin(self, spec: TrainSpec) -> int:
        """Return the model's number of graphs so far: from an earlier attempt, or from the given checkpoint."""
        for folder in reversed(spec.previous_attempts):
            if (saved := read_saved(Path(folder))) is not None:
                return int(saved)
        if spec.checkpoint is None:
            return 0
        if spec.checkpoint not in self._graphs:  # from an earlier process
            self._graphs[spec.checkpoint] = int(read_manifest(Path(spec.checkpoint)).meta.get("graphs", 0))
        return self._graphs[spec.checkpoint]

    def _end(self, spec: TrainSpec, begin: int) -> tuple[int, StopReason]:
        """Return the number of graphs at the end of a training, and the reason."""
        rule = spec.convergence
        if rule is None:
            return max(begin, spec.budget_graphs or 0), StopReason.BUDGET
        limit, converged = self._converged(spec, rule)
        return max(begin, int(limit * (1 + rule.anneal_fraction))), (
            StopReason.CONVERGED if converged else StopReason.LIMIT
        )

    def _converged(self, spec: TrainSpec, rule: Convergence) -> tuple[int, bool]:
        """Return the number of graphs at which the workflow's criterion ends the training at constant rate."""
        criterion = make_policy(CRITERIA, PolicyChoice(rule.criterion, rule.options), Criterion)
        settings, history = settings_from(spec), list[tuple[int, float]]()
        for graphs in range(rule.check_every, rule.max_graphs, rule.check_every):
            objective = self._curves.objective(settings, str(spec.seed), graphs)
            if objective is None:
                return graphs, True
            history.append((graphs, objective))
            if criterion.converged(history, rule):
                return graphs, True
        return rule.max_graphs, False

    def _finished(
        self, spec: TrainSpec, begin: int, end: int, reason: StopReason, ran: float, startup: float
    ) -> AttemptReport:
        objective = self._curves.objective(settings_from(spec), str(spec.seed), end)
        trained = max(1e-9, ran - startup)
        diverged = objective is None
        digest = None if diverged else publish(spec.output, {"graphs": end})
        self._graphs[spec.output] = end
        result = TrainResult(
            stop_reason=StopReason.DIVERGED if diverged else reason,
            objective=objective,
            errors={},
            graphs=end,
            steps=-(-end // spec.optimiser.batch_size),
            parameters=self._cost.parameters(spec.model),
            seconds=trained,
            graphs_per_second=(end - begin) / trained,
            checkpoint=None if diverged else spec.output,
            digest=digest,
        )
        code = ExitCode.DIVERGED if diverged else ExitCode.OK
        return AttemptReport(ExitRecord(code, False, ran), to_plain(result), saved=float(end))
