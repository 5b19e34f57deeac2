"""Physics that every conservative model must obey, in float64: lattices, images, fragments, repulsion, dynamics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from brute import Structure, batch
from model_cases import CUTOFF, conservative, crystal, make, molecule, predict

from gfm_pipeline.apps.dataset import neighbour_list
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import Batch, ForceHead, Potential


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def listed(*structures: Atoms) -> Batch:
    """Return a batch with the product's own neighbour list, which knows which directions are periodic."""
    parts, first = [], 0
    for atoms in structures:
        src, dst, image = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
        parts.append((src + first, dst + first, image @ atoms.cell.array))
        first += len(atoms)
    natoms = torch.tensor([len(atoms) for atoms in structures])
    src, dst, shift = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return Batch(
        z=torch.from_numpy(np.concatenate([atoms.numbers for atoms in structures])).long(),
        pos=torch.from_numpy(np.concatenate([atoms.positions for atoms in structures])),
        edge_src=src.long(),
        edge_dst=dst.long(),
        edge_shift=shift.double(),
        graph=torch.arange(len(structures)).repeat_interleave(natoms),
        natoms=natoms,
        dataset=torch.zeros(len(structures), dtype=torch.int64),
    )


def evaluated(model: Potential, *structures: Atoms) -> tuple[np.ndarray, np.ndarray]:
    out = model(listed(*structures))
    return out.energy.numpy(), out.forces.numpy()


@conservative
@pytest.mark.parametrize("directions", [(0,), (0, 2), (0, 1, 2)], ids=["chain", "layer", "crystal"])
def test_repeated_cells_add_in_one_two_and_three_dimensions(name, directions):
    model, rng = make(name), np.random.default_rng(1)
    pbc = [axis in directions for axis in range(3)]
    cell = 3.3 * np.eye(3) + rng.normal(scale=0.3, size=(3, 3))  # smaller than the cutoff
    atoms = Atoms("CuAl", np.array([[0.1, 0.2, 0.0], [1.6, 1.5, 1.7]]), cell=cell, pbc=pbc)
    repeats = [2 if periodic else 1 for periodic in pbc]
    energy, force = evaluated(model, atoms, atoms.repeat(repeats))
    count = int(np.prod(repeats))
    np.testing.assert_allclose(energy[1], count * energy[0], rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(force[2:], np.tile(force[:2], (count, 1)), atol=1e-9)
    open_ended = atoms.copy()
    open_ended.pbc = False
    assert abs(evaluated(model, open_ended)[0][0] - energy[0]) > 1e-3


@conservative
def test_one_atom_in_a_cell_much_smaller_than_the_cutoff(name):
    model = make(name, avg_neighbours=50.0)
    atoms = Atoms("Cu", cell=[[0, 1.3, 1.3], [1.3, 0, 1.3], [1.3, 1.3, 0]], pbc=True)
    energy, force = evaluated(model, atoms, atoms.repeat((2, 1, 2)))
    np.testing.assert_allclose(energy[1], 4 * energy[0], rtol=1e-11)
    np.testing.assert_allclose(force, 0.0, atol=1e-9 * max(1.0, abs(energy[0])))


@conservative
def test_skewed_cells_and_atoms_far_outside_are_the_same_crystal(name):
    model, s = make(name), crystal(4)
    atoms = Atoms(s.z, s.pos, cell=s.cell, pbc=True)
    skewed, far = atoms.copy(), atoms.copy()
    skewed.set_cell(np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]]) @ s.cell)  # the same lattice, by a matrix of volume 1
    far.positions += np.random.default_rng(2).integers(-60, 60, (len(s.z), 3)) @ s.cell
    energy, force = evaluated(model, atoms, skewed, far)
    np.testing.assert_allclose(energy[1:], energy[0], rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(force[4:], np.tile(force[:4], (2, 1)), atol=1e-8)


@conservative
def test_fragments_add(name):
    model, a, b = make(name), molecule(1, 5), molecule(2, 4)
    both = replace(a, z=np.append(a.z, b.z), pos=np.vstack([a.pos, b.pos + np.array([40.0, 3.0, 0.0])]))
    energy, force = predict(model, a, b, both)
    np.testing.assert_allclose(energy[2], energy[0] + energy[1], atol=1e-10)
    np.testing.assert_allclose(force[9:], force[:9], atol=1e-9)


@conservative
def test_with_repulsion_two_atoms_pushed_together_are_repelled(name):
    for numbers in ((1, 1), (1, 8), (79, 29)):
        model = make(name, repulsion=True)
        with torch.no_grad():  # steeper than any training makes it where there are no data
            model.node_energy.weight2.mul_(100.0)
        reach = float(covalent_radii[list(numbers)].sum())
        distances = reach * np.geomspace(0.02, 0.49, 12)
        pairs = [Structure(np.array(numbers), np.array([[0.0, 0, 0], [0, 0, d]])) for d in distances]
        energy, force = predict(model, *pairs)
        assert (np.diff(energy) < 0).all()
        assert (force.reshape(-1, 2, 3)[:, 1, 2] > 0).all()
    far = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 1.5]]))
    plain = make(name)
    np.testing.assert_array_equal(predict(make(name, repulsion=True), far)[0], predict(plain, far)[0])


