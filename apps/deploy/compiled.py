"""An ensemble as one compiled package that C++ runs without Python (AOTInductor).

Forces and stress are derivatives of the energy, which `torch.export` does not take: a trace of energy and derivatives
together (`make_fx`, with symbolic numbers of atoms and edges) turns them into plain operators, and that is exported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor

from gfm_pipeline.apps.deploy.batches import batch_of
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.contracts.deploy import PACKAGE_SUFFIX
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES
from gfm_pipeline.core.errors import ConfigError, ModelError
from gfm_pipeline.core.publish import check_output, storage_errors
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import MAX_Z

INPUTS = ("z", "pos", "edge_src", "edge_dst", "edge_shift", "cell")
OUTPUTS = ("energy", "forces", "virial", "energy_std", "forces_std")
_ATOMS, _EDGES = 1 << 24, 1 << 30  # more than a device holds


def compile_package(predictor: Predictor, output: Path, *, overwrite: bool = False) -> Path:
    """Compile an ensemble for the device of a predictor, and write the package.

    Its inputs are atomic numbers [N] (int64), positions [N, 3] (Angstrom), the ends of the edges [E] and their shifts
    [E, 3] (both directions of each pair within ``cutoff``, as `Batch`), and lattice vectors as rows [3, 3], zero along
    directions that are not periodic. Its outputs are the energy [1] (eV, of the references too), forces [N, 3], the
    derivative of the energy by a strain [3, 3] (eV: stress times volume), and the spread of energy and forces. Edges
    longer than a member's cutoff have no effect. Structures are not checked: elements that the dataset does not hold
    give NaN. On a CPU, the package uses one thread. The metadata of the package (text) are its ``cutoff`` (Angstrom),
    ``dtype``, ``dataset`` and ``elements``.

    Raises
    ------
    ConfigError
        When ``output`` has another suffix, or is there already.
    ModelError
        For direct forces, models that were told of charge, or without energies and forces; when the compiler fails.
    """
    if output.suffix != PACKAGE_SUFFIX:
        raise ConfigError(f"{output} does not end in {PACKAGE_SUFFIX}.", f"Name it {output.stem}{PACKAGE_SUFFIX}.")
    check_output(output, overwrite=overwrite)
    program = export_program(predictor)
    partial = output.with_name(f".{output.stem}.partial{PACKAGE_SUFFIX}")
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's compiler calls what torch itself deprecates
                # With several threads, inductor cannot add to the one strain of one structure (PyTorch 2.13).
                configs = {"aot_inductor.metadata": _metadata(predictor), "cpp.threads": 1}
                torch._inductor.aoti_compile_and_package(program, package_path=str(partial), inductor_configs=configs)
            partial.replace(output)
        except (torch._inductor.exc.InductorError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(":. ")
            raise ModelError(f"The compiler of PyTorch failed: {reason}.", "Export it as a .gfm file.") from error
        finally:
            partial.unlink(missing_ok=True)
    return output


def export_program(predictor: Predictor) -> torch.export.ExportedProgram:
    """Return the ensemble as a program of `torch.export`, for any number of atoms and edges above one.

    Raises
    ------
    ModelError
        As `compile_package`.
    """
    example = example_inputs(predictor)
    traced = _traced(ensemble_function(predictor), example)
    atoms, edges = torch.export.Dim("atoms", min=2, max=_ATOMS), torch.export.Dim("edges", min=2, max=_EDGES)
    shapes = ({0: atoms}, {0: atoms}, {0: edges}, {0: edges}, {0: edges}, None)
    return torch.export.export(traced, example, dynamic_shapes=shapes)


def ensemble_function(predictor: Predictor) -> Callable[..., tuple[Tensor, ...]]:
    """Return the ensemble as a function of plain tensors (`INPUTS` to `OUTPUTS`), for one structure.

    Raises
    ------
    ModelError
        As `compile_package`.
    """
    members = predictor.members
    specs = [member.potential.spec for member in members]
    if not predictor.conservative or any(ENERGY not in spec.targets or FORCES not in spec.targets for spec in specs):
        raise ModelError("Only energies with conservative forces compile.", "Export it as a .gfm file.")
    if names := next((spec.condition_names for spec in specs if spec.condition_names), ()):
        raise ModelError(f"Models that were told of {' and '.join(names)} do not compile.", "Export it as a .gfm file.")
    if len({spec.cutoff for spec in specs}) > 1:
        raise ModelError(
            "The members have several cutoffs, and one list of edges has one.", "Export it as a .gfm file."
        )
    weights = [member.weight for member in members]
    freedom = 1.0 - sum(weight * weight for weight in weights)
    references = _references(predictor)

    def mean(values: list[Tensor]) -> Tensor:
        return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)

    def spread(values: list[Tensor], middle: Tensor) -> Tensor:
        if freedom <= 0.0 or len(values) < 2:
            return torch.zeros_like(middle)
        return (mean([(value - middle).square() for value in values]) / freedom).sqrt()

    def compute(
        z: Tensor, pos: Tensor, edge_src: Tensor, edge_dst: Tensor, edge_shift: Tensor, cell: Tensor
    ) -> tuple[Tensor, ...]:
        energies, forces, virials = [], [], []
        for member in members:
            head, count = torch.full_like(z[:1], member.head), torch.full_like(z[:1], z.shape[0])
            batch = Batch(z, pos, edge_src, edge_dst, edge_shift, torch.zeros_like(z), count, head, cell.unsqueeze(0))
            moved, strain = pos.detach().requires_grad_(), pos.new_zeros(1, 3, 3).requires_grad_()
            energy = member.potential.training_values(batch, moved, strain)[ENERGY.name]
            by_pos, by_strain = torch.autograd.grad(energy.sum(), [moved, strain])
            energies.append(energy.detach())
            forces.append(-by_pos)
            virials.append(by_strain[0])
        energy, force, virial = mean(energies), mean(forces), mean(virials)
        total = energy + references.index_select(0, z).sum()
        outputs = total, force, virial, spread(energies, energy), spread(forces, force)
        return tuple(output.detach() for output in outputs)

    return compute


def example_inputs(predictor: Predictor) -> tuple[Tensor, ...]:
    """Return inputs of `ensemble_function`: a small crystal of an element that the ensemble knows."""
    atoms = Atoms(next(iter(predictor.energy_references)), cell=[2.6, 2.7, 2.8], pbc=True).repeat(2)
    return package_inputs(predictor, atoms)


def package_inputs(predictor: Predictor, atoms: Atoms) -> tuple[Tensor, ...]:
    """Return the inputs of a package (`INPUTS`) for one structure, on the device and in the dtype of a predictor.

    Raises
    ------
    ModelError
        As `Predictor.check`.
    """
    predictor.check(atoms)
    like = next(predictor.members[0].potential.parameters())
    batch = batch_of([atoms], predictor.members[0].potential.spec.cutoff, like.dtype, like.device)
    cell = like.new_tensor(atoms.cell.array * atoms.pbc[:, None])
    return batch.z, batch.pos, batch.edge_src, batch.edge_dst, batch.edge_shift, cell


def _metadata(predictor: Predictor) -> dict[str, str]:
    potential = predictor.members[0].potential
    return {
        "cutoff": repr(potential.spec.cutoff),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "dataset": predictor.dataset,
        "elements": " ".join(sorted(predictor.energy_references)),
    }


def _references(predictor: Predictor) -> Tensor:
    """Return the reference energy of each atomic number [MAX_Z + 1]; NaN of elements that are not known."""
    like = next(predictor.members[0].potential.parameters())
    table = torch.full((MAX_Z + 1,), torch.nan, dtype=like.dtype, device=like.device)
    for symbol, reference in predictor.energy_references.items():
        table[atomic_numbers[symbol]] = reference
    return table


def _traced(function: Callable[..., Any], example: tuple[Tensor, ...]) -> torch.fx.GraphModule:
    """Return a function, derivatives and all, as operators, for any number of atoms and edges."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
