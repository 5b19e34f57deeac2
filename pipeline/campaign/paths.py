"""Every path of a campaign folder, in one class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StagePaths:
    """Folders of one stage under one key."""

    root: Path

    def task(self, name: str) -> Path:
        """Return the folder of a task, which contains its attempts."""
        return self.root / "tasks" / name

    def attempt(self, name: str, number: int) -> Path:
        """Return the working folder of an attempt."""
        return self.task(name) / f"attempt-{number}"

    @property
    def launches(self) -> Path:
        """Return the folder of shared launches, with one folder per launch."""
        return self.root / "launches"

    def shard(self, source: str, shard: int) -> Path:
        """Return the published shard of a source."""
        return self.root / "shards" / f"{source}-{shard:05d}"

    def dataset(self, source: str) -> Path:
        """Return the published dataset of a source."""
        return self.root / "datasets" / source

    def checkpoint(self, task: str) -> Path:
        """Return the published final checkpoint of a training."""
        return self.root / "checkpoints" / task

    def predictions(self, member: str) -> Path:
        """Return the published predictions of a member."""
        return self.root / "predictions" / member

    @property
    def ensemble(self) -> Path:
        """Return the published, calibrated ensemble."""
        return self.root / "ensemble"


@dataclass(frozen=True)
class CampaignPaths:
    """Folders and files of a campaign."""

    root: Path

    @property
    def journal(self) -> Path:
        """Return the journal."""
        return self.root / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """Return the driver's lock."""
        return self.root / "driver.lock"

    @property
    def cancel(self) -> Path:
        """Return the file with which `cancel` stops a driver that it cannot signal."""
        return self.root / "cancel"

    @property
    def resolved(self) -> Path:
        """Return the resolved workflow of the latest run."""
        return self.root / "resolved.json"

    @property
    def digests(self) -> Path:
        """Return the cache of input-file digests."""
        return self.root / "digests.json"

    @property
    def parsl(self) -> Path:
        """Return the folder of Parsl's own logs."""
        return self.root / "parsl"

    @property
    def report_html(self) -> Path:
        """Return the HTML report."""
        return self.root / "report.html"

    @property
    def report_markdown(self) -> Path:
        """Return the Markdown report."""
        return self.root / "report.md"

    def stage(self, name: str, key: str) -> StagePaths:
        """Return the folders of a stage."""
        return StagePaths(self.root / "stages" / f"{name}-{key[:10]}")