def test_repulsion_joins_the_network_without_a_kink():
    model, h = make("PaiNN", repulsion=True), 1e-4
    reach = 2 * covalent_radii[8]
    for place in (0.5 * reach, 0.75 * reach, reach):
        distances = place + h * np.arange(-20, 21)
        pairs = [Structure(np.array([8, 8]), np.array([[0.0, 0, 0], [0, 0, d]])) for d in distances]
        energy, force = predict(model, *pairs)
        slope = np.diff(force.reshape(-1, 2, 3)[:, 1, 2]) / h
        assert np.abs(np.diff(slope)).max() < 0.02 * np.abs(slope).max() + 0.05  # a kink in a force would be one jump
        middle = (energy[2:] - energy[:-2]) / (2 * h)
        np.testing.assert_allclose(-middle, force.reshape(-1, 2, 3)[1:-1, 1, 2], atol=1e-4)


def test_repulsion_has_the_strength_of_the_paper_and_no_direct_forces():
    """Of two hydrogen atoms at 0.1 Angstrom: 144 eV, screened by 0.68; of bare charges it would be all."""
    model, plain = make("SchNet", repulsion=True), make("SchNet")
    pair = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 0.1]]))
    x = 0.1 * 2 / 0.4685
    screening = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x) + 0.28022 * np.exp(-0.4029 * x)
    screening += 0.02817 * np.exp(-0.20162 * x)
    inside = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 0.625 * 2 * covalent_radii[1]]]))
    added = predict(model, pair)[0][0] - predict(plain, inside)[0][0]  # the network sees one length below
    assert added == pytest.approx(143.99645 * screening, rel=2e-3)  # the envelope takes a little
    with pytest.raises(ModelError, match="Repulsion needs conservative forces"):
        make("SchNet", ForceHead.DIRECT, repulsion=True)


def trajectory(model: Potential, start: Structure, step: float, steps: int) -> np.ndarray:
    """Return the total energy (eV) at every step of velocity Verlet from rest; masses of 20 u, ``step`` in fs."""
    inverse = 1.0 / (20.0 * 103.642697)  # eV fs^2 / Angstrom^2 to u
    pos, velocity = start.pos.copy(), np.zeros_like(start.pos)
    (energy,), force = predict(model, start)
    found = []
    for _ in range(steps):
        velocity += 0.5 * step * inverse * force
        pos = pos + step * velocity
        (energy,), force = predict(model, replace(start, pos=pos))
        velocity += 0.5 * step * inverse * force
        found.append(energy + 0.5 * float((velocity**2).sum()) / inverse)
    return np.array(found)


@conservative
def test_the_error_of_dynamics_falls_with_the_square_of_the_step(name):
    """Only for forces that are the gradient of the energy, along the whole way, is the constant the same energy."""
    model, start = make(name), molecule(5, 4)
    with torch.no_grad():
        model.node_energy.weight2.mul_(0.2)
    coarse, fine = (trajectory(model, start, step, int(24 / step)) for step in (0.8, 0.4))
    rest = predict(model, start)[0][0]
    ratio = np.abs(coarse - rest).max() / np.abs(fine - rest).max()
    assert 3.0 < ratio < 5.5


@conservative
def test_structures_that_are_none_are_refused_by_name_and_never_answered(name):
    model = make(name, elements=(1, 6, 8, 79))
    good = molecule(3, 4)
    predict(model, good)

    def refused(words: str, *structures: Structure, **changes) -> None:
        with pytest.raises(ModelError, match=words):
            model(replace(batch(structures, CUTOFF), **changes))

    for value in (np.nan, np.inf):
        pos = good.pos.copy()
        pos[2, 1] = value
        data = batch([good, good], CUTOFF)
        with pytest.raises(ModelError, match="The position of atom 2 of structure 1 is not finite"):
            model(replace(data, pos=torch.from_numpy(np.vstack([good.pos, pos]))))
    twice = replace(good, z=np.append(good.z, 8), pos=np.vstack([good.pos, good.pos[1]]))
    refused("Atom (1|4) and atom (1|4) are at one place", twice)
    refused("not trained on Fe, Cu. It knows H, C, O, Au", replace(good, z=np.array([26, 29, 1, 1])))
    refused("not trained on atomic number 0, atomic number 119", good, z=torch.tensor([0, 119, 1, 1]))
    shift = torch.full((batch([good], CUTOFF).edge_src.numel(), 3), torch.nan, dtype=torch.float64)
    refused("The shift of edge 0 is not finite", good, edge_shift=shift)
