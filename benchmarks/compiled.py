"""What compiling the training pass costs and saves: eager against `torch.compile`, in turns, in one process.

    python benchmarks/compiled.py [ALGORITHM ...] [--hidden 64] [--layers 3] [--batch 16] [--turns 9]

Random alloys labelled by ASE's effective medium potential; one thread; a pass is energies, forces, loss and the
gradient of all parameters. One row per algorithm: processor time per structure of an eager and a compiled pass
(medians of the turns, on the same batches), their ratio, seconds of processor time that compiling took (compilers
started for it included), the number of structures from which on it has paid, and the largest relative difference of
energies, forces and gradients. The cache of PyTorch is in a folder of this run, so nothing comes from an earlier one.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median

import numpy as np
import torch
from against_hydragnn import ingest

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.train.compiled import TrainingPass
from gfm_pipeline.apps.train.device import keep_freed_memory
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.models import Batch, ModelSpec, Potential, multitask_loss

Results = dict[str, torch.Tensor]


def processor_seconds() -> float:
    """Return the processor time of this process and of those it has waited for."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run(predict: TrainingPass, model: Potential, batch: Batch) -> Results:
    """Return energies, forces and the gradient of the loss."""
    scales = {target.name: torch.ones(1) for target in model.spec.targets}
    found = predict(batch)
    loss = multitask_loss(found, batch, scales, {"energy": 1.0, "forces": 10.0}).total
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    gradient = torch.cat([part.flatten() for part in parts if part is not None])
    return {"energy": found.energy.detach(), "forces": found.forces.detach(), "gradient": gradient}


def difference(found: Results, expected: Results) -> float:
    """Return the largest norm of a difference over the norm."""
    return max(float((found[k] - expected[k]).norm() / expected[k].norm()) for k in expected)


def sizes_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a command line that names algorithms and the sizes of their passes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ALGORITHM", default=["SchNet", "EGNN", "PaiNN", "PNA"])
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=9)
    return parser


def main() -> None:
    """Print the table."""
    asked = sizes_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        with redirect_stdout(sys.stderr):  # its warnings are no part of a table
            dataset = ingest(Path(folder), [])
        table = GraphTable.build(dataset.columns(Split.TRAIN), 5.0, 0, dataset.statistics.references)
        print("| algorithm | eager ms | compiled ms | ratio | compiling, s | pays from | difference |")
        print("|---|---|---|---|---|---|---|")
        for name in asked.names:
            torch._dynamo.reset()
            torch.manual_seed(0)
            sizes = {"hidden": asked.hidden, "layers": asked.layers, "cutoff": 5.0}
            model = Potential(ModelSpec(name, **sizes, avg_neighbours=table.avg_neighbours))
            eager, compiled = TrainingPass(model), TrainingPass(model, "inductor")

            def batch() -> Batch:
                return collate(
                    [table], np.zeros(asked.batch, dtype=np.int64), rng.integers(0, len(table.natoms), asked.batch)
                )

            begin = processor_seconds()
            run(compiled, model, batch())
            cost = processor_seconds() - begin
            times: dict[bool, list[float]] = {False: [], True: []}
            worst = 0.0
            for _ in range(asked.turns):
                drawn, results = batch(), []
                for predict in (eager, compiled):
                    begin = time.process_time()
                    results.append(run(predict, model, drawn))
                    times[predict is compiled].append(time.process_time() - begin)
                worst = max(worst, difference(results[1], results[0]))
            slow, fast = (median(times[which]) / asked.batch for which in (False, True))
            pays = f"{cost / (slow - fast):,.0f}" if slow > fast else "never"
            row = [f"{1e3 * slow:.2f}", f"{1e3 * fast:.2f}", f"{slow / fast:.2f}", f"{cost:.0f}", pays, f"{worst:.0e}"]
            print(f"| {name} | {' | '.join(row)} |" + ("" if compiled.compiled else " fell back to eager"), flush=True)


if __name__ == "__main__":
    main()
