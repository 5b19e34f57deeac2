"""The base of all models of a site file."""

from __future__ import annotations

from pydantic import (
    BaseModel,
    ConfigDict,
)


class Strict(BaseModel):
    """Unknown keys are errors, everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)
