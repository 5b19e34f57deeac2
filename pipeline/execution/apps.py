"""The Parsl apps, one per stage and executor, so that Parsl's logs name the stage. Each starts the task wrapper."""

from __future__ import annotations

from functools import cache
from typing import Any

from parsl import python_app


@cache
def app(stage: str, executor: str) -> Any:
    """Return the Parsl app of a stage on an executor, by the executor's label."""

    def start(
        launch: dict[str, Any],
        ranks: tuple[dict[str, Any], ...],
        parsl_resource_specification: dict[str, int],  # noqa: ARG001 - Parsl reads it, and demands that it is taken
    ) -> dict[str, Any]:
        # Imported where it runs: Parsl ships this function to a worker on a compute node.
        from gfm_pipeline.apps.runtime.parsl_worker import start_wrapper

        return start_wrapper(launch, ranks)

    start.__name__ = str(stage)
    return python_app(start, executors=[executor])
