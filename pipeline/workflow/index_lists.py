"""Splits as lists of record numbers, as in rMD17 and other published sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gfm_pipeline.core.contracts.data import IndexList, Split
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.publish import file_sha256
from gfm_pipeline.workflow.load import LoadedWorkflow
from gfm_pipeline.workflow.source_files import named
from gfm_pipeline.workflow.source_schema import SourceModel

NAMES = {"train": Split.TRAIN, "validation": Split.VALIDATION, "test": Split.TEST}
LARGEST = 10**12


def index_lists(
    loaded: LoadedWorkflow, at: tuple[str, ...], source: SourceModel, files: list[Path], *, splits: bool
) -> tuple[IndexList, ...] | None:
    """Return the checked lists of a source; None if it has none. ``splits``: the source also assigns files to splits.

    Raises
    ------
    WorkflowError
        When a list is missing or empty, is not a list of numbers or names a record twice, when the source has no file,
        or when the source also defines splits in another way.
    """
    given = {name: text for name in NAMES if (text := getattr(source.split_indices, name)) is not None}
    if not given:
        return None
    here = (*at, "split_indices")
    if splits or source.split_key is not None:
        raise loaded.error(here, "Splits are given by index lists and in another way, too.", "Keep one of them.")
    if not files:
        raise loaded.error(here, "Index lists count the records of a file, and the source has none.", "Add files.")
    found: list[IndexList] = []
    owner: dict[int, str] = {}
    for name, text in given.items():
        path = _one(loaded, (*here, name), text)
        try:
            numbers = list(read_indices(path))
        except ConfigError as error:
            raise loaded.error((*here, name), error.message, error.hint) from None
        for number in numbers:
            if owner.setdefault(number, name) != name:
                raise loaded.error((*here, name), f"Record {number} is in the lists of {owner[number]} and {name}.")
        found.append(IndexList(NAMES[name], str(path), file_sha256(path), len(set(numbers))))
    return tuple(found)


def read_indices(path: Path) -> Iterator[int]:
    """Yield the numbers in a text file, separated by spaces, commas or lines; the first record is 0.

    Raises
    ------
    ConfigError
        For any other text, with its line, and for a file without numbers.
    """
    count = 0
    try:
        with open(path, encoding="utf-8") as stream:
            for row, line in enumerate(stream, start=1):
                for word in line.replace(",", " ").split():
                    if not (word.isascii() and word.isdecimal()) or int(word) > LARGEST:
                        raise ConfigError(
                            f"{path}:{row}: {word[:20]!r} is no number of a record.", "Write whole numbers from 0 on."
                        )
                    count += 1
                    yield int(word)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text.", "Write its numbers as text, one on each line.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", "Give a text file of numbers.") from error
    if not count:
        raise ConfigError(f"{path} holds no number.", "Leave the list out, or write the numbers of records into it.")


def _one(loaded: LoadedWorkflow, at: tuple[str, ...], text: str) -> Path:
    folder = loaded.path.resolve().parent
    matches = named(folder, text)
    if len(matches) != 1:
        what = "There is no file" if not matches else f"{len(matches)} files match"
        raise loaded.error(at, f"{what} {folder / text}.", "Name one text file of record numbers.")
    return matches[0]
