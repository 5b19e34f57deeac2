"""mace-torch and nequip as their own authors run them: their ASE calculators, with the weights of one of our models."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.data import chemical_symbols

from gfm_pipeline.core.contracts.algorithms import BUILT_IN
from gfm_pipeline.models import Potential

# Options that make small models.
OPTIONS: dict[str, dict[str, int]] = {
    "MACE-torch": {"l_max": 2, "correlation": 2},
    "NequIP-package": {"l_max": 2, "radial_hidden": 8},
}


def skip_unless_installed(algorithm: str) -> None:
    about = BUILT_IN.get(algorithm)
    if about is not None and about.missing:
        pytest.skip(f"{' and '.join(about.missing)} is not installed")


def _mace(potential: Potential) -> Any:
    from mace.calculators import MACECalculator

    model = deepcopy(potential.representation.model)  # the calculator freezes what it is given
    return MACECalculator(models=model, device="cpu", default_dtype="float64")


def _nequip(potential: Potential) -> Any:
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.integrations.ase import NequIPCalculator
    from nequip.model.nequip_models import FullNequIPGNNModel

    backbone = potential.representation
    settings = backbone._settings() | {"do_derivatives": True}
    model = inspect.unwrap(FullNequIPGNNModel)(**settings).double()
    model.load_state_dict(backbone.model.state_dict())
    for module in model.modules():
        if hasattr(module, "_output_dtype"):
            module._output_dtype = torch.float64
    names = {chemical_symbols[int(name[1:])]: name for name in settings["type_names"]}
    mapper = ChemicalSpeciesToAtomTypeMapper(
        model_type_names=settings["type_names"], chemical_species_to_atom_type_map=names
    )
    # `eval` is torch's evaluation mode
    return NequIPCalculator(model.eval(), "cpu", transforms=[mapper, NeighborListTransform(backbone.spec.cutoff)])


CALCULATORS: dict[str, Callable[[Potential], Any]] = {"MACE-torch": _mace, "NequIP-package": _nequip}


def own_results(potential: Potential, atoms: Atoms) -> dict[str, Any]:
    """Return energy, forces and stress by the package's own data, neighbour list and derivatives, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages
            copy = atoms.copy()
            copy.calc = CALCULATORS[potential.spec.algorithm](potential)
            results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
            return results | ({"stress": copy.get_stress()} if all(copy.pbc) else {})
    finally:
        torch.set_default_dtype(before)
