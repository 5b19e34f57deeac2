"""Assumptions of a simulation about machine, batch system, driver and trainer: from a file, or the defaults.

docs/simulate.md gives the formulas, and the source of each default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from gfm_pipeline.core.errors import FileError
from gfm_pipeline.core.explain import SourceLocation, explain
from gfm_pipeline.core.strict import Strict
from gfm_pipeline.core.yamlfile import Location, YamlFile, put, read_setting, read_yaml

SETTING = "scenario."
Seconds = Annotated[float, Field(ge=0, le=10**7)]
Hours = Annotated[float, Field(gt=0, le=10**6)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class ScenarioError(FileError):
    """A fault of a scenario file."""


class FailuresModel(Strict):
    """Nodes that fail, one after the other, at a rate that grows with their number."""

    mean_hours: Hours | None = Field(default=1.8, description="Between two failures on `at_gpus` GPUs; null: none.")
    at_gpus: Annotated[int, Field(ge=1)] = Field(default=16_384, description="GPUs that `mean_hours` holds for.")
    detect_seconds: Seconds = Field(default=60.0, description="Until the batch system says that a node is down.")


class StragglersModel(Strict):
    """Nodes that are slower than others."""

    share: Share = Field(default=0.01, description="Of the nodes.")
    factor: Annotated[float, Field(ge=1, le=100)] = Field(default=1.3, description="What takes them so much longer.")


class BatchModel(Strict):
    """The batch system, and people."""

    wait_hours: Annotated[float, Field(ge=0, le=10**5)] = Field(default=0.0, description="Mean wait of a job.")
    answer_seconds: Seconds = Field(default=1.0, description="Until it answers a question.")
    silent_share: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="Of questions: no answer.")
    cancel_hours: Hours | None = Field(default=None, description="Mean time to a cancellation from outside.")


class SimulatedDriverModel(Strict):
    """Time of the driver (s), which does one thing at a time, and of proposals beside it."""

    measured: bool = Field(default=False, description="Charge what it takes here and now; not repeatable.")
    start_seconds: Seconds = Field(default=0.003, description="To start a task.")
    end_seconds: Seconds = Field(default=0.003, description="To take in its end.")
    proposal_seconds: Seconds = Field(default=0.5, description="To propose a wave.")
    candidate_seconds: Seconds = Field(default=0.001, description="More for each candidate of it.")
    result_seconds: Seconds = Field(default=0.0004, description="More for each result it is based on.")


class CostModel(Strict):
    """Times of programs."""

    workers_seconds: Seconds = Field(default=30.0, description="Until workers on all nodes of a job have started.")
    pool_seconds: Seconds = Field(default=10.0, description="Until the one worker pool has that starts launch lines.")
    hand_over_seconds: Seconds = Field(default=2.0, description="A place is taken longer than its wrapper runs.")
    startup_seconds: Seconds = Field(default=60.0, description="Of a training: imports, data, first step.")
    other_seconds: dict[str, Seconds] = Field(
        default={"ingest.read": 600.0, "ingest.assemble": 600.0, "calibrate.predict": 300.0, "calibrate.fit": 60.0},
        description="Of programs that do not train, by name; 60 where one is not named.",
    )
    atoms: Positive = Field(default=30.0, description="Of a graph.")
    neighbours: Positive = Field(default=40.0, description="Of an atom within 5 Angstrom.")
    graph_seconds: Seconds = Field(default=0.0, description="Of a graph, whatever the model.")
    step_seconds: Positive | None = Field(default=None, description="Of an empty optimiser step; null: by device.")
    rank_flops: Positive | None = Field(default=None, description="Of a rank, a second; null: by device.")
    bandwidth: Positive = Field(default=25e9, description="Of a rank's link in the all-reduce (bytes/s).")
    latency: Seconds = Field(default=2e-5, description="Of a message of the all-reduce.")
    algorithms: dict[str, Positive] = Field(
        default={"SchNet": 0.9, "EGNN": 1.0, "PaiNN": 3.0, "PNA": 2.0},
        description="Work of a graph, as a multiple of EGNN's; 2 where an algorithm is not named.",
    )
    scale: Positive = Field(default=1.0, description="All trainings take so many times what the formula says.")
    scatter: Share = Field(default=0.1, description="Standard deviation of the logarithm of a training's time.")
    checkpoint_seconds: Seconds = Field(default=1.0, description="To save a checkpoint.")
    checkpoint_every: Positive | None = Field(default=None, description="Seconds between two; null: as trainings do.")


class CurveModel(Strict):
    """Learning curves: a power law of the graphs seen, times a quality of the candidate, with noise."""

    floor: Annotated[float, Field(ge=0)] = Field(default=0.05, description="Objective after infinitely many graphs.")
    amplitude: Positive = Field(default=0.5, description="What it is above the floor after `graphs`.")
    graphs: Positive = Field(default=10_000.0, description="Where `amplitude` holds.")
    exponent: Positive = Field(default=0.35, description="How fast it falls.")
    spread: Share = Field(default=0.5, description="Standard deviation of the logarithm of quality over the space.")
    scatter: Share = Field(default=0.05, description="Of quality that no setting explains.")
    noise: Share = Field(default=0.02, description="Of the logarithm of one measured objective.")
    diverged: Share = Field(default=0.02, description="Of candidates.")
    offsets: dict[str, float] = Field(default={}, description="Of quality, by `hyperparameter=value`; fitted.")
    slopes: dict[str, tuple[float, float]] = Field(
        default={}, description="Of quality, by number: linear and quadratic, over its range as 0 to 1; fitted."
    )


class PowerModel(Strict):
    """Power of idle nodes, relative to the site's power of a busy node."""

    idle_share: Share = Field(default=0.4, description="Of the power of a node at work that an idle one takes.")


