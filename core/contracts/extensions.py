"""Extensions of other installed packages, found by entry points: readers, algorithms, and others.

An entry point's name is the extension's name, and its value names a description. The engine imports the module of the
description, so that module should hold little more. The program that runs the extension imports the object that the
description names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from gfm_pipeline.core.errors import ConfigError

D = TypeVar("D")

STAGES = "gfm_pipeline.stages"  # the group of stages: the schema of workflows and the engine both look there


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known word, or with all known words."""
    names = sorted(known)
    in_lower_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), in_lower_case, n=1)
    if close:
        return f"Did you mean {in_lower_case[close[0]]}?"
    return f"Known are {', '.join(names)}." if names else "It takes none."


@dataclass(frozen=True)
class Extensions(Generic[D]):
    """The descriptions of one kind of extension, by name.

    Parameters
    ----------
    what
        Noun for messages: ``reader``.
    group
        The group of entry points.
    kind
        The class of a description.
    built_in
        Built-in descriptions; they take precedence over entry points of the same name.
    """

    what: str
    group: str
    kind: type[D]
    built_in: Mapping[str, D]

    def names(self) -> list[str]:
        """Return all names, including those of other packages."""
        return sorted({*self.built_in, *(point.name for point in entry_points(group=self.group))})

    def describe(self, name: str) -> D:
        """Return the description of ``name``.

        Raises
        ------
        ConfigError
            When no extension or more than one package has that name, or a package's description cannot be imported.
        """
        if name in self.built_in:
            return self.built_in[name]
        points = list(entry_points(group=self.group, name=name))
        if not points:
            raise ConfigError(f"There is no {self.what} {name!r}.", suggestion(name, self.names()))
        if len(points) > 1:
            packages = " and ".join(sorted(_package(point) for point in points))
            raise ConfigError(f"{self.what.capitalize()} {name!r} is given by {packages}.", "Uninstall all but one.")
        return self._load(points[0])

    def declared(self, name: str) -> D:
        """Return the description of ``name``, whose own attribute ``name`` must be the same.

        Raises
        ------
        ConfigError
            As `describe`, or when the description has another name.
        """
        found = self.describe(name)
        own = getattr(found, "name", name)
        if own != name:
            raise ConfigError(
                f"{self.what.capitalize()} {name!r} calls itself {own!r}.",
                f"Give its entry point ({self.group}) that name.",
            )
        return found

    def _load(self, point: EntryPoint) -> D:
        whose = f"{self.what.capitalize()} {point.name!r} of package {_package(point)}"
        try:
            found = point.load()
        except Exception as error:  # a module of another package: whatever its import raises is that package's fault
            message = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ConfigError(
                f"{whose} cannot be imported: {message}.", "Install what it needs, or correct its entry point."
            ) from error
        if not isinstance(found, self.kind):
            raise ConfigError(
                f"{whose}: {point.value} is not of type {self.kind.__name__}.",
                f"The entry point must name one (group {self.group}).",
            )
        return found


def _package(point: EntryPoint) -> str:
    return point.value if point.dist is None else str(point.dist.name)


def imported(whose: str, where: str) -> Any:
    """Import the object that ``module:attribute`` of a description names; ``whose`` begins the error sentence.

    Raises
    ------
    ConfigError
        When it cannot be imported.
    """
    module, _, attribute = where.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # a module of another package: whatever its import raises is that package's fault
        message = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"{whose}: {where} cannot be imported: {message}.",
            "Install what it needs on the compute nodes, or correct its description.",
        ) from error
