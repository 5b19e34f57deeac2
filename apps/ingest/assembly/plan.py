"""Decisions about a source before records are placed: quarantine, splits, isolated atoms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.given_splits import GivenSplits, repeated_split_sentence
from gfm_pipeline.apps.ingest.assembly.groups import Grouping, Groups, count_groups, survey_groups
from gfm_pipeline.apps.ingest.assembly.opened_source import OpenedSource
from gfm_pipeline.apps.ingest.assembly.split_rules import SplitChoice, SplitRequest, choose_splits
from gfm_pipeline.apps.ingest.assembly.splits import SPLITS, GroupSplits
from gfm_pipeline.apps.ingest.checks.lone_atoms import (
    FARTHEST_OFF,
    LONE_ID,
    foreign_energies_sentence,
    found_in,
    isolated_atoms_sentence,
)
from gfm_pipeline.apps.ingest.checks.record_scan import (
    Fit,
    Marks,
    PartRows,
    all_parts,
    count_repeated_across,
    mark_duplicates,
    mark_other_units,
    mark_outside,
    merge_last,
    read_energies,
)
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.summary.references import ReferenceEnergies
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AcrossSources, SourceSettings, Split
from gfm_pipeline.core.contracts.readers import describe


@dataclass(frozen=True)
class AssemblyPlan:
    """The decisions about a source.

    Attributes
    ----------
    parts, marks
        The records, and marks of kept ones.
    grouping, splits
        The group of a record, and the split of a group.
    present
        Atomic numbers of all records.
    graphs, atoms, groups
        Numbers per split.
    isolated
        Maps an element to the energy of its isolated atom (eV), given by the user or found among the records.
    warnings, notes
        Sentences for people.
    """

    parts: list[PartRows]
    marks: Marks
    grouping: Grouping
    splits: GroupSplits
    present: NDArray[np.int64]
    graphs: dict[Split, int]
    atoms: dict[Split, int]
    groups: dict[Split, int]
    isolated: dict[str, float]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def has_default_groups(source: SourceSettings) -> bool:
    """Return whether the groups are the default ones of a reader of files, without a choice by the user."""
    return source.group_key is None and not describe(source.reader).makes_data


def named_by_records(source: SourceSettings) -> bool:
    """Return whether a key of the records names the groups, so that two sources may share names of groups."""
    key = getattr(get_reader(source.reader), "default_group", None) if source.group_key is None else source.group_key
    return key is not None and not key.startswith("@")


def split_together(source: SourceSettings, across: AcrossSources) -> bool:
    """Return whether a hash deals the groups; groups of files and blocks belong to one source only."""
    own = source.group_key is not None and source.group_key.startswith(("@file", "@block"))
    return across is AcrossSources.TOGETHER and not own and GivenSplits.of(source) is None


def make_plan(source: OpenedSource, scratch: Path, task: Task) -> AssemblyPlan:
    """Decide which records are set aside, and what the splits are.

    Raises
    ------
    DataError
        When too many records are set aside, or three splits cannot be formed.
    """
    spec = source.spec
    parts = all_parts(source.folders, source.indexes)
    marks = Marks(scratch / "marks", sum(part.n for part in parts))
    if spec.source.duplicates != "keep":
        mark_duplicates(parts, spec.source, marks, source.set_aside)
        source.check()
    what = GivenSplits.of(spec.source)
    repeated: tuple[str, ...] = ()
    if what is not None:
        repeated = repeated_split_sentence(count_repeated_across(parts), kept=spec.source.duplicates == "keep")
    lone = 0
    if source.learned is not None:
        lone = source.learned.mark_unusable(parts, marks, source)
        source.check()
    present = np.array(sorted({z for index in source.indexes for z in index.elements}), dtype=np.int64)
    task.check()
    if mark_other_units(parts, spec.source, marks, present, spec.seed, source.set_aside):
        source.check()
    task.check()
    together = source.learned is None and split_together(spec.source, spec.across)
    grouping = replace(
        Grouping.of_files(merge_last(source.indexes), given=what is not None),
        structures=together and not named_by_records(spec.source),
    )
    default = has_default_groups(spec.source)
    what = None if what is None else what.found_in(_groups(parts, marks, grouping))
    request = SplitRequest(spec.validation, spec.test, spec.seed, spec.source.name, default, what, together)

    def regroup(block: int) -> Groups | None:
        return survey_groups(parts, marks, replace(grouping, block=block))

    if source.learned is not None:
        choice = SplitChoice(GroupSplits(None, None, 0.0, 1.0, spec.seed), None, ())
    else:
        choice = choose_splits(survey_groups(parts, marks, grouping), regroup, request)
    grouping = replace(grouping, block=choice.block)
    given, found = dict(spec.source.isolated_energies or {}), _isolated(parts, marks)
    graphs, atoms, fit = _survey(parts, marks, grouping, choice.splits, present, task)
    elements = tuple(chemical_symbols[z] for z in present.tolist())
    if source.learned is None:
        isolated, references, foreign = reference_energies(fit, elements, given, found)
    else:
        isolated, references, foreign = {}, source.learned.references(), ()
    if spec.source.energy_window is not None:
        energies = np.array([references.energies.get(symbol, 0.0) for symbol in elements])
        if mark_outside(parts, spec.source, marks, present, energies, source.set_aside):
            source.check()
            graphs, atoms, _ = _survey(parts, marks, grouping, choice.splits, present, task)
    counted = count_groups(parts, marks, grouping, choice.splits.split)
    if source.learned is not None:  # a test set has no other split
        graphs, atoms = ({Split.TEST: numbers[Split.TEST]} for numbers in (graphs, atoms))
    groups = dict(zip(SPLITS, counted, strict=True))
    warnings = (*repeated, *choice.sentences, *foreign)
    notes = () if foreign else isolated_atoms_sentence({s: e for s, e in found.items() if s not in given})
    if lone:
        notes = (f"{lone} isolated atoms are references and no structures to predict: they were left out.",)
    return AssemblyPlan(
        parts, marks, grouping, choice.splits, present, graphs, atoms, groups, isolated, warnings, notes
    )


def _isolated(parts: list[PartRows], marks: Marks) -> dict[str, float]:
    """Return the energies of isolated atoms among the kept records, by symbol."""
    found: dict[str, float] = {}
    for part in parts:
        group, numbers, natoms, energy, charge = part.columns("group_id", "numbers", "natoms", "energy", "charge")
        group_of = np.where(marks.kept(part), group, np.uint64(0))
        for symbol, value in found_in(group_of, numbers, natoms, energy, charge).items():
            found[symbol] = min(value, found.get(symbol, np.inf))
    return found


def reference_energies(
    fit: Fit, elements: tuple[str, ...], given: dict[str, float], found: dict[str, float]
) -> tuple[dict[str, float], ReferenceEnergies, tuple[str, ...]]:
    """Return the isolated energies to use, the references, and warnings on unused isolated atoms."""
    isolated = {**found, **given}
    references = fit.solve(elements, isolated)
    off = fit.off(references)
    if set(found) <= set(given) or abs(off) <= FARTHEST_OFF:
        return isolated, references, ()
    return given, fit.solve(elements, given), foreign_energies_sentence(found, off)


def _survey(
    parts: list[PartRows],
    marks: Marks,
    grouping: Grouping,
    splits: GroupSplits,
    present: NDArray[np.int64],
    task: Task,
) -> tuple[dict[Split, int], dict[Split, int], Fit]:
    """Count structures and atoms of every split, and collect data for the references, without isolated atoms."""
    fit = Fit(present)
    graphs, atoms = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for (counts, energy), group in zip(
        read_energies(parts, marks, present), _groups(parts, marks, grouping), strict=True
    ):
        task.check()
        where = splits.split(group)
        learned = (where == SPLITS.index(Split.TRAIN)) & (group != np.uint64(LONE_ID))
        fit.add(counts[learned], energy[learned])
        graphs += np.bincount(where, minlength=3)
        atoms += np.bincount(where, weights=counts.sum(axis=1), minlength=3).astype(np.int64)
    return dict(zip(SPLITS, graphs.tolist(), strict=True)), dict(zip(SPLITS, atoms.tolist(), strict=True)), fit


def _groups(parts: list[PartRows], marks: Marks, grouping: Grouping) -> Iterator[NDArray[np.uint64]]:
    """Yield the groups of the kept records, part by part."""
    for part in parts:
        yield grouping.of(part)[marks.kept(part)]
