"""Chooses the groups for the splits of a source, tests the splits, and warns about them.

Named groups are kept whenever they can form three splits. Training has every element if the groups allow it. Blocks of
consecutive records replace too few groups, and default groups that miss the fractions or the elements. The report and
the preview mention this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.given_splits import GivenSplits, given, shared_split_sentence
from gfm_pipeline.apps.ingest.assembly.groups import Groups, symbols_of
from gfm_pipeline.apps.ingest.assembly.splits import SPLITS, GroupSplits, check_fractions, split_groups, split_rest
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.errors import DataError

BLOCKS = 20  # smallest number of blocks that replace groups
EACH = 2  # smallest number of blocks in the smaller of validation and test
OFF = 2.0  # factor between actual and requested records that gives a warning
FEW = 10  # groups; with fewer, each group is a large part of its split
_NAMES = {Split.TRAIN: "training", Split.VALIDATION: "validation", Split.TEST: "test"}
_CHOOSE = (
    "Set group_key to what names a trajectory or family, to @block:N where neighbouring records belong together, or to "
    "@record where none do."
)


@dataclass(frozen=True)
class SplitRequest:
    """Settings of the splits of one source.

    Attributes
    ----------
    validation, test
        Shares of the records.
    seed, name
        Seed and name of the source; the name is for messages.
    default
        Whether the groups are the reader's own, without a choice by the user.
    given
        Given splits, or None.
    together
        Whether a hash of the group deals, so that a group of several sources is in the same split in all of them.
    """

    validation: float
    test: float
    seed: int
    name: str
    default: bool
    given: GivenSplits | None = None
    together: bool = False

    def shares(self) -> NDArray[np.float64]:
        """Return the shares of the three splits, in the order of `SPLITS`."""
        return np.array([1.0 - self.validation - self.test, self.validation, self.test])


@dataclass(frozen=True)
class SplitChoice:
    """The split of every group, the block that replaces named groups (None: they are kept), and warnings."""

    splits: GroupSplits
    block: int | None
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class _SplitAttempt:
    """Groups without isolated atoms, and the split of each [K]."""

    groups: Groups
    which: NDArray[np.uint8]
    moved: tuple[str, ...]  # elements that caused moves of groups to training

    def records(self) -> NDArray[np.int64]:
        """Return the records of the three splits [3]."""
        return np.bincount(self.which, weights=self.groups.sizes, minlength=3).astype(np.int64)

    def missing(self, extra: NDArray[np.uint64]) -> tuple[str, ...]:
        """Return the elements that training, with ``extra`` [2], lacks."""
        return symbols_of(_any(self.groups.elements) & ~(_any(self.groups.elements[self.which == 0]) | extra))

    def off(self, shares: NDArray[np.float64]) -> float:
        """Return the factor between actual and requested records of validation or test, tolerating one record."""
        got, expected = self.records()[1:].astype(float), shares[1:] * self.groups.sizes.sum()
        near = np.clip(expected, got - 1.0, got + 1.0)
        return float(np.exp(np.abs(np.log(np.maximum(near, 1e-9) / expected))).max())


def _any(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.bitwise_or.reduce(words, axis=0) if len(words) else np.zeros(2, np.uint64)


def choose_splits(named: Groups | None, regroup: Callable[[int], Groups | None], request: SplitRequest) -> SplitChoice:
    """Choose the groups and deal them.

    Parameters
    ----------
    named
        The named groups of the records; None: too many to list, so a hash deals them.
    regroup
        Returns groups that are blocks of a number of consecutive records.
    request
        The requested splits.

    Raises
    ------
    DataError
        With fractions that leave a split empty, too few records for three splits, or isolated atoms alone.
    """
    check_fractions(request.validation, request.test, request.name)
    if request.given is not None:
        return _keep_given(named, regroup, request, request.given)
    if request.together:
        return _split_together(named, request)
    if named is None:
        return SplitChoice(GroupSplits(None, None, request.validation, request.test, request.seed), None, ())
    groups, lone = named.split_off_lone()
    if len(lone) and not len(groups):
        raise DataError(
            f"Source {request.name} holds isolated atoms alone, which are references for other records.",
            "Give their file to the source whose energies they belong to.",
        )
    extra = _any(lone.elements)
    attempt = _split(groups, request, extra) if len(groups) >= len(SPLITS) else None
    why = _why_not(groups, attempt, request, extra)
    if why is not None:
        block = max(1, int(groups.sizes.sum()) // _blocks(request))
        blocks = regroup(block)
        others = None if blocks is None else blocks.split_off_lone()[0]
        if others is None or (attempt is None and len(others) < len(SPLITS)):
            split_groups(groups.sizes, request.validation, request.test, request.seed, request.name)  # raises
        elif len(others) >= len(SPLITS):
            instead = _split(others, request, extra)
            if attempt is None or _better(instead, attempt, request, extra):
                sentences = (_of_blocks(why, block, len(others)), *_sentences(instead, request, extra))
                return SplitChoice(_splits(instead, lone, request), block, sentences)
    if attempt is None:
        raise DataError(f"Source {request.name} has too few records for three splits.", "Give more.")
    few = (_of_few(attempt),) if request.default and len(groups) < FEW else ()
    return SplitChoice(_splits(attempt, lone, request), None, (*_sentences(attempt, request, extra), *few))


def _split_together(named: Groups | None, request: SplitRequest) -> SplitChoice:
    """Deal groups by a hash of their names or structures and the seed, equal in every source."""
    hashed = GroupSplits(None, None, request.validation, request.test, request.seed)
    if named is None:
        return SplitChoice(hashed, None, ())
    groups, lone = named.split_off_lone()
    attempt = _SplitAttempt(groups, hashed.split(groups.ids), ())
    counts = attempt.records()
    for split, n in zip(SPLITS, counts.tolist(), strict=True):
        if not n:
            raise DataError(
                f"Source {request.name}: by split_across_sources: together a hash deals groups to splits, and none of "
                f"its {len(groups)} groups fell to {_NAMES[split]}.",
                "Choose another seed, larger fractions or a finer group_key.",
            )
    return SplitChoice(_splits(attempt, lone, request), None, _sentences(attempt, request, _any(lone.elements)))


def _keep_given(
    named: Groups | None, regroup: Callable[[int], Groups | None], request: SplitRequest, what: GivenSplits
) -> SplitChoice:
    """Keep the given splits; deal validation or test out of the rest if it is not given."""
    absent = {s: share for s, share in zip(SPLITS, request.shares(), strict=True) if s not in what.found}
    for split in what.named & set(absent):
        raise DataError(
            f"Source {request.name} has no usable record of those given to {_NAMES[split]}.",
            "Correct their file, or leave it out of splits: a share of the others is then dealt to it.",
        )
    if named is None:  # too many to list: a hash deals them
        shares = absent.get(Split.VALIDATION, 0.0), absent.get(Split.TEST, 0.0)
        return SplitChoice(GroupSplits(None, None, *shares, request.seed, given=True), None, ())
    groups, lone = named.split_off_lone()
    had, block, sentences = given(groups.ids), None, list[str]()
    absent.pop(Split.TRAIN, None)
    which = np.maximum(had, 0).astype(np.uint8)
    if absent:
        rest = np.flatnonzero(had <= 0)
        if len(rest) <= len(absent):
            block = max(1, int(groups.sizes[rest].sum()) // _blocks(request))
            blocks = regroup(block)
            groups = groups if blocks is None else blocks.split_off_lone()[0]
            had = given(groups.ids)
            which, rest = np.maximum(had, 0).astype(np.uint8), np.flatnonzero(had <= 0)
        if len(rest) <= len(absent):
            raise DataError(
                f"Source {request.name} has too few records that were not given to validation or test.", "Give more."
            )
        total = int(groups.sizes.sum())
        which[rest] = split_rest(groups.sizes[rest], {s: share * total for s, share in absent.items()}, request.seed)
        sentences.append(_of_absent(tuple(absent), block))
    attempt = _SplitAttempt(groups, which, ())
    sentences += [
        *shared_split_sentence(groups.ids, groups.sizes, which, what),
        *_of_missing(attempt, _any(lone.elements)),
    ]
    return SplitChoice(replace(_splits(attempt, lone, request), given=True), block, tuple(sentences))


def _of_absent(absent: tuple[Split, ...], block: int | None) -> str:
    names = " and ".join(_NAMES[split] for split in absent)
    what = "whole groups" if block is None else _blocks_of(block)
    return f"Nothing was given to {names}: {what} of the other records are dealt to it, by its share."


def _blocks_of(block: int) -> str:
    return "single records" if block == 1 else f"blocks of {block} consecutive records"


def _blocks(request: SplitRequest) -> int:
    return max(BLOCKS, math.ceil(EACH / min(request.validation, request.test)))


def _splits(dealt: _SplitAttempt, lone: Groups, request: SplitRequest) -> GroupSplits:
    ids = np.concatenate([dealt.groups.ids, lone.ids])
    which = np.concatenate([dealt.which, np.zeros(len(lone), np.uint8)])
    order = np.argsort(ids)
    return GroupSplits(ids[order], which[order], request.validation, request.test, request.seed)


def _split(groups: Groups, request: SplitRequest, extra: NDArray[np.uint64]) -> _SplitAttempt:
    """Deal groups to splits; the only groups with an element go to training, the smallest first."""

    def dealt(pinned: frozenset[int]) -> NDArray[np.uint8]:
        return split_groups(groups.sizes, request.validation, request.test, request.seed, request.name, pinned)

    pinned, moved = frozenset[int](), list[str]()
    best = latest = _SplitAttempt(groups, dealt(pinned), ())
    while (missing := latest.missing(extra)) and len(groups) - len(pinned) >= len(SPLITS):
        with_it = [g for g in range(len(groups)) if g not in pinned and missing[0] in symbols_of(groups.elements[g])]
        pinned |= {min(with_it, key=lambda g: int(groups.sizes[g]))}
        moved.append(missing[0])
        latest = _SplitAttempt(groups, dealt(pinned), tuple(moved))
        if len(np.unique(latest.which)) < len(SPLITS):
            break
        if len(latest.missing(extra)) < len(best.missing(extra)):
            best = latest
    return best


def _sizes(dealt: _SplitAttempt, request: SplitRequest) -> str:
    got, total = dealt.records().tolist(), int(dealt.groups.sizes.sum())
    requested = "/".join(f"{100 * share:.3g}" for share in request.shares())
    shares = "/".join(f"{100 * n / total:.3g}" for n in got)
    return f"{'/'.join(map(str, got))} records ({shares} %), and {requested} % were asked for"


def _why_not(
    groups: Groups, dealt: _SplitAttempt | None, request: SplitRequest, extra: NDArray[np.uint64]
) -> str | None:
    """Return why blocks should replace the groups, or None."""
    if dealt is None:
        many = "All records are of one group" if len(groups) == 1 else f"The records are of {len(groups)} groups"
        return f"{many}, and training, validation and test need one each"
    if not request.default:
        return None
    if dealt.off(request.shares()) > OFF:
        return f"{len(groups)} whole groups make splits of {_sizes(dealt, request)}"
    if missing := dealt.missing(extra):
        return f"{len(groups)} whole groups leave training without {', '.join(missing)}"
    return None


def _better(instead: _SplitAttempt, dealt: _SplitAttempt, request: SplitRequest, extra: NDArray[np.uint64]) -> bool:
    """Return whether blocks miss fewer elements than groups, or miss no more and are nearer to the fractions."""
    new, old = (len(some.missing(extra)) for some in (instead, dealt))
    shares = request.shares()
    return new < old or (new == old and instead.off(shares) < dealt.off(shares) - 1e-9)


def _of_few(dealt: _SplitAttempt) -> str:
    counts = np.bincount(dealt.which, minlength=3).tolist()
    return (
        f"The groups are few: of {len(dealt.which)}, validation holds {counts[1]} and test {counts[2]}, and training "
        f"has no record of these. {_CHOOSE}"
    )


def _of_blocks(why: str, block: int, number: int) -> str:
    return (
        f"{why}: {number} {_blocks_of(block)} are dealt to the splits instead. Records of one trajectory or "
        f"composition are then in all splits, and errors on validation and test are those of interpolation. {_CHOOSE}"
    )


def _of_missing(dealt: _SplitAttempt, extra: NDArray[np.uint64]) -> tuple[str, ...]:
    missing = dealt.missing(extra)
    if not missing:
        return ()
    return (
        f"Training has no record with {', '.join(missing)}, which validation or test has: errors there are of "
        "elements that no model has seen. Set group_key to a finer one, or leave those records out.",
    )


def _sentences(dealt: _SplitAttempt, request: SplitRequest, extra: NDArray[np.uint64]) -> tuple[str, ...]:
    sentences = []
    if dealt.moved:
        sentences.append(
            f"So that training has every element, groups with {', '.join(dealt.moved)} were taken out of validation "
            "and test, which tell nothing of groups that have them alone."
        )
    sentences += _of_missing(dealt, extra)
    if dealt.off(request.shares()) > OFF:
        sentences.append(f"Whole groups make splits of {_sizes(dealt, request)}: a finer group_key comes nearer.")
    return tuple(sentences)
