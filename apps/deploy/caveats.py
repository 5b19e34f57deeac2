"""Warnings about structures whose predictions are less certain than their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfm_pipeline.apps.deploy.batches import attribute_of
from gfm_pipeline.apps.train.checkpoint import ModelCard
from gfm_pipeline.core.contracts.targets import ATTRIBUTES
from gfm_pipeline.models.conditioning import NEUTRAL

_DETERMINED = 1e-6  # share of a composition in undetermined directions that is due to rounding


def guessed_reference(
    atoms: Atoms, elements: Sequence[str], undetermined: NDArray[np.float64], dataset: str
) -> str | None:
    """Return the warning that the reference energy of this composition is a guess, or None.

    ``undetermined`` [D, S] are directions in the space of compositions, over ``elements``.
    """
    counted = np.array([np.count_nonzero(atoms.numbers == atomic_numbers[s]) for s in elements])
    share = float(np.linalg.norm(undetermined @ counted)) / float(np.linalg.norm(counted))
    if share < _DETERMINED:
        return None
    return (
        f"The dataset {dataset} does not determine the reference energy of {atoms.get_chemical_formula()}, "
        "whose composition is not a combination of the known ones: the total energy may be several eV off, and "
        "has no interval."
    )


def assumed_attributes(card: ModelCard, dataset: str) -> dict[str, float]:
    """Return default values of the attributes that every training structure states."""
    unstated = card.unstated.get(dataset, ())
    return {name: NEUTRAL[name] for name in card.spec.unstated if name not in unstated}


def unheard_attributes(atoms: Atoms, cards: Sequence[ModelCard], dataset: str) -> Iterator[str]:
    """Yield a sentence per total charge or multiplicity that members do not read, or that training lacks."""
    assumed = assumed_attributes(cards[0], dataset)
    for name in ATTRIBUTES:
        value = attribute_of(atoms, name)
        if value is None and name in assumed:
            yield (
                f"The models are told of the {name} of structures, and this one does not say it: "
                f"{assumed[name]:g} was assumed. Set atoms.info[{name!r}]."
            )
        usual = (NEUTRAL[name], NEUTRAL[name])
        ranges = [card.attributes.get(dataset, {}).get(name, usual) for card in cards if card.attributes]
        if value is None or not ranges:
            continue
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        conditioned = all(name in card.spec.condition_on.attributes for card in cards)
        if not low <= value <= high:
            held = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            yield f"The dataset {dataset} has structures of {name} {held}, and this one has {value:g}."
        elif low != high and not conditioned:
            yield f"The models were not told of the {name} of structures: {value:g} is not in their energies."
