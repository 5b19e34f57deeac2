"""Results of VASP in HDF5, ``vaspout.h5``, one record per ionic step.

The layout: https://www.vasp.at/wiki/index.php/Vaspout.h5. Below ``intermediate/ion_dynamics`` lie the steps:
``position_ions`` [F, N, 3] (fractions of the cell), ``lattice_vectors`` [F, 3, 3] (times ``scale`` Angstrom),
``forces`` [F, N, 3] (eV/Angstrom), ``energies`` [F, K] (eV), named by ``energies_tags`` [K].
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gfm_pipeline.apps.ingest.files.file_reader import Frame, Parse
from gfm_pipeline.apps.ingest.readers.species import number_of
from gfm_pipeline.core.contracts.options import VaspEnergy

_STEPS, _ATOMS = "intermediate/ion_dynamics", "results/positions"
_TAGS = {VaspEnergy.FREE: "free energy", VaspEnergy.SIGMA_0: "energy(sigma->0)"}


def frames(path: Path, energy: VaspEnergy) -> Iterator[Parse]:
    """Yield the ionic steps."""
    with h5py.File(path) as file:
        missing = next((name for name in (_STEPS, _ATOMS) if name not in file), None)
        if missing is not None:
            raise ValueError(f"there is no {missing}: it is not a vaspout.h5, or the run did not get so far")
        steps, atoms = file[_STEPS], file[_ATOMS]
        species = zip(_texts(atoms["ion_types"]), atoms["number_ion_types"][()].tolist(), strict=True)
        numbers = np.array([number_of(symbol) for symbol, count in species for _ in range(count)])
        scale = float(atoms["scale"][()]) if "scale" in atoms else 1.0
        tags = _texts(steps["energies_tags"])
        column = next((k for k, tag in enumerate(tags) if tag.lower().startswith(_TAGS[energy])), None)
        if column is None:
            raise ValueError(f"no energy is called {_TAGS[energy]!r}; there are {', '.join(tags)}")
        for index in range(len(steps["position_ions"])):
            yield partial(_step, steps, numbers, scale, column, index)


def _texts(values: Any) -> list[str]:
    return [bytes(value).decode().strip() for value in values[()].tolist()]


def _step(steps: Any, numbers: Any, scale: float, column: int, index: int) -> Frame:
    cell = steps["lattice_vectors"][index] * scale
    return Frame(
        numbers=numbers,
        pos=steps["position_ions"][index] @ cell,
        cell=cell,
        pbc=np.ones(3, dtype=bool),
        energy=float(steps["energies"][index, column]),
        forces=steps["forces"][index] if "forces" in steps else None,
    )
