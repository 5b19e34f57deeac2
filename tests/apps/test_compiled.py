"""The compiled training pass: the numbers of the eager one, and the eager one where it fails or differs."""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from brute import Structure, batch

from gfm_pipeline.apps.train.compiled import PAYS_FROM, TrainingPass, compiled_pass, compiles
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, STRESS
from gfm_pipeline.core.contracts.training import Compile, ModelSettings, OptimiserSettings, TrainSpec
from gfm_pipeline.models import ModelSpec, Potential
from gfm_pipeline.models.readout import DEVIATIONS

CUTOFF = 3.0


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model_of(name: str = "SchNet", hidden: int = 8, shallow: int = 1) -> Potential:
    torch.manual_seed(0)
    spec = ModelSpec(name, hidden=hidden, layers=1, cutoff=CUTOFF, avg_neighbours=5.0, shallow_ensemble=shallow)
    return Potential(replace(spec, targets=(ENERGY, FORCES, STRESS)))


def cells(count: int, seed: int = 0, atoms: int = 3):
    rng = np.random.default_rng(seed)
    cell = 3.2 * np.eye(3)
    found = batch(
        [Structure(rng.choice([1, 8], atoms), rng.uniform(0, 3.2, (atoms, 3)), cell, 0) for _ in range(count)], CUTOFF
    )
    return replace(
        found, pos=found.pos.float(), edge_shift=found.edge_shift.float(), labels={},
        cell=torch.tensor(cell, dtype=torch.float32).expand(count, 3, 3).contiguous(),
    )  # fmt: skip


def gradient_of(model: Potential, values) -> torch.Tensor:
    total = sum((value**2).sum() for value in values.values())
    parts = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


def compare(model: Potential, run: TrainingPass) -> None:
    for count, seed in ((4, 0), (3, 1), (5, 2)):
        structures = cells(count, seed)
        expected, found = model(structures, training=True).values, run(structures).values
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(gradient_of(model, found), gradient_of(model, expected), rtol=2e-3, atol=2e-4)


OTHERS = ["EGNN", "PaiNN", "PNA", "PNAPlus", "PNAEq", "DimeNet++", "MACE", "NequIP", "GAT", "MFC"]


@pytest.mark.parametrize("name", ["SchNet", *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def test_the_whole_pass_is_one_graph_of_any_size_with_the_same_numbers(name):
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    model = model_of(name)
    run = TrainingPass(model, count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(model, run)
    assert run.compiled
    assert len(graphs) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["SchNet", "EGNN", "PaiNN", "PNA"])
def test_inductor_gives_the_same_numbers(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = model_of(name, 16)
    run = TrainingPass(model, "inductor")
    compare(model, run)
    assert run.compiled


def test_one_structure_alone_uses_the_graph_of_several():
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    model = model_of()
    run = TrainingPass(model, count)
    for seed, number in ((0, 1), (1, 3), (2, 1)):  # sizes that differ from one another: equal ones share a symbol
        structures = cells(number, seed, atoms=5 + seed)
        expected, found = model(structures, training=True).values, run(structures).values
        assert found["energy"].shape == (number,)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(gradient_of(model, found), gradient_of(model, expected), rtol=2e-3, atol=2e-4)
    assert run.compiled
    assert len(graphs) == 1


def test_the_deviations_of_a_shallow_ensemble_are_compiled_too_and_of_one_structure_alone():
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    model = model_of(shallow=4)
    run = TrainingPass(model, count)
    for seed, number in ((0, 1), (1, 5)):  # sizes that differ from one another, as above
        structures = cells(number, seed, atoms=6 + seed)
        expected, found = model(structures, training=True).values, run(structures).values
        assert found[DEVIATIONS].shape == (number, 4)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(gradient_of(model, found), gradient_of(model, expected), rtol=2e-3, atol=2e-4)
    assert run.compiled
    assert len(graphs) == 1


def test_one_atom_is_not_compiled():
    def refuse(module, inputs):
        raise RuntimeError("nothing is to be compiled")

    run = TrainingPass(model_of(), refuse)
    assert run(cells(1, atoms=1)).values["energy"].shape == (1,)
    assert run.compiled


def test_a_compiler_that_fails_leaves_the_pass_eager_and_says_so():
    def fail(module, inputs):
        raise RuntimeError("no C++ compiler is here\nand more")

    model = model_of()
    run = TrainingPass(model, fail)
    with pytest.warns(UserWarning, match="SchNet runs without compilation: compiling it failed .*no C\\+\\+ compiler"):
        run(cells(3))
    assert not run.compiled
    compare(model, run)


def test_a_pass_that_gives_other_numbers_is_left():
    def wrong(module, inputs):
        return lambda *given: [value * 1.05 for value in module.forward(*given)]

    model = model_of()
    run = TrainingPass(model, wrong)
    with pytest.warns(UserWarning, match="runs without compilation: its .* differ by"):
        run(cells(3))
    compare(model, run)


@pytest.mark.parametrize(
    ("when", "graphs", "edges", "expected"),
    [
        (Compile.NEVER, PAYS_FROM, 300.0, False),
        (Compile.AUTO, PAYS_FROM // 300, 300.0, True),
        (Compile.AUTO, PAYS_FROM // 300 - 1, 300.0, False),
        (Compile.AUTO, PAYS_FROM // 300 - 1, 6000.0, True),
        (Compile.ALWAYS, 1, 300.0, True),
    ],
)
def test_the_edges_of_a_whole_training_decide(when, graphs, edges, expected):
    settings = {"model": ModelSettings("SchNet"), "optimiser": OptimiserSettings(), "seed": 0, "output": "out"}
    spec = TrainSpec(task="t", datasets=(), **settings, budget_graphs=graphs, compile=when)
    assert compiles(spec, edges) is expected


@pytest.mark.parametrize("writable", [True, False])
def test_compiled_code_is_kept_where_only_its_user_writes(monkeypatch, tmp_path: Path, writable):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    (tmp_path / "file").touch()
    home = tmp_path / ("home" if writable else "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert compiled_pass(model_of()).compiled
    folder = Path(os.environ.pop("TORCHINDUCTOR_CACHE_DIR"))
    assert (folder == home / "gfm-pipeline" / "compiled") is writable
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert tmp_path in folder.parents
    if writable:  # others may write there: what lies in it is not run
        folder.chmod(0o777)
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        compiled_pass(model_of())
        assert Path(os.environ.pop("TORCHINDUCTOR_CACHE_DIR")) != folder
