"""A request for a simulation, and how it runs: in a temporary folder, or in a named one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gfm_pipeline.api.run_request import ResolvedRun, resolve
from gfm_pipeline.campaign.folder import check_name
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.simulate.advice import advise
from gfm_pipeline.simulate.campaign_run import Simulation
from gfm_pipeline.simulate.recorded import Recorded, recorded
from gfm_pipeline.simulate.result import Simulated, SimulationOutcome, result_of
from gfm_pipeline.simulate.scenario import ScenarioModel, load_scenario, split_scenario
from gfm_pipeline.sites.registry import load_site, split_sets

COMPARE_SECONDS = 20.0  # of processor time: after a faster simulation, other choices are simulated by default
ACCOUNT = "site.scheduler.account=simulation"  # never used


@dataclass(frozen=True)
class SimulationRequest:
    """A request for a simulation.

    Parameters
    ----------
    workflow, site, overlays, folder, overrides
        As for a run; ``overrides`` that begin with ``scenario.`` are for the scenario. ``folder`` None: a temporary
        folder.
    scenario
        File of the scenario; None: the defaults.
    recorded
        Campaign from whose journal times and curves are fitted; None: use those of the scenario.
    seed
        Seed that replaces the scenario's.
    """

    workflow: Path
    site: str
    overlays: tuple[Path, ...] = ()
    folder: Path | None = None
    overrides: tuple[str, ...] = ()
    scenario: Path | None = None
    recorded: Path | None = None
    seed: int | None = None

    def assumed(self) -> ScenarioModel:
        """Return the scenario."""
        mine = split_scenario(self.overrides)[1]
        if self.seed is not None:
            mine = (*mine, f"scenario.seed={self.seed}")
        return load_scenario(self.scenario, mine)

    def request(self, root: Path) -> ResolvedRun:
        """Return the checked workflow on its site, for a run in ``root``."""
        others = split_scenario(self.overrides)[0]
        site = load_site(self.site, self.overlays, split_sets(others)[1]).model
        if site.scheduler.system is not None and site.scheduler.account is None:
            others = (*others, ACCOUNT)
        return resolve(self.workflow, self.site, root, others, self.overlays)


def simulated(
    simulation_request: SimulationRequest,
    notify: Callable[[str], None] = lambda _: None,
    *,
    compare: bool | None = None,
) -> SimulationOutcome:
    """Carry out a simulation and return its results.

    Parameters
    ----------
    simulation_request
        What to simulate.
    notify
        Receives messages about stages.
    compare
        Whether to simulate other allocations and recommend one; None: if this takes less than minutes.

    Raises
    ------
    GFMError
        When workflow, site, scenario or folder cannot be used.
    """
    scenario, known = (
        simulation_request.assumed(),
        None if simulation_request.recorded is None else recorded(simulation_request.recorded),
    )
    first = _first(simulation_request, scenario, known, notify)
    if compare is None:
        compare = first.found.processor_seconds < COMPARE_SECONDS
    compare = compare and not first.found.failed

    def again(overrides: tuple[str, ...]) -> Simulated:
        notify(f"compared with {', '.join(overrides)}")
        other = replace(simulation_request, folder=None, overrides=(*simulation_request.overrides, *overrides))
        return _first(other, scenario, known, lambda _: None)

    return replace(first.found, advice=advise(first, again, compare=compare))


def _first(
    simulation_request: SimulationRequest,
    scenario: ScenarioModel,
    known: Recorded | None,
    notify: Callable[[str], None],
) -> Simulated:
    if simulation_request.folder is not None:
        request = simulation_request.request(simulation_request.folder)
        if check_name(request.context.paths, request.loaded.model.name, simulated=True) is not None:
            raise ConfigError(
                f"{simulation_request.folder} holds a simulation already.", "Choose a new folder with --campaign."
            )
        return _run(request, scenario, known, notify)
    with tempfile.TemporaryDirectory(prefix="gfm-simulation-") as folder:
        return _run(simulation_request.request(Path(folder) / "campaign"), scenario, known, notify)


def _run(
    request: ResolvedRun, scenario: ScenarioModel, known: Recorded | None, notify: Callable[[str], None]
) -> Simulated:
    begun = time.process_time()
    if known is not None:
        from gfm_pipeline.simulate.fit import fitted  # here: scipy

        scenario = fitted(scenario, known, request.loaded.model.search.space.compile())
    simulation = Simulation(request, scenario, notify, time.time())
    outcome = simulation.run()
    found = result_of(simulation, outcome, time.process_time() - begun, known)
    return Simulated(found, simulation, request)
