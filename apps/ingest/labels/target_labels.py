"""Finds the keys of labels other than energy and forces, and of declared attributes, by one rule for all readers.

The search uses the target's names in order of preference, with the comparison of `known_keys`; a source may name the
key itself. Shapes only decide between several candidates; the conversion of the record refuses wrong shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.labels.known_keys import (
    KeyKind,
    KeySet,
    LabelKey,
    bare_names,
    kind_of,
    plain,
    shape_of,
)
from gfm_pipeline.core.contracts.targets import Level, Origin, Rank, Target

NO_LABELS = frozenset(("text", "mapping", "list"))  # shapes of values other than numbers


def label_keys(
    keys: KeySet, targets: Sequence[Target], named: Mapping[str, str], categories: Collection[str] = ()
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return (target, key) of the labels of a record, and warnings about alternative keys.

    ``named`` are the keys from the source, and ``categories`` the columns whose values may be texts.
    """
    found: list[tuple[str, str]] = []
    warnings: list[str] = []
    for target in targets:
        if target.name in named:
            found.append((target.name, named[target.name]))
            continue
        texts = frozenset(("text",)) if target.name in categories else frozenset[str]()
        candidates = list(dict.fromkeys(_candidates(keys, target, NO_LABELS - texts)))
        if not candidates:
            continue
        key = next((one for one in candidates if one.shape in texts or _fits(one.shape, target)), candidates[0])
        found.append((target.name, key.name))
        others = [one.name for one in candidates if one is not key and _fits(one.shape, target)]
        if key.kind is KeyKind.STRESS:  # its virial holds the same information
            others = [one.name for one in candidates if one.name in others and one.kind is not KeyKind.VIRIAL]
        if others:
            warnings.append(
                f"{key.name} was read as {target.name}, and {' and '.join(others)} could be meant too: "
                f"say which in the source, labels: {{{target.name}: {key.name}}}."
            )
    return tuple(found), tuple(warnings)


def labels_in(results: Mapping[str, Any], natoms: int, targets: Sequence[Target]) -> dict[str, NDArray[np.float64]]:
    """Return the labels among the results of a calculator, by target, for generators, which have no keys."""
    items = [LabelKey(name, *kind_of(name), shape_of(value, natoms)) for name, value in results.items()]
    found, _ = label_keys(KeySet(tuple(items)), targets, {})
    return {target: np.array(results[key], dtype=np.float64) for target, key in found}


def _candidates(keys: KeySet, target: Target, without: Collection[str]) -> Iterator[LabelKey]:
    """Yield the keys that match a target: by its first name, exactly and then with a qualifier, then by the next.

    ``without`` are the shapes that are no labels.
    """
    for name in target.names:
        word = plain(name)
        yield from (key for key in keys.keys if plain(key.name) == word and key.shape not in without)
        yield from (key for key in keys.keys if word in bare_names(key.name) and key.shape not in without)
    if target.origin is Origin.STRAIN:  # a virial is a stress in another form
        yield from (key for key in keys.keys if key.kind is KeyKind.VIRIAL and key.shape not in without)


def _fits(shape: str, target: Target) -> bool:
    """Return whether a shape as `shape_of` gives it may be that of a target's label; N may be any number."""
    sizes = [] if shape == "number" else shape.strip("[]").split(", ")
    if target.level is Level.ATOM:
        return sizes[:1] == ["N"]
    allowed = {Rank.SCALAR: {"1"}, Rank.VECTOR: {"3", "N"}, Rank.TENSOR: {"3", "6", "9", "N"}}[target.rank]
    return (not sizes and target.rank is Rank.SCALAR) or (bool(sizes) and set(sizes) <= allowed | {"1"})
