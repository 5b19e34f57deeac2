"""Generator of alloy cells labelled with effective medium theory.

Binary fcc alloys of random pair, composition, ordering and cell shape; the lattice parameter follows Vegard's law
(L. Vegard, Z. Phys. 5, 17 (1921)). Labels: K. W. Jacobsen, P. Stoltze, J. K. Norskov, Surf. Sci. 366, 394 (1996),
as implemented in ASE. A parent cell with its distorted children is one group of the splits; it depends on the
seed and its own number only, not on the shards.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.emt import EMT
from ase.data import atomic_numbers, reference_states

from gfm_pipeline.apps.ingest.labels.target_labels import labels_in
from gfm_pipeline.apps.ingest.records import Record, unreadable
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.options import EmtAlloysOptions
from gfm_pipeline.core.contracts.targets import STRESS, Target

METHOD = "EMT"


class EmtAlloys:
    """The ``emt-alloys`` source."""

    def converted(self, source: SourceSettings) -> tuple[str, ...]:  # noqa: ARG002
        """Return no conversions: ASE returns eV and Angstrom."""
        return ()

    def count(self, source: SourceSettings) -> int | None:
        """Return the requested number of cells."""
        options = EmtAlloysOptions.model_validate(source.options)
        return options.parents * options.children

    def read(self, source: SourceSettings, shard: int, n_shards: int, seed: int) -> Iterator[Record | BadRecord]:
        """Make every ``n_shards``-th parent and yield its children."""
        options = EmtAlloysOptions.model_validate(source.options)
        for number in range(shard, options.parents, n_shards):
            rng = np.random.default_rng([seed, number])
            parent = random_parent(options, rng)
            for child in range(options.children):
                atoms = distorted(parent, options, rng)
                index = number * options.children + child
                try:
                    yield _label(atoms, f"{number}/{parent.get_chemical_formula()}", index, source.targets)
                except Exception as error:  # noqa: BLE001 - it costs the record
                    yield unreadable(source, METHOD, index, error)


def random_parent(options: EmtAlloysOptions, rng: np.random.Generator) -> Atoms:
    """Return an undistorted fcc cell with two metals on random sites."""
    size = int(rng.choice(options.sizes))
    metals = [str(metal) for metal in rng.choice(options.metals, size=2, replace=False)]
    n_second = int(rng.integers(1, size))
    share = n_second / size
    first, second = (float(reference_states[atomic_numbers[metal]]["a"]) for metal in metals)
    primitive = bulk("Cu", "fcc", a=(1 - share) * first + share * second)
    atoms: Atoms = make_supercell(primitive, _random_hermite(size, rng))
    atoms.symbols = [metals[0]] * (size - n_second) + [metals[1]] * n_second
    atoms.numbers = rng.permutation(atoms.numbers)
    atoms.set_cell(atoms.cell.minkowski_reduce()[0])  # the same lattice with the shortest vectors
    atoms.wrap()
    return atoms


def _random_hermite(determinant: int, rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return a random Hermite normal form [3, 3]: every superlattice of that size has exactly one.

    G. L. W. Hart, R. W. Forcade, Phys. Rev. B 77, 224115 (2008), equation 1.
    """
    diagonals = [
        (a, b, determinant // (a * b))
        for a in range(1, determinant + 1)
        for b in range(1, determinant // a + 1)
        if determinant % (a * b) == 0
    ]
    a, b, c = diagonals[int(rng.integers(len(diagonals)))]
    below = (int(rng.integers(b)), int(rng.integers(c)), int(rng.integers(c)))
    return np.array([[a, 0, 0], [below[0], b, 0], [below[1], below[2], c]], dtype=np.int64)


def distorted(parent: Atoms, options: EmtAlloysOptions, rng: np.random.Generator) -> Atoms:
    """Return a strained, sheared and rattled copy."""
    volume = 1.0 + rng.uniform(-options.volume_strain, options.volume_strain)
    strain = rng.normal(scale=options.shear, size=(3, 3))
    deformation = np.cbrt(volume) * np.eye(3) + 0.5 * (strain + strain.T)
    atoms: Atoms = parent.copy()
    atoms.set_cell(parent.cell.array @ deformation, scale_atoms=True)
    low, high = sorted(options.rattle)
    atoms.positions += rng.normal(scale=rng.uniform(low, high), size=(len(atoms), 3))
    return atoms


def _label(atoms: Atoms, group: str, index: int, targets: tuple[Target, ...]) -> Record:
    calculator = EMT()
    further = [STRESS.name] if STRESS.name in {name for target in targets for name in target.names} else []
    calculator.calculate(atoms, properties=["energy", "forces", *further])
    results = {name: calculator.results[name] for name in further}
    return Record(
        numbers=atoms.numbers,
        pos=atoms.positions,
        forces=np.asarray(calculator.results["forces"], dtype=np.float64),
        energy=float(calculator.results["energy"]),
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        group=group,
        file=METHOD,
        file_index=0,
        index=index,
        labels=labels_in(results, len(atoms), targets),
    )
