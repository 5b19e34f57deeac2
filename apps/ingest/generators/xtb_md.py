"""Generator of molecule frames: many short Langevin trajectories labelled with GFN2-xTB.

GFN2-xTB: C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019), computed by tblite.
Every trajectory starts from the molecule's G2 geometry with velocities at twice the temperature, half of which
equipartition turns into potential energy, so a short burn-in is enough. Trajectories are independent of each
other, are the groups of the splits, and depend on the seed and their own number only, not on the shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.collections import g2
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gfm_pipeline.apps.ingest.generators.langevin import Vectors, baoab, maxwell_boltzmann
from gfm_pipeline.apps.ingest.labels.target_labels import labels_in
from gfm_pipeline.apps.ingest.records import Record, unreadable
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.options import XtbMdOptions
from gfm_pipeline.core.contracts.readers import suggestion
from gfm_pipeline.core.errors import DataError

METHOD = "GFN2-xTB"


def _calculator_class() -> Any:
    try:
        from tblite.interface import Calculator
    except ModuleNotFoundError as error:
        raise DataError("Reader xtb-md needs the package tblite.", "Run: pip install 'gfm-pipeline[demo]'.") from error
    return Calculator


class _XtbPotential:
    """tblite's GFN2-xTB of one molecule; each call starts from the density of the previous call."""

    def __init__(self, numbers: NDArray[Any], pos: Vectors) -> None:
        self._calculator = _calculator_class()(METHOD, numbers, pos / units.Bohr)
        self._calculator.set("verbosity", 0)
        self._last: Any = None

    def __call__(self, pos: Vectors) -> tuple[float, Vectors]:
        """Return energy (eV) and forces (eV/Angstrom)."""
        self._calculator.update(positions=pos / units.Bohr)
        self._last = self._calculator.singlepoint(self._last)
        gradient = np.asarray(self._last.get("gradient"), dtype=np.float64)
        return float(self._last.get("energy")) * units.Hartree, gradient * (-units.Hartree / units.Bohr)

    def results(self) -> dict[str, Any]:
        """Return dipole moment (e*Angstrom), charges of atoms (e) and gap of the orbitals (eV) of the last call."""
        energies, occupied = (np.asarray(self._last.get(f"orbital-{what}")) for what in ("energies", "occupations"))
        filled = occupied > 0.5 * occupied.max()
        gap = energies[~filled].min(initial=np.inf) - energies[filled].max()
        found = {"dipole": self._last.get("dipole") * units.Bohr, "charges": self._last.get("charges")}
        return found | ({"band_gap": gap * units.Hartree} if np.isfinite(gap) else {})


class XtbMd:
    """The ``xtb-md`` source."""

    def converted(self, source: SourceSettings) -> tuple[str, ...]:  # noqa: ARG002
        """Return the conversion of tblite's atomic units, in words."""
        return (f"{METHOD} labels were converted from Hartree and Bohr to eV and Angstrom.",)

    def count(self, source: SourceSettings) -> int | None:
        """Return the requested number of frames."""
        options = XtbMdOptions.model_validate(source.options)
        return len(options.molecules) * len(options.temperatures) * options.replicas * options.frames

    def read(self, source: SourceSettings, shard: int, n_shards: int, seed: int) -> Iterator[Record | BadRecord]:
        """Run every ``n_shards``-th trajectory and yield its frames."""
        options = XtbMdOptions.model_validate(source.options)
        unknown = [name for name in options.molecules if name not in g2.names]
        if unknown:
            raise DataError(f"The G2 collection has no molecule {unknown[0]!r}.", suggestion(unknown[0], g2.names))
        _calculator_class()  # loads tblite's OpenMP now, so that the limit below reaches it
        plans = list(product(options.molecules, options.temperatures, range(options.replicas)))
        for number in range(shard, len(plans), n_shards):
            name, temperature, replica = plans[number]
            rng = np.random.default_rng([seed, number])
            group = f"{name}/{temperature:g}K/{replica}"
            first = number * options.frames
            # A shard has one core. Several threads would also sum in varying order, so that the same seed would not
            # give the same trajectory. The environment has no effect if OpenMP is already loaded.
            with threadpool_limits(limits=1):
                frames = list(_trajectory(molecule(name), temperature, rng, options, source, group, first))
            yield from frames


def _trajectory(
    atoms: Atoms,
    temperature: float,
    rng: np.random.Generator,
    options: XtbMdOptions,
    source: SourceSettings,
    group: str,
    first: int,
) -> Iterator[Record | BadRecord]:
    masses = np.asarray(atoms.get_masses(), dtype=np.float64)
    burn_in = max(1, round(options.burn_in_fs / options.timestep_fs))
    stride = max(1, round(options.stride_fs / options.timestep_fs))
    n_frames = 0
    try:
        potential = _XtbPotential(atoms.numbers, atoms.positions)
        steps = baoab(
            atoms.positions,
            maxwell_boltzmann(masses, 2.0 * temperature, rng),
            masses,
            potential,
            timestep_fs=options.timestep_fs,
            friction_per_fs=options.friction_per_fs,
            temperature=temperature,
            rng=rng,
        )
        for step, (pos, energy, forces) in enumerate(steps, start=1):
            if step < burn_in or (step - burn_in) % stride:
                continue
            yield Record(
                numbers=atoms.numbers,
                pos=pos,
                forces=forces,
                energy=energy,
                cell=np.zeros((3, 3)),
                pbc=np.zeros(3, dtype=bool),
                group=group,
                file=METHOD,
                file_index=0,
                index=first + n_frames,
                labels=labels_in(potential.results(), len(atoms), source.targets) if source.targets else {},
            )
            n_frames += 1
            if n_frames == options.frames:
                return
    except Exception as error:  # noqa: BLE001 - as when the field does not converge: the rest of the trajectory is lost
        yield unreadable(source, f"{METHOD}:{group}", first + n_frames, error)
