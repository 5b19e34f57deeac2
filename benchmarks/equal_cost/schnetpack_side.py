"""Train schnetpack by its own model and the loss of its examples; runs under its own interpreter, at its own pace.

As its documentation has it: AdamW, mean squared errors, forces weighted 99 : 1, sums of atoms' energies whose negative
gradients are forces. The lists of neighbours are made once, as its data module caches them.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, TypeVar

import ase.io
import torch
import torch.utils.data.dataloader as torch_loader

if not hasattr(torch_loader, "T_co"):  # schnetpack 2.1 imports this type variable, which torch has renamed
    torch_loader.T_co = TypeVar("T_co")  # type: ignore[attr-defined]

import schnetpack as spk
from schnetpack.data.loader import _atoms_collate_fn
from schnetpack.interfaces import AtomsConverter
from schnetpack.transform import ASENeighborList

from equal_cost.clock import Turns, shuffled, task

KINDS = {"PaiNN": spk.representation.PaiNN, "SchNet": spk.representation.SchNet}


def graphs(file: str, cutoff: float) -> list[dict[str, torch.Tensor]]:
    """Return structures as inputs of schnetpack, with their neighbours, energies and forces."""
    converter = AtomsConverter(ASENeighborList(cutoff=cutoff), dtype=torch.float32)
    found = []
    for atoms in ase.io.read(file, ":"):
        inputs = converter(atoms)
        inputs.pop("_idx_m")  # the collation counts structures anew
        inputs["energy"] = torch.tensor([atoms.get_potential_energy()], dtype=torch.float32)
        inputs["forces"] = torch.tensor(atoms.get_forces(), dtype=torch.float32)
        found.append(inputs)
    return found


def build(settings: dict[str, Any], cutoff: float) -> Any:
    """Return the potential."""
    representation = KINDS[settings["algorithm"]](
        n_atom_basis=settings["hidden"], n_interactions=settings["layers"],
        radial_basis=spk.nn.GaussianRBF(n_rbf=20, cutoff=cutoff), cutoff_fn=spk.nn.CosineCutoff(cutoff),
    )  # fmt: skip
    return spk.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(n_in=settings["hidden"], output_key="energy"), spk.atomistic.Forces()],
    )


def main() -> None:
    """Train a turn whenever it is asked for."""
    asked = task()
    settings = asked["settings"]
    torch.set_num_threads(1)
    torch.manual_seed(asked["seed"])
    train = graphs(asked["train"], asked["cutoff"])
    model = build(settings, asked["cutoff"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    error = torch.nn.functional.mse_loss
    facts = {"version": f"schnetpack {version('schnetpack')}", "parameters": sum(p.numel() for p in model.parameters())}
    turns = Turns(asked["steps"], settings["batch"], facts)
    for indices in shuffled(len(train), settings["batch"], asked["seed"]):
        if turns.done >= 1.0:
            break
        batch = _atoms_collate_fn([train[k] for k in indices])
        energy, forces = batch["energy"], batch["forces"]
        optimiser.zero_grad(set_to_none=True)
        found = model(batch)
        loss = 0.01 * error(found["energy"], energy) + 0.99 * error(found["forces"], forces)
        loss.backward()
        optimiser.step()


if __name__ == "__main__":
    main()
