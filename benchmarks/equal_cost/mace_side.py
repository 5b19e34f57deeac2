"""Train mace-torch by its own model, loss, optimiser, step and averaged weights; runs under its own interpreter.

As its documentation advises: Adam with amsgrad at 0.01, small batches, average of 0.99, clipping at 10, energies and
forces weighted 1 : 100 and then 1,000 : 100 in a second stage, which is the last quarter. The learning rate falls along
a cosine to the end of the budget, which serves short trainings better than waiting for a plateau.
"""

from __future__ import annotations

import argparse
import os
from importlib.metadata import version
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4 loads tables that torch no longer trusts

import ase.io
import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools
from mace.tools import scripts_utils, torch_geometric
from mace.tools.train import take_step
from torch_ema import ExponentialMovingAverage

from equal_cost.clock import BATCH, answer, clock_of, set_cosine_rate, shuffled, task

OUTPUTS = {"forces": True, "virials": False, "stress": False}


def graphs(file: str, table: Any, cutoff: float) -> list[Any]:
    """Return structures as graphs of mace-torch."""
    keys = data.KeySpecification(info_keys={"energy": "E"}, arrays_keys={"forces": "F"})
    found = []
    for atoms in ase.io.read(file, ":"):
        atoms.info["E"], atoms.arrays["F"] = atoms.get_potential_energy(), atoms.get_forces()
        configuration = data.config_from_atoms(atoms, key_specification=keys)
        found.append(data.AtomicData.from_config(configuration, z_table=table, cutoff=cutoff))
    return found


def build(settings: dict[str, Any], table: Any, train: list[Any], cutoff: float) -> Any:
    """Return the model, with its scales from the training structures."""
    loader = torch_geometric.dataloader.DataLoader(train, batch_size=32)
    energies = np.zeros((1, len(table)))  # the files' energies are without those of elements
    mean, deviation = modules.compute_mean_rms_energy_forces(loader, energies)
    return modules.ScaleShiftMACE(
        r_max=cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=settings["max_ell"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2, num_elements=len(table), hidden_irreps=o3.Irreps(settings["hidden_irreps"]),
        MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.functional.silu, atomic_energies=energies[0],
        avg_num_neighbors=modules.compute_avg_num_neighbors(loader), atomic_numbers=table.zs,
        correlation=settings["correlation"], radial_MLP=[64, 64, 64], radial_type="bessel",
        atomic_inter_scale=deviation, atomic_inter_shift=mean,
    )  # fmt: skip


def main() -> None:
    """Train until the budget ends, then predict the test structures with averaged weights."""
    asked = task()
    settings = asked["settings"]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(asked["seed"])
    every = ase.io.read(asked["train"], ":")
    table = tools.get_atomic_number_table_from_zs(int(z) for atoms in every for z in atoms.numbers)
    train, test = (graphs(asked[name], table, asked["cutoff"]) for name in ("train", "test"))
    model = build(settings, table, train, asked["cutoff"])
    options = argparse.Namespace(
        lr=settings["lr"], weight_decay=5e-7, beta=0.9, amsgrad=True, optimizer="adam", freeze=None,
        lr_params_factors="{}",
    )  # fmt: skip
    groups = scripts_utils.get_params_options(options, model)
    optimiser = scripts_utils.get_optimizer(options, groups)
    average = ExponentialMovingAverage(model.parameters(), decay=0.99)
    stages = [modules.WeightedEnergyForcesLoss(energy, 100.0) for energy in (1.0, 1000.0)]
    facts = {"version": f"mace-torch {version('mace-torch')}", "parameters": sum(p.numel() for p in model.parameters())}
    budget, steps, seen = clock_of(asked, facts), 0, 0
    for indices in shuffled(len(train), settings["batch"], asked["seed"]):
        done = budget.done
        if done >= 1.0:
            break
        set_cosine_rate(optimiser, settings["lr"], done)
        batch = torch_geometric.batch.Batch.from_data_list([train[k] for k in indices])
        take_step(model, stages[done >= 0.75], batch, optimiser, average, OUTPUTS, 10.0, torch.device("cpu"))
        steps, seen = steps + 1, seen + len(indices)
    used = budget.used
    energies: list[float] = []
    forces = []
    with average.average_parameters():
        for first in range(0, len(test), BATCH):
            batch = torch_geometric.batch.Batch.from_data_list(test[first : first + BATCH])
            found = model(batch.to_dict(), compute_force=True)
            energies += found["energy"].detach().tolist()
            forces.append(found["forces"].detach().numpy())
    answer(asked["output"], energies, forces, facts | {"cpu_seconds": used, "steps": steps, "structures": seen})


if __name__ == "__main__":
    main()
