"""BP files by HydraGNN's rules, independent of the product's own code: samples read and written one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import adios2.bindings as adios
import numpy as np

from gfm_pipeline.apps.dataset import Columns


def random_columns(rng: np.random.Generator, sizes: list[int]) -> Columns:
    n_graphs, n_atoms = len(sizes), sum(sizes)
    return Columns.build(
        numbers=rng.choice([1, 6, 8, 29], n_atoms),
        pos=rng.uniform(0, 4, (n_atoms, 3)),
        forces=rng.normal(size=(n_atoms, 3)),
        energy=-1e4 + rng.normal(size=n_graphs),
        cell=rng.normal(scale=0.2, size=(n_graphs, 3, 3)) + 4.0 * np.eye(3),
        pbc=rng.random((n_graphs, 3)) < 0.5,
        natoms=np.array(sizes),
        group=rng.integers(0, 5, n_graphs),
        origin=rng.permutation(n_graphs),
    )


def independent_sample(path: Path, label: str, key: str, index: int) -> np.ndarray[Any, Any]:
    """Read one sample as HydraGNN does: a selection from variable_dim, variable_count and variable_offset."""
    context = adios.ADIOS()  # must outlive the IO it declares
    io = context.DeclareIO("independent")
    engine = io.Open(str(path), adios.Mode.ReadRandomAccess)
    attributes, kinds = io.AvailableAttributes(), {"float": "f4", "double": "f8", "int64_t": "i8", "int32_t": "i4"}
    name = f"{label}/{key}"
    axis = int(io.InquireAttribute(f"{name}/variable_dim").Data()[0])
    assert attributes[f"{name}/variable_dim"]["Type"] == "int64_t"
    extent = []
    for suffix in ("variable_offset", "variable_count"):
        variable = io.InquireVariable(f"{name}/{suffix}")
        values = np.empty(variable.Shape(), dtype=np.int64)
        engine.Get(variable, values, adios.Mode.Sync)
        extent.append(int(values[index]))
    variable = io.InquireVariable(name)
    start, count = [0] * len(variable.Shape()), list(variable.Shape())
    start[axis], count[axis] = extent
    variable.SetSelection([start, count])
    out = np.empty(count, dtype=kinds[variable.Type()])
    engine.Get(variable, out, adios.Mode.Sync)
    engine.Close()
    return out


def write_like_hydragnn(path: Path, samples: list[dict[str, np.ndarray[Any, Any]]], label: str = "trainset") -> None:
    """Write samples as HydraGNN's AdiosWriter does: the axis is the one that varies, else 0."""
    context = adios.ADIOS()  # must outlive the IO it declares
    io = context.DeclareIO("foreign")
    engine = io.Open(str(path), adios.Mode.Write)
    engine.BeginStep()
    io.DefineAttribute(f"{label}/ndata", np.array([len(samples)], dtype=np.int64))
    io.DefineAttribute(f"{label}/keys", list(samples[0]))
    for key in samples[0]:
        shapes = np.array([s[key].shape for s in samples])
        varying = [d for d in range(shapes.shape[1]) if len(set(shapes[:, d])) > 1]
        axis = varying[0] if varying else 0
        joined = np.ascontiguousarray(np.concatenate([s[key] for s in samples], axis=axis))
        count = np.ascontiguousarray(shapes[:, axis], dtype=np.int64)
        for name, array in (
            (key, joined),
            (f"{key}/variable_count", count),
            (f"{key}/variable_offset", np.cumsum(count) - count),
        ):
            shape = list(array.shape)
            variable = io.DefineVariable(f"{label}/{name}", array, shape, [0] * len(shape), shape)
            engine.Put(variable, array, adios.Mode.Sync)
        io.DefineAttribute(f"{label}/{key}/variable_dim", np.array([axis], dtype=np.int64))
    engine.EndStep()
    engine.Close()
