"""Renamed keys of workflows: files with former names are still valid, with the same meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.core.yamlfile import Location, YamlFile

EACH = "*"  # every key at this level
RENAMED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("data", "sources", EACH, "forces_are"), "force_sign"),
    (("limits", "silence_seconds"), "heartbeat_timeout_seconds"),
    (("limits", "lost_seconds"), "wrapper_timeout_seconds"),
)


def present_location(location: Location) -> Location:
    """Return a location with the present name of every key."""
    for pattern, name in RENAMED:
        here = location[: len(pattern)]
        if len(here) == len(pattern) and all(p in (EACH, k) for p, k in zip(pattern, here, strict=True)):
            return (*location[: len(pattern) - 1], name, *location[len(pattern) :])
    return location


def with_present_keys(file: YamlFile) -> YamlFile:
    """Return a workflow file with the present name of every key.

    Raises
    ------
    WorkflowError
        When the file has a key under both names.
    """
    data: Any = file.data
    for pattern, name in RENAMED:
        for parents in list(_parents(data, pattern[:-1], ())):
            given = _at(data, parents)
            old = pattern[-1]
            if old not in given:
                continue
            if name in given:
                at = (*parents, old)
                raise WorkflowError(
                    f"{'.'.join(map(str, at))} is the former name of {name}, which is given too.",
                    file.path,
                    file.line(at),
                    f"Remove {old}.",
                )
            data = _replaced(data, parents, {name if key == old else key: value for key, value in given.items()})
    lines = {present_location(at): line for at, line in file.lines.items()}
    return replace(file, data=data, lines=lines)


def _parents(data: Any, pattern: tuple[str, ...], at: Location) -> Iterator[Location]:
    """Yield the locations of the mappings that ``pattern`` names below ``at``."""
    if not isinstance(data, dict):
        return
    if not pattern:
        yield at
        return
    for key in data if pattern[0] == EACH else [pattern[0]]:
        if key in data:
            yield from _parents(data[key], pattern[1:], (*at, key))


def _at(data: Any, location: Location) -> Any:
    for key in location:
        data = data[key]
    return data


def _replaced(data: Any, location: Location, value: Any) -> Any:
    """Return ``data`` with ``value`` at ``location``; other places that share data by aliases do not change."""
    if not location:
        return value
    first, rest = location[0], location[1:]
    return {key: _replaced(item, rest, value) if key == first else item for key, item in data.items()}
