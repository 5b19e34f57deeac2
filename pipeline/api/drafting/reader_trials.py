"""Which reader, with which options, reads the most records of a sample of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.ingest.preview import Preview
from gfm_pipeline.core.contracts.readers import describe, reader_names
from gfm_pipeline.core.contracts.sources import force_label, validate_options
from gfm_pipeline.core.errors import DataError, GFMError

LookFn = Callable[[SourceSettings], Preview]
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")


def best_reading(
    name: str, files: Sequence[Path], splits: tuple[Split | None, ...] | None, look: LookFn, reader: str | None
) -> tuple[SourceSettings, Preview, dict[str, Any]]:
    """Return the settings of the reader with the most usable records, then the most readable ones, and its options.

    Parameters
    ----------
    name
        Of the source.
    files
        Its files.
    splits
        Split of each file; None: no file says it.
    look
        Previews a source.
    reader
        The reader to use; None: try the readers for such names of files.

    Raises
    ------
    DataError
        When no reader reads a record, with the reason of the last one.
    """
    found: list[tuple[tuple[int, int], SourceSettings, Preview, dict[str, Any]]] = []
    reason = "no reader takes files of this name"
    for candidate, options in _trials([reader] if reader else candidates(files[0].name.lower())):
        try:
            settings = SourceSettings(
                name=name,
                reader=candidate,
                files=tuple(str(file.resolve()) for file in files),
                options=validate_options(candidate, options),
                forces_are=force_label(candidate, None),
                file_splits=splits,
            )
            preview = look(settings)
        except GFMError as error:
            reason = f"{candidate}: {error.message}"
            continue
        unreadable = sum(one.records for one in preview.removed if one.reason.startswith("unreadable"))
        found.append(((preview.usable, preview.read - unreadable), settings, preview, options))
        if preview.usable == preview.read > 0:
            break
        reason = next((one.example for one in preview.removed), reason)
    best = max(found, key=lambda one: one[0], default=None)
    if best is None or best[0] == (0, 0):
        readers = ", ".join(reader_names())
        raise DataError(
            f"{files[0]} cannot be read: {reason.rstrip('.')}.", f"Name its reader: --reader, of {readers}."
        )
    return best[1:]


def _trials(readers: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for reader in readers:
        for options in describe(reader).trials or ({},):
            yield reader, dict(options)


def candidates(name: str) -> list[str]:
    """Return the readers for this name of files; readers for any name come last.

    The name of an archive says nothing of the files in it, so every reader that knows its files by name may read them:
    first that for any name, which has most formats.
    """

    def fits(reader: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in describe(reader).names)

    fitting = sorted(filter(fits, reader_names()), key=lambda r: "*" in describe(r).names)
    if not name.endswith(ARCHIVES):
        return fitting
    return fitting + [r for r in reader_names() if describe(r).names and r not in fitting]
