"""Base class of all models of user input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict

from gfm_pipeline.core.errors import Refused


class Strict(BaseModel):
    """Unknown keys are errors, everywhere; so are numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@contextmanager
def within(*keys: str | int) -> Iterator[None]:
    """Add the keys above a refused value to its error."""
    try:
        yield
    except Refused as error:
        raise Refused(error.message, error.hint, (*keys, *error.at)) from error
