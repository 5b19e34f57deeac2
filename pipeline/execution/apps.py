"""The Parsl apps: one a stage, so that Parsl's own logs name what runs. Each starts the task wrapper."""

from __future__ import annotations

from typing import Any

from parsl import python_app

from gfm_pipeline.campaign.events import StageName


def _app(stage: StageName) -> Any:
    """Return the Parsl app of a stage."""

    def start(module: str, folder: str, environment: dict[str, str], bounds: tuple[float, float, float]) -> int:
        # Imported where it runs: Parsl ships this function to a worker on a compute node.
        from gfm_pipeline.apps.wrapper import Launch, run

        deadline, silence, grace = bounds
        return run(Launch(module, folder, deadline, environment, silence, grace)).code

    start.__name__ = str(stage)
    return python_app(start)


APPS: dict[StageName, Any] = {stage: _app(stage) for stage in StageName}
