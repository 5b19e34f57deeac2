"""What a site file may say."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class Site(BaseModel):
    """A machine, as data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    scheduler: Literal["local"] = Field(description="How nodes are had; local: this machine, no batch system.")
    slots: PositiveInt | Literal["auto"] = Field(default="auto", description="Tasks at a time; auto: one a core.")
    threads_per_task: PositiveInt = 1
    address: str = Field(default="127.0.0.1", description="Interface Parsl's sockets listen on.")
    heartbeat_seconds: PositiveInt = 2
    watts_per_slot: PositiveFloat | None = Field(default=None, description="Power model: watts of one busy slot.")
    environment: dict[str, str] = Field(default={}, description="Variables set for every task.")
    programs: dict[str, str] = Field(
        default={}, description="Modules run in place of gfm_pipeline.apps.<program>, by program."
    )

    def resolved_slots(self) -> int:
        """Return the number of tasks at a time: as given, or the cores this process may use."""
        if self.slots != "auto":
            return self.slots
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return max(1, available // self.threads_per_task)
