"""The compiled training pass: values and derivatives of the energy in one graph, checked against eager mode."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfm_pipeline.core.contracts.targets import Level, Origin
from gfm_pipeline.core.contracts.training import Compile, TrainSpec
from gfm_pipeline.models import Batch, Potential, Prediction
from gfm_pipeline.models.geometry import leaves
from gfm_pipeline.models.readout import DEVIATIONS

# Compiling takes 30 to 65 seconds of processor time for a model of 64 channels and 3 layers, and saves 0.4 to 4
# milliseconds per graph of some 300 edges: it pays from 5 to 19 million edges (benchmarks/compiled.py). Trainings to
# convergence are known by their limit, and most end well before it.
PAYS_FROM = 60_000_000  # edges, of all graphs together
CHECK_EVERY = 5_000  # passes
TOLERANCE = 1e-3  # of the norm; single precision gives 1e-6 to 1e-5, the known miscompilation of PyTorch 2.13 5e-2

Function = Callable[[Batch, Tensor, Tensor | None], dict[str, Tensor]]


def compiles(spec: TrainSpec, edges: float) -> bool:
    """Return whether a training compiles its pass, by its total length, so that a resumed training decides equally.

    ``edges`` is the mean number of edges of a graph: what compiling saves grows with it.
    """
    if spec.compile is Compile.AUTO:
        return (spec.schedule_graphs or 0) * edges >= PAYS_FROM
    return spec.compile is Compile.ALWAYS


class TrainingPass:
    """Predicts batches with a graph for the backward pass: compiled, or eager if compiling fails.

    The first batch, and every `CHECK_EVERY`-th batch after it, are computed in both ways, which compares values and
    gradients of all parameters. If compiling fails or results differ, all later batches are eager, after one warning.
    PyTorch recompiles for sizes of 0 and 1. So batches of one atom or no edge are eager, and a single structure is
    computed together with a second one that has no atoms.

    Parameters
    ----------
    model
        The model.
    backend
        Compiler, by PyTorch's name (``inductor``) or as a function; None: no compiling.
    """

    def __init__(self, model: Potential, backend: str | Callable[..., Any] | None = None) -> None:
        self._model, self._passes = model, 0
        origins = {target.origin for target in model.derived_targets()}
        self._moved, self._strained = Origin.GRADIENT in origins, Origin.STRAIN in origins
        self._of_structures = {DEVIATIONS, *(t.name for t in model.spec.targets if t.level is Level.GRAPH)}
        self._function: Function | None = None
        if backend is not None:
            self._function = torch.compile(model.training_values, backend=backend, dynamic=True, fullgraph=True)

    @property
    def compiled(self) -> bool:
        """Whether the next pass is compiled."""
        return self._function is not None

    def __call__(self, batch: Batch) -> Prediction:
        """Predict a batch, with the graph for a backward pass through all values."""
        if self._function is None or min(batch.z.shape[0], batch.edge_src.shape[0]) < 2:
            return self._model(batch, training=True)  # type: ignore[no-any-return]
        if self._passes % CHECK_EVERY == 0:
            self._check(batch)
        self._passes += 1
        return Prediction(self._run(batch)) if self.compiled else self._model(batch, training=True)

    def _run(self, batch: Batch) -> dict[str, Tensor]:
        import torch._dynamo

        if self._function is None:
            raise RuntimeError("nothing was compiled")
        single = batch.natoms.shape[0] == 1
        twice = torch.zeros(2, dtype=torch.int64, device=batch.z.device) if single else None

        def of_structures(values: Tensor) -> Tensor:
            return values if twice is None else values.index_select(0, twice)

        bare = Batch(
            batch.z, batch.pos, batch.edge_src, batch.edge_dst, batch.edge_shift, batch.graph,
            of_structures(batch.natoms), of_structures(batch.dataset),
            None if batch.cell is None else of_structures(batch.cell),
            {name: of_structures(values) for name, values in batch.attributes.items()},
        )  # fmt: skip
        pos, strain = leaves(bare, moved=self._moved, strained=self._strained)
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            found = self._function(bare, pos, strain)
        return {name: v[:1] if single and name in self._of_structures else v for name, v in found.items()}

    def _check(self, batch: Batch) -> None:
        """Switch to eager mode permanently if compiling fails or results differ."""
        expected = self._with_gradients(self._model(batch, training=True).values)
        if not all(bool(value.isfinite().any()) for value in expected.values()):
            return  # the weights are not finite; the trainer detects that
        try:
            found = self._with_gradients(self._run(batch))
        except Exception as error:  # noqa: BLE001 - compilers fail in their own ways, and training goes on
            self._give_up(f"compiling it failed ({_first_line(error)})")
            return
        for name, value in expected.items():
            off = _relative(found[name], value)
            if not off <= TOLERANCE:
                self._give_up(f"its {name} differ by {off:.1e} of their norm when it is compiled")
                return

    def _with_gradients(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return values of targets, and the gradient with respect to parameters of one number computed from them."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        number = sum((v.flatten() * _probe(v)).nan_to_num().sum() for v in values.values())
        parts = torch.autograd.grad(number, parameters, allow_unused=True)  # type: ignore[arg-type]
        gradient = torch.cat([part.flatten() for part in parts if part is not None])
        return {name: value.detach() for name, value in values.items()} | {"gradients": gradient}

    def _give_up(self, why: str) -> None:
        self._function = None
        warnings.warn(
            f"The training pass of {self._model.spec.algorithm} runs without compilation: {why}.", stacklevel=2
        )


def compiled_pass(model: Potential) -> TrainingPass:
    """Return a compiled pass; trainings of the same shape share compiled code through a cache."""
    # PyTorch takes these two from the environment only; what the user or the site has set wins
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache()))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a rank has its own cores only
    from torch._inductor import config  # imported here, since an eager training needs no compiler

    config.cpp_cache_precompile_headers = False  # otherwise these files would be in /tmp
    return TrainingPass(model, "inductor")


def _cache() -> Path:
    """Return a folder that only this user can write to, since its content is executed.

    So it is neither PyTorch's default, a known name in /tmp, nor in the campaign, which may come from elsewhere.
    """
    # the standard variable for caches of a user: a site sets it where nodes cannot write to the home folder
    parent = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(parent, "gfm-pipeline", "compiled")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        private = found.st_uid == os.getuid() and not found.st_mode & 0o022
        if private and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass  # compute nodes cannot write to the home folder
    return Path(tempfile.mkdtemp(prefix="gfm-compiled-"))


def _probe(value: Tensor) -> Tensor:
    """Return fixed, different factors, so that errors in different values do not cancel."""
    return torch.cos(torch.arange(value.numel(), device=value.device, dtype=value.dtype))


def _relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference divided by the norm; values without a cell are NaN in both."""
    if not torch.equal(found.isnan(), expected.isnan()):
        return float("nan")
    found, expected = found.nan_to_num(), expected.nan_to_num()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def _first_line(error: BaseException) -> str:
    """Return the first line of a compiler's message, without PyTorch's wrapping."""
    error = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
