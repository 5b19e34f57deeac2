"""Reads samples of structure files and chooses how a workflow should read them.

Every choice is tested on a sample first: readers by the names of the files, labels by their keys, units
and signs by the consistency of energies, forces and positions, groups and splits by keys and names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gfm_pipeline.api.drafting.reader_trials import LookFn, best_reading
from gfm_pipeline.core.contracts.data import EnergyUnit, ForceSign, LengthUnit, SourceSettings, Split
from gfm_pipeline.core.contracts.ingest.label_keys import KeyFound
from gfm_pipeline.core.contracts.ingest.preview import Preview, PreviewSpec
from gfm_pipeline.core.contracts.readers import describe
from gfm_pipeline.core.contracts.sources import split_named
from gfm_pipeline.core.errors import DataError, GFMError
from gfm_pipeline.workflow.draft import Chosen, SourceDraft

# Names of keys for groups, in lower case and only letters, the best first.
GROUPS = (
    *("trajectory", "trajectoryid", "traj", "trajid", "run", "runid", "group", "parent"),
    *("molecule", "mol", "smiles", "system", "systemname", "materialid"),
)
ENOUGH = 0.9  # share of the records that have a group key: isolated atoms have none
ISOLATED = re.compile(r"isolated|single.?atom|atom.?ref|(^|[^A-Za-z0-9])e0s?($|[^A-Za-z0-9])", re.IGNORECASE)
SPLITS = ("split", "subset", "partition", "fold")
SCAN, SECONDS = 600, 8.0  # records and time of one preview
DEFAULTS = ("eV", "Angstrom", "forces")
MOST_TRIALS = 8  # combinations of units and signs


@dataclass(frozen=True)
class FoundSource:
    """The chosen settings of a source, the preview with them, and the draft of its part of a workflow."""

    settings: SourceSettings
    preview: Preview
    draft: SourceDraft


def spec_of(settings: SourceSettings, max_quarantined: float = 1.0) -> PreviewSpec:
    """Return the spec of a source's preview."""
    return PreviewSpec(settings, 1, records=0, scan=SCAN, seconds=SECONDS, max_quarantined=max_quarantined)


