"""Finds sites, merges overlays into them, and records the origin of every value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gfm_pipeline.core.errors import SiteError
from gfm_pipeline.core.explain import SourceLocation, explain, suggestion
from gfm_pipeline.core.strenum import StrEnum
from gfm_pipeline.core.yamlfile import Location, put, read_setting, read_yaml
from gfm_pipeline.sites.found_gpus import found_gpus
from gfm_pipeline.sites.schema import SiteModel

EXTENDS = "extends"
SETTING = "site."  # `--set site.a.b=c` is for the site; the key follows this prefix


class SettingSource(StrEnum):
    """Sources of a site's values; later ones take precedence."""

    DEFAULT = "default"  # the schema
    SHIPPED = "shipped"  # a site file of this package
    USER = "user"  # a file in the user's folder of sites
    FILE = "file"  # a site file given by its path
    OVERLAY = "overlay"  # --overlay
    SETTING = "--set"
    FOUND = "found on this machine"


@dataclass(frozen=True)
class SettingOrigin:
    """The origin of one value."""

    source: SettingSource
    path: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        """Return the origin as text: ``frontier.yaml:12``, ``--set``, ``default``."""
        if self.path is None:
            return str(self.source)
        shown = self.path.name if self.source is SettingSource.SHIPPED else _home(self.path)
        return f"{shown}:{self.line}" if self.line else shown


@dataclass(frozen=True)
class LoadedSite:
    """A valid site, and the origin of each of its values.

    ``origins`` has an entry for each written key, including mappings and list items; other values are defaults of the
    schema. ``main`` is the file that names the site.
    """

    model: SiteModel
    origins: Mapping[Location, SettingOrigin]
    main: Path

    def origin(self, *location: str | int) -> SettingOrigin:
        """Return the origin of the value at ``location``; a list is one value."""
        return self.origins.get(location, SettingOrigin(SettingSource.DEFAULT))

    def error(self, location: Location, message: str, hint: str | None = None) -> SiteError:
        """Return an error at the innermost written key on the path to ``location``."""
        place = _place(self.origins, self.main, location)
        return SiteError(
            message if place.path else f"{place.prefix}{'.'.join(map(str, location))}: {message}",
            place.path,
            place.line,
            hint,
        )

    def leaves(self) -> Iterator[tuple[tuple[str, ...], Any, SettingOrigin]]:
        """Yield every value as (location, plain value, origin); lists and empty mappings are values."""
        yield from self._leaves((), self.model.model_dump(mode="json"))

    def _leaves(self, at: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any, SettingOrigin]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from self._leaves((*at, key), inner)
        else:
            yield at, value, self.origin(*at)


@dataclass(frozen=True)
class _SettingLayer:
    """One file, or all of ``--set``."""

    source: SettingSource
    path: Path | None
    data: dict[str, Any]
    lines: dict[Location, int]


def shipped() -> list[str]:
    """Return the names of the built-in sites."""
    return sorted(path.stem for path in _shipped_folder().glob("*.yaml"))


def user_folder() -> Path:
    """Return the folder of the user's own sites and overlays: below ``$XDG_CONFIG_HOME``, or ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "gfm-pipeline" / "sites"


def known() -> list[str]:
    """Return the names of all sites: shipped ones and the user's."""
    return sorted({*shipped(), *(path.stem for path in user_folder().glob("*.yaml"))})


