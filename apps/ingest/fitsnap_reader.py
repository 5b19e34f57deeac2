"""JSON files of FitSNAP: one file a configuration, folders are its groups.

The layout: https://fitsnap.github.io/Scraper/JSON.html. The first line may be a comment. Units are those FitSNAP was
run with, for ``units metal`` eV and Angstrom; a source in others names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import orjson
from ase.data import atomic_numbers

from gfm_pipeline.apps.contracts.options import FitsnapJsonOptions
from gfm_pipeline.apps.ingest.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.parts import Part


class FitsnapJsonReader(FileReader):
    """Reads single files and archives of them; ``folder`` is the name of a configuration's FitSNAP group."""

    def frames(self, part: Part, options: FitsnapJsonOptions) -> Iterator[Parse]:  # noqa: ARG002
        """Yield the configurations of one file."""
        if part.suffix != ".json":
            yield partial(_no_json, part.base)
            return
        with part.binary() as stream:
            text = stream.read()
        if text.lstrip().startswith(b"#"):
            text = text.lstrip().partition(b"\n")[2]
        data_set = orjson.loads(text)["Dataset"]
        folder = part.name.replace("::", "/").split("/")[-2:-1]
        for configuration in data_set["Data"]:
            yield partial(_parse, configuration, {"folder": folder[0] if folder else None, **data_set})


def _no_json(name: str) -> Frame:
    raise ValueError(f"{name} is no .json file")


def _parse(configuration: dict[str, Any], about: dict[str, Any]) -> Frame:
    def find(name: str) -> Any:
        return configuration[name] if name in configuration else about.get(name)

    return Frame(
        numbers=np.array([atomic_numbers[symbol] for symbol in configuration["AtomTypes"]]),
        pos=np.array(configuration["Positions"], dtype=np.float64).reshape(-1, 3),
        cell=np.array(configuration["Lattice"], dtype=np.float64),
        pbc=np.ones(3, dtype=bool),
        energy=configuration.get("Energy"),
        forces=configuration.get("Forces"),
        find=find,
    )
