"""Training sets of VASP's force fields, ``ML_AB`` and ``ML_ABN``: structures with energies and forces of DFT.

The layout: https://www.vasp.at/wiki/index.php/ML_AB. A header, then a block per configuration; in both, titles stand
between lines of ``*`` or ``=``, and values below lines of ``-``. Units are eV and Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.file_reader import Frame, Parse
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets
from gfm_pipeline.apps.ingest.readers.species import number_of

_BEGIN = "configuration num"
_NUMBER = "the number of configurations"

_KEY_SETS = KeySets()


def frames(lines: Iterator[str]) -> Iterator[Parse]:
    """Yield the configurations; where the header says that there are more than that, those count as lost."""
    header: list[str] = []
    block: list[str] | None = None
    given = 0
    for line in lines:
        if line.strip().lower().startswith(_BEGIN):
            if block is not None:
                yield partial(_frame, block)
            given, block = given + 1, []
        else:
            (header if block is None else block).append(line)
    if block is None:
        raise ValueError("there is no configuration in this file")
    yield partial(_frame, block)
    number = _sections(header).get(_NUMBER, [])
    most = int(number[0]) if number and number[0].strip().isdecimal() else given
    yield from [partial(_missing, most)] * min(most - given, 1_000_000)


def _missing(number: int) -> Frame:
    raise ValueError(f"the file ends before the last of its {number} configurations")


def _sections(lines: list[str]) -> dict[str, list[str]]:
    """Return the values below each title, titles in lower case."""
    found: dict[str, list[str]] = {}
    values: list[str] | None = None
    for line in lines:
        text = line.strip()
        if not text or not text.strip("-"):
            continue
        if not text.strip("=") or not text.strip("*"):
            values = None
        elif values is None:
            values = found.setdefault(text.lower(), [])
        else:
            values.append(text)
    return found


def _frame(block: list[str]) -> Frame:
    sections = _sections(block)

    def rows(title: str) -> NDArray[np.float64]:
        name = next((name for name in sections if name.startswith(title)), None)
        if name is None:
            raise ValueError(f"the configuration has no {title}")
        return np.array([[float(word) for word in line.split()] for line in sections[name]])

    numbers: list[int] = []
    for line in sections.get("atom types and atom numbers", []):
        symbol, count = line.split()
        numbers += [number_of(symbol)] * int(count)
    energy, cell = rows("total energy"), rows("primitive lattice vectors")
    found: dict[str, Any] = {
        "energy": float(energy[0, 0]),
        "forces": rows("forces"),
        "system": " ".join(sections.get("system name", [])),
    }
    return Frame(
        numbers=np.array(numbers, dtype=np.int64),
        pos=rows("atomic positions"),
        cell=cell,
        pbc=np.ones(3, dtype=bool),
        energy=found["energy"],
        forces=found["forces"],
        find=found.get,
        keys=_KEY_SETS.of(found, len(numbers), "energy", "forces"),
    )
