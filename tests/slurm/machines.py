"""Sites frontier and perlmutter, laid over for the test bed: no modules, no account, the bed's nodes and programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.sites.registry import load_site
from gfm_pipeline.sites.schema import SiteModel

HERE = Path(__file__).parent
RELIABILITY = HERE.parent / "reliability"  # pretended programs live there
PROGRAMS = {p: f"pretend.{p.rpartition('.')[2]}" for p in ("ingest.read", "ingest.assemble", "calibrate.predict")}
PROGRAMS |= {"calibrate.fit": "pretend.fit", "train": "ranked_train"}

OVERLAY = """\
nodes: {nodes}
profile: bed
profiles:
  bed: {{description: The test bed has no modules, prologue: [{prologue}]}}
scheduler:
  account_required: false
  poll_seconds: 1
  command_timeout_seconds: 20
  queues:
    {queue}: {{partition: {partition}}}
launch:
  step_delay_seconds: 0
{limits}
driver:
  mode: {mode}
  interface: null
  address: 127.0.0.1
  heartbeat_seconds: 2
  spare_share: 0
  warning_seconds: {warning}
environment:
  OMP_NUM_THREADS: "1"
  PYTHONPATH: {path}
programs: {programs}
"""


@dataclass(frozen=True)
class Machine:
    """One of the two shapes, as the site says it is."""

    site: str
    queue: str
    partition: str  # of the test bed
    prefix: str  # of the names of its nodes
    gpus: int
    mask: str
    other_mask: str
    ranks: int  # a node, in campaigns: each is two processes
    rank_gpus: tuple[int, ...]  # told by the site's sources, not read from the site

    def overlay(
        self,
        folder: Path,
        mode: str = "resident",
        nodes: int = 4,
        warning: int = 30,
        limits: str = "",
        prologue: str = "",
    ) -> Path:
        """Write the overlay into ``folder``; return its path."""
        path = folder / f"{self.site}-bed.yaml"
        programs = "{" + ", ".join(f"{k}: {v}" for k, v in PROGRAMS.items()) + "}"
        path.write_text(
            OVERLAY.format(
                nodes=nodes,
                queue=self.queue,
                partition=self.partition,
                mode=mode,
                limits="".join(f"  {line}\n" for line in limits.splitlines()),
                warning=warning,
                prologue=prologue,
                path=f"{HERE}:{HERE / 'pretend_node'}:{RELIABILITY}",
                programs=programs,
            )
        )
        return path

    def load(self, folder: Path, **settings) -> SiteModel:
        """Return the site of the test bed."""
        return load_site(self.site, [self.overlay(folder, **settings)]).model


FRONTIER = Machine(
    "frontier", "batch", "batch", "fr", 8, "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", 8, (4, 5, 2, 3, 6, 7, 0, 1)
)
PERLMUTTER = Machine(
    "perlmutter", "regular", "gpu", "pm", 4, "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", 2, (3, 2, 1, 0)
)
MACHINES = (FRONTIER, PERLMUTTER)
