"""How many ends of tasks the driver takes in a second on one core, with everything it does about them.

    python benchmarks/completions.py [--tasks 8192] [--completions 20000] [--folder DIR] [--profile FILE]

A search is driven whose trainings end faster than the driver can follow. It is the driver of real campaigns: it
decides, places, writes what each attempt is told, journals its start and its end to a file that is synced to the disk,
and reads how it ended. Cluster and trainings are simulated, what they cost counts as the driver's, and the simulated
clock goes on with the wall clock, so that ends pile up as they would. Processor time is that of the whole process, and
seconds those of the wall clock: a slow disk shows in their difference.
"""

from __future__ import annotations

import argparse
import cProfile
import tempfile
import time
from pathlib import Path

from gfm_pipeline.api.run_request import resolve
from gfm_pipeline.core.clock import Clock
from gfm_pipeline.simulate import campaign_run
from gfm_pipeline.simulate.campaign_run import Simulation
from gfm_pipeline.simulate.scenario import load_scenario

WORKFLOW = """\
name: completions
data:
  sources: {{alloys: {{reader: emt-alloys}}, molecules: {{reader: emt-alloys}}}}
search:
  candidates: {candidates}
  wave: {wave}
  rungs: [100000, 300000]
  reduction: 4
  proposals: random
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [32, 64, 128]
    learning_rate: {{low: 1e-4, high: 1e-2, scale: log}}
converge: {{members: 4, check_every: 100000, max_graphs: 400000}}
"""
SITE = """\
name: places
description: A machine of many places
scheduler: {{kind: local}}
slots: {tasks}
"""
QUICK = (
    "scenario.driver.measured=true",
    "scenario.failures.mean_hours=null",
    "scenario.cost.scale=1e-6",
    "scenario.cost.startup_seconds=1",
    "scenario.cost.hand_over_seconds=0",
)


class Durable(Simulation):
    """A simulation whose journal is synced, as that of a campaign is."""

    def run(self) -> str:
        """Run it."""
        opened = campaign_run.driving

        def synced(root: Path, name: str, *, simulation: Clock) -> object:
            return opened(root, name, simulation=simulation, durable=True)

        campaign_run.driving = synced  # type: ignore[assignment]
        try:
            return super().run()
        finally:
            campaign_run.driving = opened


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8192, help="at a time")
    parser.add_argument("--completions", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=None, help="file system to measure on; default: temporary")
    parser.add_argument("--profile", type=Path, default=None, help="write cProfile's figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        candidates = int(options.completions / 1.25)
        sizes = {"tasks": options.tasks, "candidates": candidates, "wave": min(options.tasks, candidates)}
        (folder / "w.yaml").write_text(WORKFLOW.format(**sizes))
        (folder / "site.yaml").write_text(SITE.format(**sizes))
        request = resolve(folder / "w.yaml", str(folder / "site.yaml"), folder / "campaign", ())
        simulation = Durable(request, load_scenario(None, QUICK), lambda _: None, time.time())
        profile = cProfile.Profile()
        begun, wall = time.process_time(), time.perf_counter()
        outcome = profile.runcall(simulation.run) if options.profile else simulation.run()
        used, took = time.process_time() - begun, time.perf_counter() - wall
        if options.profile:
            profile.dump_stats(options.profile)
        ended = simulation.watcher.completions
        print(f"{outcome}: {ended:,} tasks, {options.tasks:,} at a time")
        print(f"  {ended / used:.0f} completions a second of processor time, {ended / took:.0f} a second of the clock")


if __name__ == "__main__":
    main()