class ScenarioModel(Strict):
    """What a simulation assumes."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(default=0, description="Of everything random outside.")
    hours: Hours | None = Field(default=None, description="End then; null: when the campaign is done.")
    target: Positive | None = Field(default=None, description="Objective whose time is told; null: 1.05 of the best.")
    failures: FailuresModel = FailuresModel()
    stragglers: StragglersModel = StragglersModel()
    batch: BatchModel = BatchModel()
    driver: SimulatedDriverModel = SimulatedDriverModel()
    cost: CostModel = CostModel()
    curve: CurveModel = CurveModel()
    power: PowerModel = PowerModel()


def split_scenario(sets: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split ``--set`` into other settings and those of the scenario."""
    mine = tuple(text for text in sets if text.strip().startswith(SETTING))
    return tuple(text for text in sets if text not in mine), mine


def load_scenario(path: Path | None, sets: Sequence[str] = ()) -> ScenarioModel:
    """Return the scenario of a file (None: the defaults), with ``scenario.KEY=VALUE`` settings over it.

    Raises
    ------
    ScenarioError
        When the file is missing or not YAML, or a value does not fit.
    """
    file = YamlFile(Path("scenario"), {}, {})
    if path is not None:
        example = "Write e.g. `failures: {mean_hours: 1.8}`."
        file = read_yaml(path, "scenario", ScenarioError, missing="Give the path of a YAML file.", example=example)
    data, overridden = file.data, set[Location]()
    for text in sets:
        keys, value = read_setting(text.strip(), f"{SETTING}seed=1", ScenarioError)
        put(data, keys[1:], value, text, ScenarioError)
        overridden.add(keys[1:])

    def place(location: Location) -> SourceLocation:
        if path is None or any(location[: len(keys)] == keys for keys in overridden):
            return SourceLocation(None, prefix=f"--set {SETTING}")
        return SourceLocation(path, file.line(location))

    try:
        return ScenarioModel.model_validate(data)
    except ValidationError as error:
        raise explain(error, ScenarioModel, replace(file, data=data).data, place, ScenarioError) from None
