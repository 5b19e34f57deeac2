"""Readers by name. Modules are imported on demand: a node without tblite can still read files."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from gfm_pipeline.apps.ingest.records import Reader
from gfm_pipeline.core.contracts.readers import describe
from gfm_pipeline.core.errors import ConfigError, DataError


def get_reader(name: str) -> Reader:
    """Return a reader.

    Raises
    ------
    DataError
        When there is none of that name, or a package it needs is not installed.
    """
    try:
        description = describe(name)
    except ConfigError as error:
        raise DataError(error.message, error.hint) from error
    module, _, attribute = description.reader.partition(":")
    try:
        make = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise DataError(f"Reader {name} needs the package {error.name}.", f"Run: pip install {error.name}") from error
    except AttributeError as error:
        raise DataError(
            f"Reader {name}: {description.reader} does not exist.", "Correct its description: module:class."
        ) from error
    return cast("Reader", make())
