"""How fast tables for training are made from stored edges, beside listing the neighbours on the fly.

    OMP_NUM_THREADS=1 python benchmarks/edges.py [--stored 6] [--cutoffs 6 5 4] [--graphs 2048] [--seconds 2]

Structures are built here: molecules of ASE's g2 set and rattled fcc cells. Their edges within ``--stored`` Angstrom are
written as ingest writes them, then tables of 1,024 structures are made again and again for models of several cutoffs:
``listed`` searches the neighbours, ``stored`` reads the edges (from the page cache) and chooses. Both must have as many
edges. Rates are structures per second of processor time; bytes are those of the stored edges, beside 28 per atom in the
dataset.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2
from ase.data import chemical_symbols

from gfm_pipeline.apps.dataset import Columns, GraphTable
from gfm_pipeline.apps.dataset.store.edge_files import StoredEdges, edge_files, edge_layout
from gfm_pipeline.apps.dataset.store.index import IndexWriter
from gfm_pipeline.apps.dataset.store.write import ATOM_BYTES
from gfm_pipeline.apps.train.device import keep_freed_memory
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import CHUNK

TABLE = 1024  # structures of a table, as training makes them
REFERENCE = dict.fromkeys(chemical_symbols, 0.0)
Make = Callable[[Columns, np.ndarray], GraphTable]


def structures(n: int) -> dict[str, Columns]:
    """Return sets of ``n`` structures, fewer of the largest ones."""
    rng = np.random.default_rng(0)
    small = [molecule(name) for name in g2.names if len(molecule(name)) > 1]
    kinds = {
        "molecules, 2-14 atoms": (n, small),
        "fcc, 16 atoms": (n, [bulk("Cu", cubic=True).repeat((2, 2, 1))]),
        "fcc, 108 atoms": (n // 4, [bulk("Cu", cubic=True).repeat(3)]),
    }
    return {title: _columns([atoms for atoms, _ in zip(cycle(kind), range(m), strict=False)], rng)
            for title, (m, kind) in kinds.items()}  # fmt: skip


def _columns(frames: list[Atoms], rng: np.random.Generator) -> Columns:
    pos = np.concatenate([atoms.positions for atoms in frames])
    return Columns.build(
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        pos=pos + rng.normal(scale=0.05, size=pos.shape),
        forces=np.zeros_like(pos),
        energy=np.zeros(len(frames)),
        cell=np.array([atoms.cell.array for atoms in frames]),
        pbc=np.array([atoms.pbc for atoms in frames]),
        natoms=np.array([len(atoms) for atoms in frames]),
    )


def store(folder: Path, columns: Columns, cutoff: float) -> StoredEdges:
    """Write the edges of all pairs closer than ``cutoff`` (Angstrom), and open them."""
    with IndexWriter(folder, {Split.TRAIN: len(columns)}, cutoff) as writer:
        writer.add(Split.TRAIN, columns)
    layout = edge_layout(folder, [Split.TRAIN], CHUNK, cutoff)
    return StoredEdges(folder, Split.TRAIN, len(columns), CHUNK, layout)


def rate(make: Make, parts: list[tuple[Columns, np.ndarray]], seconds: float) -> tuple[float, int]:
    """Return structures per second of processor time over so long, after one pass, and the edges of a pass."""
    edges = sum(len(make(*part).src) for part in parts)
    began, done = time.process_time(), 0
    while not done or time.process_time() - began < seconds:
        for columns, graphs in parts:
            make(columns, graphs)
            done += len(graphs)
    return done / (time.process_time() - began), edges


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stored", type=float, default=6.0, help="cutoff of the stored edges, Angstrom")
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[6.0, 5.0, 4.0], help="of models, Angstrom")
    parser.add_argument("--graphs", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    if max(given.cutoffs) > given.stored:
        parser.error("a model's cutoff is at most that of the stored edges")
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    print(f"edges within {given.stored:g} A are stored; an atom takes {ATOM_BYTES} bytes in the dataset")
    print(
        f"{'structures':24}{'bytes/atom':>11}{'cutoff':>8}{'edges/atom':>12}{'listed/s':>10}{'stored/s':>10}{'ratio':>8}"
    )
    for title, columns in structures(given.graphs).items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            edges = store(folder, columns, given.stored)
            size = sum((folder / file).stat().st_size for file in edge_files(Split.TRAIN)) / len(columns.numbers)
            whole = np.arange(len(columns))
            parts = [(columns.take(g), g) for g in np.split(whole, range(TABLE, len(columns), TABLE))]
            for cutoff in given.cutoffs:
                listed, wanted = rate(
                    lambda c, _, r=cutoff: GraphTable.build(c, r, 0, {"energy": REFERENCE}), parts, given.seconds
                )
                chosen, found = rate(
                    lambda c, g, r=cutoff, e=edges: GraphTable.build(c, r, 0, {"energy": REFERENCE}, e.read(g)),
                    parts,
                    given.seconds,
                )
                if found != wanted:
                    print(f"The edges differ: {found} stored, {wanted} listed")
                per_atom = wanted / len(columns.numbers)
                print(f"{title:24}{size:11.0f}{cutoff:8.1f}{per_atom:12.1f}{listed:10.0f}{chosen:10.0f}", end="")
                print(f"{chosen / listed:8.1f}", flush=True)


if __name__ == "__main__":
    main()
