"""The one error family.

::

    GFMError                     exit code 1
      ConfigError                2   what the user wrote cannot be run
        FileError                2   ... in a file: carries file and line
          WorkflowError          2   ... a workflow file
          SiteError              2   ... a site file, or what is laid over one
      StageFailed                1   a stage ended without what it promised
      Stopped                    3   stopped cleanly, `resume` continues
        StorageError             3   disk full, quota, read-only: a pause, nothing lost
      SchedulerUnavailable       4   the batch system does not answer
      IntegrityError             5   a file is not what its manifest or checksum says
        BundleError              2   ... an exported model, which the user named
      CampaignLocked            75   another driver holds the campaign
      NodeError                  1   a machine, its network or a process on it failed; elsewhere the same may work
      DataError                  1   a record or a source of data is unusable
        InputError               2   ... in files that the user named on the command line
      ModelError                 1   a model was asked for something it cannot do

Every message is one sentence that names the fault and its place. ``hint`` is the fix. ``table`` holds further lines of
text. Users see expected errors without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class GFMError(Exception):
    """Root of every error this project raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, table: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.table = table

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between processes, attributes included."""
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    def __str__(self) -> str:
        """Return the sentence and, after it, the fix."""
        return self.message if self.hint is None else f"{self.message} {self.hint}"


class Refused(ValueError):
    """A value that a declared rule refuses; the caller that knows its place in a file raises a `FileError` instead.

    Parameters
    ----------
    message
        The end of the sentence that begins with the key: ``must be a whole number of at least 1, not 1.5``.
    hint
        The fix, as a sentence.
    at
        Keys and list indices from the checked value to the fault within it.
    """

    def __init__(self, message: str, hint: str | None = None, at: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.at = at


def _rebuild(cls: type[GFMError], args: tuple[Any, ...], state: dict[str, Any]) -> GFMError:
    error = cls.__new__(cls, *args)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class ConfigError(GFMError):
    """What the user wrote cannot be run."""

    exit_code = 2


class FileError(ConfigError):
    """A fault in a file the user wrote, with the place.

    Parameters
    ----------
    message
        One sentence: what is wrong.
    path, line
        The file and the line (from 1) of the key at fault.
    hint
        The fix, as a sentence.
    """

    def __init__(
        self, message: str, path: Path | str | None = None, line: int | None = None, hint: str | None = None
    ) -> None:
        place = "" if path is None else f"{path}:{line}: " if line else f"{path}: "
        super().__init__(place + message, hint)
        self.path = None if path is None else Path(path)
        self.line = line


class WorkflowError(FileError):
    """A fault in a workflow file, with the place."""


class SiteError(FileError):
    """A fault in a site file or an overlay, with the place."""


class StageFailed(GFMError):
    """A stage ended without what it promised."""


class Stopped(GFMError):
    """The campaign stopped cleanly and can be resumed."""

    exit_code = 3


class BudgetSpent(Stopped):
    """A limit of the budget is reached; all work is saved, and a higher limit continues the campaign."""


class StorageError(Stopped):
    """The disk refuses writes (full, quota, read-only); nothing already published is lost."""


class SchedulerUnavailable(GFMError):
    """The batch system does not answer."""

    exit_code = 4


class IntegrityError(GFMError):
    """A file is not what its manifest or checksum says."""

    exit_code = 5


class BundleError(IntegrityError):
    """An exported model that the user named is damaged, was changed, or is none."""

    exit_code = 2


class CampaignLocked(GFMError):
    """Another driver holds the campaign."""

    exit_code = 75


class NodeError(GFMError):
    """A machine, its network or another process of the same task failed; elsewhere the same task may succeed."""


class DataError(GFMError):
    """A record or a source of data is unusable."""


class InputError(DataError):
    """Files that the user named on the command line are unusable."""

    exit_code = 2


@contextmanager
def named_by_user() -> Iterator[None]:
    """Raise each `DataError` within the ``with`` block as an `InputError`: the user named the files at fault."""
    try:
        yield
    except DataError as error:
        raise InputError(error.message, error.hint, error.table) from error


class ModelError(GFMError):
    """A model cannot do what a caller requested."""


def plain_error(error: GFMError) -> dict[str, Any]:
    """Return an error as plain JSON data for another process of ours; `error_of` restores it there."""
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint, "table": error.table}


def error_of(plain: Mapping[str, Any]) -> GFMError:
    """Return the error that `plain_error` wrote; a `DataError` for an unknown class."""
    found = globals().get(plain["error"], DataError)
    known = found if isinstance(found, type) and issubclass(found, GFMError) else DataError
    error = known(plain["message"])
    error.hint = plain["hint"]
    error.table = plain.get("table")
    return error
