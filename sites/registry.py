"""Find and read site files."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gfm_pipeline.common.errors import ConfigError
from gfm_pipeline.sites.schema import SiteModel


def shipped() -> list[str]:
    """Return the names of the sites that come with the program."""
    folder = resources.files("gfm_pipeline.sites")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@dataclass(frozen=True)
class LoadedSite:
    """A valid site."""

    model: SiteModel


def load_site(name: str) -> LoadedSite:
    """Return a shipped site by name, or the site of a YAML file by its path.

    Raises
    ------
    ConfigError
        When there is no such site, or its file does not fit the schema.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"There is no site file {path}.")
        return LoadedSite(_parse(path.read_text(encoding="utf-8"), str(path)))
    if name not in shipped():
        close = difflib.get_close_matches(name, shipped(), n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"Unknown site {name!r}.", f"{hint}Known: {', '.join(shipped())}; or give the path of a site file (.yaml)."
        )
    text = (resources.files("gfm_pipeline.sites") / f"{name}.yaml").read_text(encoding="utf-8")
    return LoadedSite(_parse(text, f"{name}.yaml"))


def _parse(text: str, where: str) -> SiteModel:
    try:
        return SiteModel.model_validate(YAML(typ="safe", pure=True).load(text))
    except YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {str(error).splitlines()[0]}.") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"])) or "the file"
        raise ConfigError(
            f"{where}: {key}: {fault['msg']}.", "See `gfm-pipeline sites local` for a valid one."
        ) from None
