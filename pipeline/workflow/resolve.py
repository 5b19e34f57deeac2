"""Converts a checked workflow to the sources that ingest reads: expands globs, finds files, checks options."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gfm_pipeline.core.contracts.data import ForceSign, SourceSettings, Split, test_set_name
from gfm_pipeline.core.contracts.properties.attributes import BUILT_IN, known_attributes
from gfm_pipeline.core.contracts.readers import describe, reader_names
from gfm_pipeline.core.contracts.sources import RecordedFile, block_size, check_units, force_label, validate_options
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.explain import suggestion
from gfm_pipeline.core.special_files import special_within
from gfm_pipeline.workflow.attributes import values_of
from gfm_pipeline.workflow.gone_files import recorded_as, with_gone
from gfm_pipeline.workflow.index_lists import index_lists
from gfm_pipeline.workflow.load import LoadedWorkflow
from gfm_pipeline.workflow.source_files import named
from gfm_pipeline.workflow.source_schema import Selected, SourceModel
from gfm_pipeline.workflow.targets import read_targets
from gfm_pipeline.workflow.test_sets import as_source, test_sets


def resolve_sources(
    loaded: LoadedWorkflow, recorded: Mapping[str, Sequence[RecordedFile]] | None = None
) -> tuple[SourceSettings, ...]:
    """Return the sources in the order of their names, then test sets; files in ``recorded`` may be gone.

    This order numbers the branches of the models, and the order of keys in the file must not matter.

    Raises
    ------
    WorkflowError
        When a file is missing, a glob matches nothing, or a reader or option is unknown.
    """
    known = recorded or {}
    sources = sorted(loaded.model.data.sources.items())
    found = tuple(_source(loaded, name, source, known.get(name, ())) for name, source in sources)
    _refuse_unlabelled(loaded, found)
    return found + tuple(_test_set(loaded, *one, known) for one in test_sets(loaded.model))


def _test_set(
    loaded: LoadedWorkflow, name: str, test_of: str, known: Mapping[str, Sequence[RecordedFile]]
) -> SourceSettings:
    dataset, source = test_set_name(test_of, name), loaded.model.data.sources[test_of]
    at = ("data", "sources", test_of, "test_sets", name)
    found = _source(loaded, dataset, as_source(source, source.test_sets[name]), known.get(dataset, ()), at)
    if describe(found.reader).makes_data:
        raise loaded.error((*at, "reader"), f"Test set {dataset!r}: {found.reader} makes its own data.", "Give a file.")
    return replace(found, test_of=test_of)


def resolve_structures(
    loaded: LoadedWorkflow, stage: str, structures: SourceModel, recorded: Sequence[RecordedFile] = ()
) -> SourceSettings:
    """Return the files that a stage reads itself, in ``<stage>.structures``; those in ``recorded`` may be gone.

    Raises
    ------
    WorkflowError
        As `resolve_sources`.
    """
    return _source(loaded, stage, structures, recorded, (stage, "structures"))


def _refuse_unlabelled(loaded: LoadedWorkflow, sources: tuple[SourceSettings, ...]) -> None:
    """Refuse a target or attribute that no source can have, if the descriptions of all readers list their labels."""
    listed = [describe(source.reader).labels for source in sources]
    if any(labels is None for labels in listed):
        return  # this needs the records: ingest reports it
    labels = {name for names in listed for name in names or ()}
    for target in loaded.model.targets:
        if target.name not in (ENERGY.name, FORCES.name) and not labels & set(target.names):
            given = ", ".join(sorted({"energy", "forces"} | labels))
            raise loaded.error(
                ("targets", target.name),
                f"No source labels the target {target.name}: the readers of this workflow give {given}.",
                f"Remove {target.name} from targets, or add a source that has it.",
            )
    _refuse_unstated(loaded, sources, labels)


def _refuse_unstated(loaded: LoadedWorkflow, sources: tuple[SourceSettings, ...], labels: set[str]) -> None:
    """Refuse an attribute that no source states; ``labels`` are the names that the readers give."""
    stated = {name for source in sources for name in source.attribute_values or ()}
    stated |= {one.name for one in BUILT_IN for source in sources if getattr(source, one.name) is not None}
    inputs = loaded.model.search.space.condition_names()
    for one in known_attributes(loaded.model.attributes):
        declared = one not in BUILT_IN
        if one.name in stated or labels & set(one.names) or not (declared or one.name in inputs):
            continue
        key = f"attributes: {{{one.name}: ...}}" if declared else f"{one.name}: ..."
        raise loaded.error(
            ("attributes", one.name) if declared else inputs[one.name],
            f"No source states the {one.text}: the readers of this workflow give none.",
            f"Write {key} under a source, or leave {one.name} out.",
        )


def resolve_source(loaded: LoadedWorkflow, name: str) -> SourceSettings:
    """Return one source or test set; the files of the others need not exist.

    Raises
    ------
    WorkflowError
        As `resolve_sources`, or when there is no source of that name.
    """
    sources = loaded.model.data.sources
    sets = {test_set_name(test_of, one): (one, test_of) for one, test_of in test_sets(loaded.model)}
    if name in sets:
        return _test_set(loaded, *sets[name], {})
    if name not in sources:
        raise loaded.error(
            ("data", "sources"),
            f"There is no source {name!r}.",
            f"{suggestion(name, [*sources, *sets])}Choose from: {', '.join((*sorted(sources), *sets))}.",
        )
    return _source(loaded, name, sources[name])


def _source(
    loaded: LoadedWorkflow,
    name: str,
    source: SourceModel,
    recorded: Sequence[RecordedFile] = (),
    at: tuple[str, ...] = (),
) -> SourceSettings:
    at = at or ("data", "sources", name)
    try:
        options = validate_options(source.reader, source.options)
    except ConfigError as error:
        key = "reader" if source.reader not in reader_names() else "options"
        raise loaded.error((*at, key), f"Source {name!r}: {error.message}", error.hint) from None
    try:
        block_size(source.group_key)
    except ConfigError as error:
        raise loaded.error((*at, "group_key"), f"Source {name!r}: {error.message}", error.hint) from None
    try:
        forces_are = force_label(source.reader, source.force_sign)
    except ConfigError as error:
        raise loaded.error((*at, "force_sign"), f"Source {name!r}: {error.message}", error.hint) from None
    if source.force_sign is None and FORCES.name not in {target.name for target in loaded.model.targets}:
        forces_are = ForceSign.NONE
    makes_data = describe(source.reader).makes_data
    left = list(recorded)
    files = _files(loaded, (*at, "files"), _patterns(source.files), left)
    files, file_splits = _given(loaded, at, source, files, left)
    if not makes_data and not files:
        raise loaded.error(
            at, f"Source {name!r}: the reader {source.reader} needs files.", "Add files: <path or glob>."
        )
    if makes_data and source.split_key is not None:
        raise loaded.error((*at, "split_key"), f"Source {name!r}: {source.reader} makes its own data, without splits.")
    if makes_data and source.select is not None:
        raise loaded.error(
            (*at, "select"),
            f"Source {name!r}: {source.reader} makes its own data, and its records have no keys to select by.",
            "Leave out select.",
        )
    if makes_data and source.labels is not None:
        raise loaded.error(
            (*at, "labels"),
            f"Source {name!r}: {source.reader} makes its own data, and its records have no names of labels.",
            "Leave out labels.",
        )
    if makes_data and files:
        raise loaded.error((*at, "files"), f"Source {name!r}: {source.reader} makes its own data and reads no files.")
    settings = SourceSettings(
        name=name,
        reader=source.reader,
        files=tuple(map(str, files)),
        options=options,
        energy_unit=source.energy_unit,
        length_unit=source.length_unit,
        energy_key=source.energy_key,
        forces_key=source.forces_key,
        group_key=source.group_key,
        max_force=source.max_force,
        shards=source.shards,
        isolated_energies=source.isolated_energies,
        energy_per_atom=source.energy_per_atom,
        forces_are=forces_are,
        charge=source.charge,
        spin=source.spin,
        level_of_theory=source.level_of_theory,
        licence=source.licence,
        citation=source.citation,
        energy_window=source.energy_window,
        duplicates=source.duplicates,
        isolated_atoms=source.isolated_atoms,
        overlap=source.overlap,
        inconsistent_pbc=source.inconsistent_pbc,
        select=_selection(source.select),
        stated_units=source.stated_units,
        record_weights=source.record_weights,
        split_key=source.split_key,
        file_splits=file_splits,
        split_indices=index_lists(loaded, at, source, files, splits=file_splits is not None),
        targets=read_targets(loaded.model.targets),
        labels=source.labels,
        label_units=source.label_units,
        attributes=loaded.model.attributes,
        attribute_values=values_of(loaded.model.attributes, source.attributes),
    )
    try:
        check_units(settings)
    except ConfigError as error:
        raise loaded.error((*at, "energy_unit"), f"Source {name!r}: {error.message}", error.hint) from None
    return settings


def _patterns(files: str | list[str]) -> list[str]:
    return [files] if isinstance(files, str) else files


def _given(
    loaded: LoadedWorkflow,
    at: tuple[str, ...],
    source: SourceModel,
    files: list[Path],
    left: list[RecordedFile],
) -> tuple[list[Path], tuple[Split | None, ...] | None]:
    """Return all files of a source and the split of each; None for files without a given split."""
    splits: dict[Path, Split] = {}
    for name, split in (("train", Split.TRAIN), ("validation", Split.VALIDATION), ("test", Split.TEST)):
        here = (*at, "splits", name)
        for file in _files(loaded, here, _patterns(getattr(source.splits, name)), left):
            if splits.setdefault(file, split) is not split:
                raise loaded.error(here, f"{file} is given to two splits.", "Name it under one of them.")
    if not splits:
        return files, None
    if source.split_key is not None:
        raise loaded.error((*at, "split_key"), "Splits are given by files and by a key.", "Remove split_key or splits.")
    over = next((file for file in files if file not in splits), None)
    if over is not None and Split.TRAIN in splits.values():
        hint = "Name it under one of them, or leave splits.train out: files that are not named are then dealt."
        raise loaded.error(
            (*at, "files"), f"{over} is under no split, and splits.train names the files of training.", hint
        )
    files = list(dict.fromkeys([*files, *splits]))
    if set(files) == set(splits) and Split.TRAIN not in splits.values():
        raise loaded.error((*at, "splits"), "No file is left for training.", "Add splits.train, or files.")
    return files, tuple(splits.get(file) for file in files)


def _selection(select: Mapping[str, Selected | list[Selected]] | None) -> dict[str, tuple[str, ...]] | None:
    """Return the values of ``select`` as readers compare them: numbers in their shortest form."""
    if select is None:
        return None
    lists = {key: value if isinstance(value, list) else [value] for key, value in sorted(select.items())}
    return {key: tuple(v if isinstance(v, str) else f"{v:.12g}" for v in values) for key, values in lists.items()}


def _files(
    loaded: LoadedWorkflow, at: tuple[str | int, ...], patterns: list[str], left: list[RecordedFile]
) -> list[Path]:
    """Return the files of the patterns, absolute, sorted within each pattern.

    The result includes files that have disappeared since ingest. ``left`` are the files that
    ingest read and that no earlier pattern matched; this function removes its matches from ``left``.
    """
    folder = loaded.path.resolve().parent
    found: list[Path] = []
    for pattern in patterns:
        matches = named(folder, pattern)
        mine = recorded_as(pattern, left)
        left[:] = [record for record in left if record not in mine]
        matches = with_gone(matches, mine, (folder / pattern).parent)
        if not matches:
            what = "no file matches" if glob.has_magic(pattern) else "there is no file"
            raise loaded.error(
                at,
                f"{what[0].upper()}{what[1:]} {folder / pattern}.",
                "Paths are relative to the workflow file; a source may be removed only after ingest is done.",
            )
        strange = next((path for path in matches if not _is_utf8(path)), None)
        if strange is not None:
            raise loaded.error(
                at,
                f"The name of the file {str(strange)!a} is not UTF-8 text.",
                "Rename it, or give a pattern that leaves it out.",
            )
        special = next(filter(None, map(special_within, matches)), None)
        if special is not None:
            raise loaded.error(at, f"{special[0]} is {special[1]} and no file.", "Give files or folders of files.")
        found += matches
    return list(dict.fromkeys(found))


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def input_names(sources: tuple[SourceSettings, ...], digests: dict[str, str]) -> dict[str, str]:
    """Return digests by ``source/file name``: content and name identify a file, not its folder."""
    return {f"{s.name}/{i:05d}-{Path(f).name}": digests[f] for s in sources for i, f in enumerate(s.files)}