def split_sets(overrides: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split ``--set`` texts into those for the workflow and those for the site (``site.key=value``)."""
    of_site = tuple(text for text in overrides if text.strip().startswith(SETTING))
    return tuple(text for text in overrides if text not in of_site), of_site


def load_site(name: str, overlays: Sequence[Path] = (), sets: Sequence[str] = ()) -> LoadedSite:
    """Return a site by its name or by the path of its file (.yaml), with all overlays applied.

    Later layers take precedence: the shipped file, the user's file of the same name, the file given by path,
    ``overlays`` in their order, ``sets``. Mappings are merged key by key; lists and values are replaced. The key
    ``extends`` of a file names the site that the file extends.

    Parameters
    ----------
    name
        Name of a site, or path of a site file.
    overlays
        Files with some keys of a site.
    sets
        ``site.key.inner=value`` texts; values are read as YAML.

    Raises
    ------
    SiteError
        When the site or a file does not exist, or a value does not fit the schema; with file and line.
    """
    layers = _by_path(Path(name), ()) if name.endswith((".yaml", ".yml")) else _by_name(name, ())
    main = layers[-1].path
    assert main is not None  # noqa: S101 - only --set has no path, and comes below
    for path in overlays:
        layer = _read(path, SettingSource.OVERLAY, "Give the path of a file with some keys of a site.")
        if EXTENDS in layer.data:
            message = "An overlay is laid over the site of --site and cannot extend one."
            raise SiteError(message, path, layer.lines[(EXTENDS,)], f"Remove {EXTENDS!r}.")
        layers.append(layer)
    if sets:
        layers.append(_settings(sets))
    merged: dict[str, Any] = {}
    origins: dict[Location, SettingOrigin] = {}
    for layer in layers:
        _merge(merged, layer.data, (), layer, origins)
    if (found := _found(merged)) is not None:
        _merge(merged, found.data, (), found, origins)
    try:
        model = SiteModel.model_validate(merged)
    except ValidationError as error:
        raise explain(error, SiteModel, merged, lambda at: _place(origins, main, at), SiteError) from None
    return LoadedSite(model, origins, main)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of site files and overlays for editors; files may extend others, so no key is required."""
    schema = SiteModel.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    schema["properties"][EXTENDS] = {"type": "string", "description": "Site this file builds on: a name or a path."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Site of gfm-pipeline"}


def _shipped_folder() -> Path:
    return Path(str(resources.files("gfm_pipeline.sites")))


def _by_name(name: str, visited: tuple[Path, ...]) -> list[_SettingLayer]:
    """Return the layers of a named site: the shipped file, and the user's file over it or instead of it."""
    own, theirs = _shipped_folder() / f"{name}.yaml", user_folder() / f"{name}.yaml"
    if name not in known():
        hint = f"{suggestion(name, known())}Known: {', '.join(known())}; or give the path of a site file (.yaml)."
        raise SiteError(f"Unknown site {name!r}.", hint=hint)
    layers = [_read(own, SettingSource.SHIPPED, "Install the program again.")] if own.is_file() else []
    if theirs.is_file():
        layer = _read(theirs, SettingSource.USER, "It was there a moment ago.")
        if layers and layer.data.get(EXTENDS, name) == name:
            layer.data.pop(EXTENDS, None)
            return [*layers, layer]
        return _extended(layer, theirs, visited)
    return layers


def _by_path(path: Path, visited: tuple[Path, ...]) -> list[_SettingLayer]:
    """Return the layers of a site file: those of the site that it extends, and itself."""
    return _extended(_read(path, SettingSource.FILE, f"Known sites: {', '.join(known())}."), path, visited)


def _extended(layer: _SettingLayer, path: Path, visited: tuple[Path, ...]) -> list[_SettingLayer]:
    """Return ``layer`` over the layers of the site it extends, if it does."""
    base = layer.data.pop(EXTENDS, None)
    if base is None:
        return [layer]
    line = layer.lines[(EXTENDS,)]
    if path.resolve() in visited:
        raise SiteError("This site extends itself, through the sites it builds on.", path, line, "Break the circle.")
    if not isinstance(base, str):
        raise SiteError(f"{EXTENDS} is {base!r}, but should be the name or path of a site.", path, line)
    visited = (*visited, path.resolve())
    try:
        if base.endswith((".yaml", ".yml")):
            below = _by_path(path.parent / Path(base).expanduser(), visited)
        else:
            below = _by_name(base, visited)
    except SiteError as error:
        if error.path is not None:
            raise
        raise SiteError(f"{EXTENDS}: {error.message}", path, line, error.hint) from None
    layer.data.setdefault("name", path.stem)
    return [*below, layer]


def _read(path: Path, source: SettingSource, missing: str) -> _SettingLayer:
    what = "overlay" if source is SettingSource.OVERLAY else "site"
    file = read_yaml(path, what, SiteError, missing, "See `gfm-pipeline sites show local` for a valid one.")
    return _SettingLayer(source, path, file.data, file.lines)


def _settings(sets: Sequence[str]) -> _SettingLayer:
    """Return ``--set site.a.b=c`` texts as a layer."""
    data: dict[str, Any] = {}
    for text in sets:
        keys, value = read_setting(text.strip(), "site.scheduler.account=abc123", SiteError)
        put(data, keys[1:], value, text, SiteError)
    return _SettingLayer(SettingSource.SETTING, None, data, {})


def _found(merged: Mapping[str, Any]) -> _SettingLayer | None:
    """Return the GPUs of this machine as a layer, if the site requests detection and names no GPUs itself."""
    gpu, node = (part if isinstance(part := merged.get(key), dict) else {} for key in ("gpu", "node"))
    if gpu.get("detect") is not True or "runtime" in gpu or "gpus" in node:
        return None
    gpus = found_gpus(os.environ)
    if gpus is None:
        return None
    data = {
        "node": {"gpus": gpus.count, "gpu_type": gpus.kind, "gpu_memory_gb": gpus.memory_gb},
        "gpu": {"runtime": str(gpus.runtime), "visible_variable": gpus.visible_variable},
    }
    return _SettingLayer(SettingSource.FOUND, None, data, {})


def _merge(
    below: dict[str, Any],
    above: dict[str, Any],
    at: Location,
    layer: _SettingLayer,
    origins: dict[Location, SettingOrigin],
) -> None:
    """Lay ``above`` over ``below`` in place: mappings key by key, anything else as a whole."""
    for key, value in above.items():
        here = (*at, key)
        origins[here] = SettingOrigin(layer.source, layer.path, layer.lines.get(here))
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value, here, layer, origins)
            continue
        for location in [other for other in origins if len(other) > len(here) and other[: len(here)] == here]:
            del origins[location]
        if isinstance(value, dict):
            below[key] = {}
            _merge(below[key], value, here, layer, origins)
            continue
        below[key] = value
        for location, line in layer.lines.items():
            if len(location) > len(here) and location[: len(here)] == here:
                origins[location] = SettingOrigin(layer.source, layer.path, line)


def _place(origins: Mapping[Location, SettingOrigin], main: Path, location: Location) -> SourceLocation:
    """Return the place of the innermost written key on the path to ``location``."""
    for length in range(len(location), 0, -1):
        if (origin := origins.get(location[:length])) is not None:
            return SourceLocation(origin.path, origin.line, f"--set {SETTING}" if origin.path is None else "")
    return SourceLocation(main)


def _home(path: Path) -> str:
    """Return ``path`` with the home folder as ``~``."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)
