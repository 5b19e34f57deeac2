"""JSON files of FitSNAP: one file per configuration; folders are its groups.

The layout: https://fitsnap.github.io/Scraper/JSON.html. The first line may be a comment. Units are those FitSNAP was
run with, for ``units metal`` eV and Angstrom; a source in others names them.

A file is parsed at once up to `AT_ONCE` bytes; a larger one, which holds many configurations, is streamed, and what it
says about all of them (its label and styles) is not looked up then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import orjson

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.files.json_stream import Joined, records
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets
from gfm_pipeline.apps.ingest.readers.species import number_of
from gfm_pipeline.core.contracts.options import FitsnapJsonOptions

_STRUCTURE = frozenset({"AtomTypes", "Positions", "Lattice", "NumAtoms", "Data"})
AT_ONCE = 1 << 22  # bytes


_KEY_SETS = KeySets()


class FitsnapJsonReader(FileReader):
    """Reads single files and archives of them; ``folder`` is the name of a configuration's FitSNAP group."""

    def frames(self, part: InputFile, options: FitsnapJsonOptions) -> Iterator[Parse]:  # noqa: ARG002
        """Yield the configurations of one file."""
        if part.suffix != ".json":
            yield partial(_no_json, part.base)
            return
        folders = part.name.replace("::", "/").split("/")[-2:-1]
        about = {"folder": folders[0] if folders else None}
        with part.binary() as stream:
            begin = stream.read(AT_ONCE)
            text = _without_comment(begin)
            if len(begin) == AT_ONCE:
                for record in records(Joined(text, stream), "AtomTypes"):
                    yield partial(_later, record, about)
                return
        data_set = orjson.loads(text)["Dataset"]
        for configuration in data_set["Data"]:
            yield partial(_parse, configuration, {**about, **data_set})


def _without_comment(text: bytes) -> bytes:
    text = text.lstrip()
    return text.partition(b"\n")[2] if text.startswith(b"#") else text


def _later(record: Callable[[], Any], about: dict[str, Any]) -> Frame:
    return _parse(record(), about)


def _no_json(name: str) -> Frame:
    raise ValueError(f"{name} is no .json file")


def _parse(configuration: dict[str, Any], about: dict[str, Any]) -> Frame:
    def find(name: str) -> Any:
        return configuration[name] if name in configuration else about.get(name)

    labels = {k: v for k, v in {**about, **configuration}.items() if k not in _STRUCTURE}
    return Frame(
        numbers=np.array([number_of(symbol) for symbol in configuration["AtomTypes"]]),
        pos=np.array(configuration["Positions"], dtype=np.float64).reshape(-1, 3),
        cell=np.array(configuration["Lattice"], dtype=np.float64),
        pbc=np.ones(3, dtype=bool),
        energy=configuration.get("Energy"),
        forces=configuration.get("Forces"),
        find=find,
        keys=_KEY_SETS.of(labels, len(configuration["AtomTypes"]), "Energy", "Forces"),
    )