def by_folder(files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """Return files by the name of their source: files of one folder and one suffix are one source.

    Folders with names of splits (``train``, ``test``) beside each other are one folder. Files with names of isolated
    atoms belong to the one other source.
    """
    together: dict[tuple[Path, str], list[Path]] = {}
    for file in dict.fromkeys(files):
        folder = file.parent.resolve()
        folder = folder if _named_split(folder.name) is None else folder.parent
        together.setdefault((folder, file.suffix.lower()), []).append(file)
    references = [key for key, mine in together.items() if all(_is_isolated(file) for file in mine)]
    if len(together) == len(references) + 1:
        of = next(key for key in together if key not in references)
        together[of] += [file for key in references for file in together.pop(key)]
    named: dict[str, tuple[Path, ...]] = {}
    for (folder, _), mine in together.items():
        own = [file for file in mine if not _is_isolated(file)] or mine
        base = _stem(own[0]) if len(own) == 1 else folder.name
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", base).strip("-._") or "data"
        name = next(n for n in (stem, *(f"{stem}-{k}" for k in range(2, 10**6))) if n not in named)
        named[name] = tuple(mine)
    return named


def find_source(name: str, files: Sequence[Path], look: LookFn, folder: Path, reader: str | None = None) -> FoundSource:
    """Choose how to read the files of a source.

    Parameters
    ----------
    name
        Of the source.
    files
        Its files, which exist.
    look
        Previews a source.
    folder
        Folder of the future workflow, to which its paths are relative.
    reader
        The reader to use; None: try the readers for such names of files.

    Raises
    ------
    DataError
        When no reader finds a usable record, with the reason of the last one.
    """
    sets = _test_sets(files)
    files = [file for file in files if file not in sets.values()]
    splits = tuple(_split_of(file) for file in files)
    partial = any(splits) and not all(splits)
    settings, preview, options = best_reading(name, files, splits if partial else None, look, reader)
    chosen = {"reader": Chosen(settings.reader, describe(settings.reader).summary)}
    if options:
        chosen["options"] = Chosen(options, "of those tried, these read the most records")
    hints: list[str] = []
    settings, preview = _labels(settings, preview, look, chosen)
    settings, preview = _units(settings, preview, look, chosen)
    settings, preview = _grouping(settings, preview, look, chosen)
    if not preview.usable:
        why = "; ".join(f"{one.records} x {one.reason}, e.g. {one.example}" for one in preview.removed[:3])
        raise DataError(f"Source {name}: no record can be used ({why}).", "Name the keys and units in a workflow.")
    hints += _hints(preview)
    named, settings, preview = _judged(sets, settings, preview, look, folder)
    placed = _placed([Path(file) for file in settings.files], settings.file_splits, folder)
    if named:
        placed["test_sets"] = _why_judged(named, several=bool(sets))
    draft = SourceDraft(name, {"reader": chosen.pop("reader"), **placed, **chosen}, tuple(hints), _records(preview))
    return FoundSource(settings, preview, draft)


def _labels(
    settings: SourceSettings, preview: Preview, look: LookFn, chosen: dict[str, Chosen]
) -> tuple[SourceSettings, Preview]:
    """Set the keys of labels with unusual names, and disable forces if no record has any."""
    used = {key.use for key in preview.labels.keys}
    named: dict[str, Chosen] = {}
    for setting, what, shape in (("energy_key", "energy", "number"), ("forces_key", "forces", "[N, 3]")):
        keys = [k.key for k in preview.labels.keys if what in k.kind and k.shape == shape and what not in used]
        if keys:
            named[setting] = Chosen(keys[0], f"by its name it is the {what}; keys there: {', '.join(keys)}")
    for trial in (named, *({key: one} for key, one in named.items())):
        changes = {key: one.value for key, one in trial.items() if key not in chosen}
        settings, preview, better = (
            _tried(settings, preview, look, **changes) if changes else (settings, preview, False)
        )
        if better:
            chosen |= trial
    reasons = {one.reason: one.records for one in preview.removed}
    if reasons.get("no forces", 0) and not preview.usable:
        settings, preview, better = _tried(settings, preview, look, forces_are=ForceSign.NONE)
        if better:
            chosen["force_sign"] = Chosen("none", "no record has forces: energies alone are learned")
    return settings, preview


def _units(
    settings: SourceSettings, preview: Preview, look: LookFn, chosen: dict[str, Chosen]
) -> tuple[SourceSettings, Preview]:
    """Choose the units and the sign of forces with which energies, forces and positions are consistent."""
    if not _doubted(preview):
        return settings, preview
    most = 1 if describe(settings.reader).fixed_units else MOST_TRIALS  # of the former, the sign alone is in doubt
    for unit, length, sign in list(_systems())[:most]:
        other = replace(settings, energy_unit=unit, length_unit=length, forces_are=sign)
        try:
            again = look(other)
        except GFMError:
            continue
        if again.usable >= preview.usable and not _doubted(again):
            why = "energies, forces and positions belong together so"
            values = {"energy_unit": str(unit), "length_unit": str(length), "force_sign": str(sign)}
            chosen |= {key: Chosen(value, why) for key, value in values.items() if value not in DEFAULTS}
            return other, again
    return settings, preview


def _systems() -> Iterator[tuple[EnergyUnit, LengthUnit, ForceSign]]:
    """Yield other systems than the default; the first differs from it by the sign of forces only."""
    angstrom, bohr, forces = LengthUnit.ANGSTROM, LengthUnit.BOHR, ForceSign.FORCES
    yield EnergyUnit.EV, angstrom, ForceSign.GRADIENTS
    for sign in (forces, ForceSign.GRADIENTS):
        yield EnergyUnit.KCAL_MOL, angstrom, sign
        yield EnergyUnit.HARTREE, bohr, sign
        yield EnergyUnit.HARTREE, angstrom, sign
        yield EnergyUnit.KJ_MOL, angstrom, sign


def _doubted(preview: Preview) -> bool:
    return any(check.passed is False for check in preview.checks)


def _grouping(
    settings: SourceSettings, preview: Preview, look: LookFn, chosen: dict[str, Chosen]
) -> tuple[SourceSettings, Preview]:
    """Choose a key for splits, then one for groups, if records stay usable with it."""
    for setting, names, why in (
        ("split_key", SPLITS, "the records say their split"),
        ("group_key", GROUPS, "records with the same value never cross splits"),
    ):
        least = preview.labels.records * (ENOUGH if setting == "group_key" else 1.0)
        key = _named(preview.labels.keys, names, least)
        if key is None or (setting == "split_key" and settings.file_splits is not None):
            continue
        settings, preview, better = _tried(settings, preview, look, strict=False, **{setting: key.key})
        if better:
            chosen[setting] = Chosen(key.key, why)
    return settings, preview


def _named(keys: Sequence[KeyFound], names: Sequence[str], records: float) -> KeyFound | None:
    found = {re.sub("[^a-z]", "", key.key.lower()): key for key in keys if key.shape in ("text", "number")}
    return next((found[n] for n in names if n in found and found[n].records >= records), None)


def _tried(
    settings: SourceSettings, preview: Preview, look: LookFn, *, strict: bool = True, **changes: object
) -> tuple[SourceSettings, Preview, bool]:
    """Return the settings, changed if that makes more records usable (without ``strict``: not fewer), and whether."""
    other = replace(settings, **changes)  # type: ignore[arg-type]
    try:
        again = look(other)
    except GFMError:
        return settings, preview, False
    enough = again.usable > preview.usable if strict else again.usable >= preview.usable and again.failure is None
    return (other, again, True) if enough else (settings, preview, False)


def _hints(preview: Preview) -> Iterator[str]:
    """Yield one line per fact that the user should check."""
    for key in preview.labels.keys:
        if key.kind == "head or method" and len(key.values) > 1:
            yield f'select: {{"{key.key}": ...}}   # one source for each of: {", ".join(list(key.values)[:6])}'
    unused = [key.key for key in preview.labels.keys if key.use == "not used"]
    if unused:
        yield f"keys of the records that are not used: {', '.join(unused[:12])}"
    if _doubted(preview):
        yield "WARNING: energies, forces and positions do not belong together; see `gfm-pipeline ingest`"
    yield "level_of_theory: ...   # licence, citation: kept with the dataset, the model and its card"


def _placed(files: Sequence[Path], splits: Sequence[Split | None] | None, folder: Path) -> dict[str, Chosen]:
    """Return the keys for the files, and for validation and test files by their names."""
    names = [_relative(file, folder) for file in files]
    of = {s: [n for n, t in zip(names, splits or [None] * len(names), strict=True) if t is s] for s in (*Split, None)}
    rest = of[None] + of[Split.TRAIN]
    isolated = ", ".join(file.name for file in files if _is_isolated(file))
    why = f"relative to this file; {isolated}: reference energies" if isolated else "relative to this file"
    found = {"files": Chosen(rest[0] if len(rest) == 1 else rest, why)}
    given = {"validation": of[Split.VALIDATION], "test": of[Split.TEST]}
    if any(given.values()):
        found["splits"] = Chosen({k: v for k, v in given.items() if v}, "by the names of the files")
    return found


def _relative(file: Path, folder: Path) -> str:
    path, base = file.resolve(), folder.resolve()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _split_of(file: Path) -> Split | None:
    """Return validation or test if the name of a file, or else of its folder, contains it; others are for training."""
    found = _named_split(_stem(file)) or _named_split(file.resolve().parent.name)
    return None if found is Split.TRAIN else found


def _stem(file: Path) -> str:
    return file.name.partition(".")[0]


def _is_isolated(file: Path) -> bool:
    return ISOLATED.search(_stem(file)) is not None


def _named_split(name: str) -> Split | None:
    words = re.split(r"[^A-Za-z]+", name)
    return next((split for word in words if (split := split_named(word)) is not None), None)


def _test_sets(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files of named test sets, if several files are for the test and others are not."""
    tests = [file for file in files if _split_of(file) is Split.TEST]
    if len(tests) < 2 or len(tests) == len(files):
        return {}
    found: dict[str, Path] = {}
    for file in tests:
        name = _set_name(file)
        found[next(n for n in (name, *(f"{name}-{k}" for k in range(2, 10**6))) if n not in found)] = file
    return found


def _set_name(file: Path) -> str:
    """Return the name of a test set: that of its file, without the words for tests."""
    stem = Path(re.sub(r"\.(gz|bz2|xz|zst|zip)$", "", file.name)).stem
    words = [word for word in re.split(r"[^A-Za-z0-9.]+", stem) if split_named(word) is None]
    return "-".join(words).strip("-.") or "test"


def _judged(
    sets: dict[str, Path], settings: SourceSettings, preview: Preview, look: LookFn, folder: Path
) -> tuple[dict[str, object], SourceSettings, Preview]:
    """Return the named test sets as a workflow has them, and the source without a test file that became one.

    Models of forces are judged on energies alone where no record of a file has forces. A test split cannot say so, but
    a test set can.
    """
    alone = {}
    if not sets and settings.file_splits is not None and settings.forces_are is not ForceSign.NONE:
        tests = [Path(f) for f, split in zip(settings.files, settings.file_splits, strict=True) if split is Split.TEST]
        alone = {_set_name(file): file for file in tests if len(tests) == 1 and _without_forces(file, settings, look)}
    if alone:
        kept = [k for k, split in enumerate(settings.file_splits or ()) if split is not Split.TEST]
        splits = tuple((settings.file_splits or ())[k] for k in kept)
        files = tuple(settings.files[k] for k in kept)
        settings = replace(settings, files=files, file_splits=splits if any(splits) else None)
        preview = look(settings)
    named: dict[str, object] = {}
    for name, file in (sets or alone).items():
        path = _relative(file, folder)
        energies = name in alone or _without_forces(file, settings, look)
        named[name] = {"files": path, "force_sign": str(ForceSign.NONE)} if energies else path
    return named, settings, preview


def _without_forces(file: Path, settings: SourceSettings, look: LookFn) -> bool:
    """Return whether records of a file can be used for their energies only."""
    if settings.forces_are is ForceSign.NONE:
        return False
    own = replace(settings, files=(str(file.resolve()),), file_splits=None)
    try:
        preview = look(own)
        if preview.usable or not any(one.reason == "no forces" for one in preview.removed):
            return False
        return look(replace(own, forces_are=ForceSign.NONE)).usable > 0
    except GFMError:
        return False


def _why_judged(named: dict[str, object], several: bool) -> Chosen:
    """Return the value of test_sets with its reason."""
    why = "several test files: each judged on its own" if several else "a test file: judged on its own"
    energies = [name for name, of in named.items() if not isinstance(of, str)]
    without = f"; without forces, on energies alone: {', '.join(energies)}" if energies else ""
    return Chosen(named, f"{why}, and never trained on{without}")


def _records(preview: Preview) -> int:
    return preview.total or preview.usable
