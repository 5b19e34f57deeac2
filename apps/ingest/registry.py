"""Reader by name. Modules are imported when asked for: a node without tblite can still read files."""

from __future__ import annotations

from collections.abc import Callable

from gfm_pipeline.apps.contracts.sources import suggestion
from gfm_pipeline.apps.ingest.records import Reader
from gfm_pipeline.common.errors import DataError


def _ase() -> Reader:
    from gfm_pipeline.apps.ingest.ase_reader import AseReader

    return AseReader()


def _pymatgen_json() -> Reader:
    from gfm_pipeline.apps.ingest.pymatgen_reader import PymatgenJsonReader

    return PymatgenJsonReader()


def _hydragnn() -> Reader:
    from gfm_pipeline.apps.ingest.hydragnn_reader import HydragnnReader

    return HydragnnReader()


def _xtb_md() -> Reader:
    from gfm_pipeline.apps.ingest.xtb_md import XtbMd

    return XtbMd()


def _emt_alloys() -> Reader:
    from gfm_pipeline.apps.ingest.emt_alloys import EmtAlloys

    return EmtAlloys()


READERS: dict[str, Callable[[], Reader]] = {
    "ase": _ase,
    "pymatgen-json": _pymatgen_json,
    "hydragnn": _hydragnn,
    "xtb-md": _xtb_md,
    "emt-alloys": _emt_alloys,
}


def get_reader(name: str) -> Reader:
    """Return a reader.

    Raises
    ------
    DataError
        When there is none of that name, or a package it needs is not installed.
    """
    if name not in READERS:
        raise DataError(f"There is no reader {name!r}.", suggestion(name, list(READERS)))
    try:
        return READERS[name]()
    except ModuleNotFoundError as error:
        raise DataError(f"Reader {name} needs the package {error.name}.", f"Run: pip install {error.name}") from error
