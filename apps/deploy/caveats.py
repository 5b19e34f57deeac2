"""Warnings about structures whose predictions are less certain than their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfm_pipeline.apps.deploy.batches import attribute_of
from gfm_pipeline.apps.train.checkpoint import ModelCard
from gfm_pipeline.core.contracts.properties.attributes import BUILT_IN, known_attributes
from gfm_pipeline.core.errors import ModelError

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


def assumed_attributes(cards: Sequence[ModelCard], dataset: str) -> dict[str, float]:
    """Return default values of the attributes that some member is told of and every training structure states."""
    known = {one.name: one for one in known_attributes(cards[0].spec.attributes)}
    inputs = dict.fromkeys(name for card in cards for name in card.spec.unstated)
    unstated = cards[0].unstated.get(dataset, ())
    return {name: known[name].neutral for name in inputs if name not in unstated}


def check_attributes(atoms: Atoms, cards: Sequence[ModelCard], dataset: str) -> None:
    """Refuse a structure whose attributes are no numbers, or that lacks one for which there is no default value.

    There is none if all training structures state the attribute, and the neutral value is beyond theirs.

    Raises
    ------
    ModelError
        With the key to set.
    """
    card, assumed = cards[0], assumed_attributes(cards, dataset)
    for one in known_attributes(card.spec.attributes):
        value = attribute_of(atoms, one)
        low, high = card.attributes.get(dataset, {}).get(one.name, (one.neutral, one.neutral))
        if value is not None or one.name not in assumed or low <= one.neutral <= high or one in BUILT_IN:
            continue
        held = one.shown(low) if low == high else f"{one.shown(low)} to {one.shown(high)}"
        raise ModelError(
            f"The models are told of the {one.name} of structures, and this one does not say it.",
            f"Set atoms.info[{one.names[0]!r}]; the dataset {dataset} has {held}.",
        )


def unheard_attributes(atoms: Atoms, cards: Sequence[ModelCard], dataset: str) -> Iterator[str]:
    """Yield a sentence per total charge or multiplicity that members do not read, or that training lacks."""
    assumed = assumed_attributes(cards, dataset)
    for one in known_attributes(cards[0].spec.attributes):
        name, value = one.name, attribute_of(atoms, one)
        if value is None and name in assumed:
            yield (
                f"The models are told of the {name} of structures, and this one does not say it: "
                f"{one.shown(assumed[name])} was assumed. Set atoms.info[{one.names[0]!r}]."
            )
        usual = (one.neutral, one.neutral)
        ranges = [card.attributes.get(dataset, {}).get(name, usual) for card in cards if card.attributes]
        if value is None or not ranges:
            continue
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        conditioned = all(name in card.spec.condition_names for card in cards)
        if not low <= value <= high:
            held = one.shown(low) if low == high else f"{one.shown(low)} to {one.shown(high)}"
            yield f"The dataset {dataset} has structures of {name} {held}, and this one has {one.shown(value)}."
        elif low != high and not conditioned:
            yield f"The models were not told of the {name} of structures: {one.shown(value)} is not in their energies."
