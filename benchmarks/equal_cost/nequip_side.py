"""Train nequip by its own model, loss and averaged weights; runs under its own interpreter.

As its documentation advises: Adam with amsgrad at 0.01, small batches, energies per atom and forces weighted alike,
four layers of order 1 with 32 features. Two things are otherwise, for they serve short trainings better: the average
is of 0.99 (one of 0.999 still holds random weights after a thousand steps), and the learning rate falls along a cosine
to the end of the budget instead of waiting for a plateau.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import ase.io
import numpy as np
import torch
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.model import NequIPGNNModel
from nequip.train import EnergyForceLoss
from nequip.train.ema import EMAWeights
from nequip.utils.global_state import set_global_state

from equal_cost.clock import BATCH, answer, clock_of, set_cosine_rate, shuffled, task


def graphs(file: str, names: list[str], cutoff: float) -> list[Any]:
    """Return structures as dictionaries of nequip, with their neighbours."""
    mapper, neighbours = ChemicalSpeciesToAtomTypeMapper(names), NeighborListTransform(cutoff)
    return [neighbours(mapper(from_ase(atoms))) for atoms in ase.io.read(file, ":")]


def main() -> None:
    """Train until the budget ends, then predict the test structures with averaged weights."""
    asked = task()
    settings = asked["settings"]
    set_global_state()
    torch.set_num_threads(1)
    structures = ase.io.read(asked["train"], ":")
    names = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    train, test = (graphs(asked[name], names, asked["cutoff"]) for name in ("train", "test"))
    atoms = sum(len(s) for s in structures)
    neighbours = sum(g[AtomicDataDict.EDGE_INDEX_KEY].shape[1] for g in train) / atoms
    scale = float(np.sqrt(np.mean(np.concatenate([s.get_forces().ravel() for s in structures]) ** 2)))
    model = NequIPGNNModel(
        seed=asked["seed"], model_dtype="float32", compile_mode="eager", r_max=asked["cutoff"], type_names=names,
        num_layers=settings["layers"], l_max=settings["l_max"], parity=settings["parity"],
        num_features=settings["features"], avg_num_neighbors=neighbours, per_type_energy_scales=scale,
        per_type_energy_shifts=dict.fromkeys(names, 0.0),
    )  # fmt: skip
    model.train()
    loss = EnergyForceLoss({"total_energy": 1.0, "forces": 1.0}, per_atom_energy=True, type_names=names)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings["lr"], amsgrad=True)
    average = EMAWeights(model, decay=settings["ema"])
    average.update_parameters(model)
    facts = {"version": f"nequip {version('nequip')}", "parameters": sum(p.numel() for p in model.parameters())}
    budget, steps, seen = clock_of(asked, facts), 0, 0
    for indices in shuffled(len(train), settings["batch"], asked["seed"]):
        done = budget.done
        if done >= 1.0:
            break
        set_cosine_rate(optimiser, settings["lr"], done)
        batch = AtomicDataDict.batched_from_list([train[k] for k in indices])
        optimiser.zero_grad(set_to_none=True)
        loss(model(batch.copy()), batch)["weighted_sum"].backward()
        optimiser.step()
        average.update_parameters(model)
        steps, seen = steps + 1, seen + len(indices)
    used = budget.used
    average.swap_parameters(model)
    model.eval()  # torch's evaluation mode; this is no eval of text
    energies: list[float] = []
    forces = []
    for first in range(0, len(test), BATCH):
        found = model(AtomicDataDict.batched_from_list(test[first : first + BATCH]))
        energies += found[AtomicDataDict.TOTAL_ENERGY_KEY].detach().reshape(-1).tolist()
        forces.append(found[AtomicDataDict.FORCE_KEY].detach().numpy())
    answer(asked["output"], energies, forces, facts | {"cpu_seconds": used, "steps": steps, "structures": seen})


if __name__ == "__main__":
    main()
