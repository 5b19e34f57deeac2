"""HydraGNN's half of ``benchmarks/against_hydragnn.py``: its own reader, loaders, model and loop, on one CPU rank.

Reads settings as JSON on the first line of standard input and prints a line of JSON an epoch. If it is ``paced``, it
waits for a line of standard input before each epoch. It keeps freed memory as our trainings do. Three things are put in
place of what a workstation does not have: ADIOS2's wheel takes no communicator, and torch_scatter and pyg_lib have no
wheel for every torch. HydraGNN's SchNet searches neighbours in each layer by the latter, and without periodic images.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import adios2
import torch

from gfm_pipeline.apps.train.device import keep_freed_memory

KEYS = (
    "pbc", "edge_attr", "energy_per_atom", "forces", "pos", "edge_index", "cell", "edge_shifts", "y",
    "chemical_composition", "natoms", "x", "energy", "graph_attr", "atomic_numbers",
)  # fmt: skip


class SerialStream(adios2.Stream):  # type: ignore[misc]
    """A stream that leaves the communicator of its one rank out."""

    def __init__(self, path: str, mode: str, _comm: Any = None) -> None:
        super().__init__(path, mode)


def provide_scatter() -> None:
    """Give torch_geometric's scatter the name of torch_scatter, where that is not installed."""
    try:
        import_module("torch_scatter")
    except ImportError:
        module = ModuleType("torch_scatter")
        module.__dict__["scatter"] = import_module("torch_geometric.utils").scatter
        sys.modules["torch_scatter"] = module


def provide_radius_graph() -> None:
    """Give SchNet of torch_geometric pairs by all distances, where pyg_lib is not installed; for small batches."""
    try:
        import_module("pyg_lib")
    except ImportError:
        import_module("torch_geometric.nn.models.schnet").__dict__["radius_graph"] = radius_graph


def radius_graph(x: torch.Tensor, r: float, batch: torch.Tensor, **_: Any) -> torch.Tensor:
    """Return the pairs of atoms of one structure within a distance [2, E]."""
    near = torch.cdist(x.detach(), x.detach()) < r
    near &= batch[:, None] == batch[None]
    return near.fill_diagonal_(False).nonzero().t()


def configuration(checkout: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the published foundation models with the sizes asked for."""
    published = checkout / "examples" / "multidataset_hpo_sc26" / "gfm_mlip.json"
    config: dict[str, Any] = json.loads(published.read_text())
    network = config["NeuralNetwork"]
    architecture, training, variables = (network[k] for k in ("Architecture", "Training", "Variables_of_interest"))
    architecture |= {
        "mpnn_type": asked["algorithm"], "hidden_dim": asked["hidden"], "num_conv_layers": asked["layers"],
        "radius": asked["cutoff"], "max_neighbours": asked["max_neighbours"], "use_graph_attr_conditioning": False,
        "num_filters": asked["hidden"],
        "global_attn_engine": None,
    }  # fmt: skip
    head = architecture["output_heads"]["graph"]
    head |= {"num_headlayers": 2, "dim_headlayers": [asked["hidden"]] * 2}
    training |= {"num_epoch": asked["epochs"], "batch_size": asked["batch"], "precision": "fp32"}
    training |= {"EarlyStopping": False, "Checkpoint": False}
    variables |= {"graph_feature_dims": [1], "node_feature_dims": [1, 3, 3]}
    return config


def timed(module: Any, tell: Callable[[dict[str, Any]], None], paced: bool) -> None:
    """Tell of each epoch the processor time of training, and the mean errors of validation.

    A ``paced`` training tells before the validation of each epoch, and then only the time and the size of that epoch.
    """
    train, validate = module.train, module.validate
    spent = {"seconds": 0.0}

    def paced_train(loader: Any, model: Any, *arguments: Any, **named: Any) -> Any:
        if not sys.stdin.readline():
            sys.exit(0)
        started = time.process_time()
        found = train(loader, model, *arguments, **named)
        seconds = time.process_time() - started
        parameters = sum(p.numel() for p in model.parameters())
        tell({"seconds": seconds, "structures": len(loader.dataset), "parameters": parameters})
        return found

    def timed_train(*arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        found = train(*arguments, **named)
        spent["seconds"] += time.process_time() - started
        return found

    def told_validate(*arguments: Any, **named: Any) -> Any:
        loss, tasks = validate(*arguments, **named)
        _energy, per_atom, forces = (float(value) for value in tasks)
        tell({"seconds": spent["seconds"], "energy_mae": per_atom, "force_mae": forces})
        return loss, tasks

    module.train = paced_train if paced else timed_train
    module.validate = validate if paced else told_validate


def main() -> None:
    """Train."""
    asked = json.loads(sys.stdin.readline())
    keep_freed_memory()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what HydraGNN prints is not for the parent
    logging.disable(logging.CRITICAL)
    adios2.Stream = SerialStream
    provide_scatter()
    provide_radius_graph()
    torch.set_num_threads(1)
    torch.manual_seed(asked["seed"])
    hydragnn = import_module("hydragnn")
    distributed = import_module("hydragnn.utils.distributed")
    reader = import_module("hydragnn.utils.datasets.adiosdataset").AdiosDataset
    update = import_module("hydragnn.utils.input_config_parsing.config_utils").update_config
    timed(
        sys.modules["hydragnn.train.train_validate_test"],
        lambda line: print(json.dumps(line), file=out, flush=True),
        asked.get("paced", False),
    )
    distributed.setup_ddp()
    config = configuration(Path(asked["checkout"]), asked)
    network = config["NeuralNetwork"]
    comm = import_module("mpi4py.MPI").COMM_WORLD
    sets = [
        reader(asked["file"], label, comm, var_config=network["Variables_of_interest"], keys=list(KEYS), preload=True)
        for label in ("trainset", "valset", "testset")
    ]
    loaders = hydragnn.preprocess.create_dataloaders(*sets, asked["batch"], test_sampler_shuffle=False)
    network = update(config, *loaders)["NeuralNetwork"]
    model = distributed.get_distributed_model(hydragnn.models.create_model_config(network, 0), 0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=asked["learning_rate"])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode="min", factor=0.5, patience=5, min_lr=1e-5)
    hydragnn.train.train_validate_test(
        model, optimiser, *loaders, None, plateau, network, "benchmark", 0, create_plots=False,
        compute_grad_energy=True, precision="fp32",
    )  # fmt: skip


if __name__ == "__main__":
    main()
