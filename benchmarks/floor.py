"""How far the training pass is from what the processor allows: its FLOP, its memory traffic, and the achieved share.

    python benchmarks/floor.py [ALGORITHM ...] [--hidden 64] [--layers 3] [--batch 16] [--turns 9] [--compiled]

A pass is energies, forces, loss and the gradient of all parameters, for random alloys labelled by ASE's effective
medium potential, on one thread. Counted are the operators that PyTorch runs, the FLOP of its matrix products, and the
bytes of all operands and results (*moved*). If every other operator were fused into the matrix products, gathers and
scatters next to it, only the operands and results of these three would move (*fused*). The *floor* is the larger of two
times: of the products at the measured rate of a large product, and of the fused bytes at that of a large copy. Both can
be beaten in caches. *Share* is floor over measured time; times are processor times, medians of turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from against_hydragnn import ingest
from compiled import run, sizes_parser
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.train.compiled import TrainingPass
from gfm_pipeline.apps.train.device import keep_freed_memory
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.models import ModelSpec, Potential

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
MOVES = ("index_select", "index_add", "index_add_", "scatter_add", "gather", "index", "index_put")
SIZE = 1024  # of the square matrices whose product shows the rate


class Traffic(TorchDispatchMode):
    """Counts the operators that move data, and their bytes: of all, and of products, gathers and scatters."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.moved, self.fused = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it, unless its result is a view."""
        found = func(*args, **(kwargs or {}))
        given, results = (
            [leaf for leaf in tree_leaves(some) if isinstance(leaf, torch.Tensor)] for some in ((args, kwargs), found)
        )
        places = {tensor.untyped_storage().data_ptr() for tensor in given}
        name = func.overloadpacket.__name__
        if name.endswith("_") or any(tensor.untyped_storage().data_ptr() not in places for tensor in results):
            size = sum(tensor.numel() * tensor.element_size() for tensor in [*given, *results])
            self.operators += 1
            self.moved += size
            self.fused += size if name in PRODUCTS + MOVES else 0
        return found


def seconds(work: Callable[[], object], turns: int) -> float:
    """Return the median processor time of some work."""
    found = []
    for _ in range(turns + 1):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return median(found[1:])


def rates() -> tuple[float, float]:
    """Return FLOP per second of a large product, and bytes per second of a large copy (read and written)."""
    a = torch.rand(SIZE, SIZE)
    source = torch.rand(64 * 2**20)
    target = torch.empty_like(source)
    product = seconds(lambda: torch.mm(a, a), 9)
    copy = seconds(lambda: target.copy_(source), 9)
    return 2.0 * SIZE**3 / product, 2.0 * source.numel() * source.element_size() / copy


def rows(asked: argparse.Namespace, table: GraphTable) -> Iterator[str]:
    """Yield the rows of the table."""
    flop_rate, byte_rate = rates()
    yield f"One thread: {flop_rate / 1e9:.0f} GFLOP/s of a product, {byte_rate / 1e9:.1f} GB/s of a copy.\n"
    yield "| algorithm | pass | ms | operators | GFLOP | GB moved | GB fused | floor, ms | share |"
    yield "|---|---|---|---|---|---|---|---|---|"
    rng = np.random.default_rng(0)
    batch = collate([table], np.zeros(asked.batch, dtype=np.int64), rng.integers(0, len(table.natoms), asked.batch))
    for name in asked.names:
        torch._dynamo.reset()
        torch.manual_seed(0)
        sizes = {"hidden": asked.hidden, "layers": asked.layers, "cutoff": 5.0}
        model = Potential(ModelSpec(name, **sizes, avg_neighbours=table.avg_neighbours))
        eager = TrainingPass(model)
        with FlopCounterMode(display=False) as flops:
            run(eager, model, batch)
        with Traffic() as traffic:
            run(eager, model, batch)
        total = flops.get_total_flops()
        floor = max(total / flop_rate, traffic.fused / byte_rate)
        passes = {"eager": eager} | ({"compiled": TrainingPass(model, "inductor")} if asked.compiled else {})
        for kind, predict in passes.items():
            taken = seconds(partial(run, predict, model, batch), asked.turns)
            counted = (
                f"{traffic.operators:,} | {total / 1e9:.2f} | {traffic.moved / 1e9:.2f} | {traffic.fused / 1e9:.2f}"
            )
            counted = counted if kind == "eager" else " | | | "
            yield f"| {name} | {kind} | {1e3 * taken:.1f} | {counted} | {1e3 * floor:.1f} | {floor / taken:.0%} |"


def main() -> None:
    """Print the table."""
    parser = sizes_parser(__doc__)
    parser.add_argument("--compiled", action="store_true", help="the compiled pass, too: about a minute each")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        with redirect_stdout(sys.stderr):  # its warnings are no part of a table
            dataset = ingest(Path(folder), [])
        table = GraphTable.build(dataset.columns(Split.TRAIN), 5.0, 0, dataset.statistics.references)
        for line in rows(asked, table):
            print(line, flush=True)


if __name__ == "__main__":
    main()
