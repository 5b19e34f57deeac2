"""Base class of all models of user input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from gfm_pipeline.core.errors import Refused

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
WITHOUT_NULL = r"^[^\x00]+$"
LONGEST_NAME = 128  # characters: file systems allow 255 bytes, and names of files add to it


class Strict(BaseModel):
    """Unknown keys are errors, everywhere; so are numbers that are not finite, and truth values for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_truth_values(cls, given: Any) -> Any:
        """Refuse ``seed: true``, which Python takes for 1."""
        for name, field in cls.model_fields.items() if isinstance(given, dict) else ():
            if (at := _first_bool(given.get(name))) is not None and not _takes_bool(field.annotation):
                value = given[name]
                for step in at:
                    value = value[step]
                raise Refused(f"is {str(value).lower()}, which is no number or text", "Correct the value.", (name, *at))
        return given


def _first_bool(value: Any) -> tuple[str | int, ...] | None:
    """Return the place of the first truth value in a value of lists and mappings, None without one."""
    if isinstance(value, bool):
        return ()
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next(((key, *at) for key, part in inner if (at := _first_bool(part)) is not None), None)


def _takes_bool(annotation: Any) -> bool:
    """Return whether a truth value may be meant within an annotation; inner models check their own fields."""
    if annotation in (bool, Any, object):
        return True
    if get_origin(annotation) is Literal:
        return any(isinstance(one, bool) for one in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_takes_bool(one) for one in get_args(annotation))


@contextmanager
def within(*keys: str | int) -> Iterator[None]:
    """Add the keys above a refused value to its error."""
    try:
        yield
    except Refused as error:
        raise Refused(error.message, error.hint, (*keys, *error.at)) from error
