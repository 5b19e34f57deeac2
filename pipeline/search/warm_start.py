"""Results of an earlier search: a table of DeepHyper (HydraGNN and our report write the same), or a journal.

A column ``p:NAME`` is a hyperparameter, and ``objective`` is the maximised quantity; a word with an initial F there is
a failure. Hyperparameters may have HydraGNN's names. A journal of Optuna is converted to such a table. Candidates
outside the search space are skipped.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gfm_pipeline.core.errors import FileError
from gfm_pipeline.core.explain import suggestion
from gfm_pipeline.search.optuna_journal import is_journal, read_study, table_rows
from gfm_pipeline.search.space import Choice, Dimension, SearchSpace

PREFIX, OBJECTIVE = "p:", "objective"
MOST = 2000  # kept results: the best, and an even share of the others
# HydraGNN's names of our hyperparameters.
ALIASES = {
    "model_type": "algorithm",
    "mpnn_type": "algorithm",
    "hidden_dim": "hidden",
    "num_conv_layers": "layers",
    "radius": "cutoff",
    "num_radial": "n_radial",
    "lr": "learning_rate",
}
Row = tuple[int, Mapping[str, str | None]]  # line, and cells by column
Prior = tuple[dict[str, Any], float | None]  # settings and objective (lower is better; None: failed)


@dataclass(frozen=True)
class RowMisfit:
    """A row outside of the search space: its line, the hyperparameter at fault, and why."""

    line: int
    column: str
    why: str


@dataclass(frozen=True)
class WarmStart:
    """Results that fit the search space, and the number of other rows."""

    results: tuple[Prior, ...]
    left_out: int


def read_results(path: Path, space: SearchSpace) -> WarmStart:
    """Read a table of results.

    Raises
    ------
    FileError
        When the file cannot be read, lacks the columns of such a table, or has no row that fits the space.
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            names, table = _journal(path, stream) if is_journal(stream.readline()) else _table(stream)
            columns = _columns(path, names, space)
            rows = [_result(path, line, row, columns, space) for line, row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"this is not a table of results ({error}).", path, hint="Name a results.csv.") from error
    found = [row for row in rows if not isinstance(row, RowMisfit)]
    if not any(value is not None for _, value in found):
        raise _nothing_fits(path, rows)
    return WarmStart(tuple(_thinned(found)), len(rows) - len(found))


def _nothing_fits(path: Path, rows: Sequence[Prior | RowMisfit]) -> FileError:
    """Return the error of a table without a usable result, with its most frequent misfit."""
    leave = "or leave search.warm_start out."
    if not rows:
        return FileError("it has no results, only names of columns.", path, 1, f"Name a table with results, {leave}")
    misfits = [row for row in rows if isinstance(row, RowMisfit)]
    if not misfits:
        return FileError(f"all of its {len(rows):,} results are failures.", path, hint=f"Name another table, {leave}")
    column, _ = Counter(misfit.column for misfit in misfits).most_common(1)[0]
    first = next(misfit for misfit in misfits if misfit.column == column)
    return FileError(
        f"none of its {len(rows):,} results is of a candidate of this search space: {first.why}.",
        path,
        first.line,
        f"Correct the column or its unit, widen search.space, {leave}",
    )


def _table(stream: TextIO) -> tuple[Sequence[str], Iterable[Row]]:
    """Return the columns of a table, and its rows."""
    stream.seek(0)
    table = csv.DictReader(stream)
    return table.fieldnames or (), ((table.line_num, row) for row in table)


def _journal(path: Path, stream: TextIO) -> tuple[Sequence[str], Iterable[Row]]:
    """Return a journal of Optuna as columns and rows of a table."""
    stream.seek(0)
    rows = list(table_rows(read_study(path, stream)))
    names = dict.fromkeys(name for _, row in rows for name in row)
    return [*names] if rows else [OBJECTIVE], rows


def _columns(path: Path, names: Sequence[str], space: SearchSpace) -> dict[str, str]:
    """Return the plain name of each hyperparameter's column."""
    if OBJECTIVE not in names:
        known = suggestion(OBJECTIVE, names).strip()
        raise FileError(f"it has no column {OBJECTIVE!r}.", path, 1, f"Name a results.csv of DeepHyper. {known}")
    searched = {column.partition("@")[0]: d for column, d in space.columns().items()}
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise FileError(f"it has the column {twice!r} twice.", path, 1, "Remove one of them.")
    found: dict[str, str] = {}
    for column in names:
        plain = column.removeprefix(PREFIX)
        plain = ALIASES.get(plain, plain)
        if column.startswith(PREFIX) and plain in searched:
            found[column] = plain
    missing = [n for n, d in searched.items() if n not in found.values() and _varies(space, n) and "." not in n]
    if missing:
        raise FileError(
            f"it has no column {PREFIX}{missing[0]}, which this search space varies.",
            path,
            1,
            f"Add it to the table, or fix search.space.{missing[0]} to the value that all of its candidates had.",
        )
    return found


def _varies(space: SearchSpace, name: str) -> bool:
    return any(
        not (isinstance(dimension, Choice) and len(dimension.values) == 1)
        for column, dimension in space.columns().items()
        if column.partition("@")[0] == name
    )


def _result(
    path: Path, line: int, row: Mapping[str, str | None], columns: Mapping[str, str], space: SearchSpace
) -> Prior | RowMisfit:
    if None in row or (None in row.values() and OBJECTIVE in row):  # as csv tells of longer and shorter rows
        raise FileError("the row has another number of cells than there are columns.", path, line, "Correct it.")
    text = (row.get(OBJECTIVE) or "").strip()
    if text.startswith("F") or not text:
        value = None
    else:
        try:
            value = -float(text)
        except ValueError:
            raise FileError(
                f"the objective {text[:40]!r} is neither a number nor a failure.", path, line, "Correct it."
            ) from None
        if not math.isfinite(value):
            value = None  # HydraGNN writes failures like this
    given = {plain: (row.get(column) or "").strip() for column, plain in columns.items()}
    name = given.get("algorithm", space.algorithms[0]).lower()
    algorithm = next((a for a in space.algorithms if a.lower() == name), None)
    if algorithm is None:
        why = f"the algorithm is {given['algorithm'][:40]!r}, and search.space.algorithm has none of that name"
        return RowMisfit(line, "algorithm", why)
    settings: dict[str, Any] = {"algorithm": algorithm}
    own = space.own.get(algorithm, {})
    for plain, dimension in ({**space.shared, **own}).items():
        if plain == "algorithm":
            continue
        read = _value(dimension, given[plain]) if given.get(plain) else dimension.first
        if read is None:
            why = f"{plain} is {given[plain][:40]!r}, and search.space.{plain} is {dimension}"
            return RowMisfit(line, plain, why)
        settings[plain] = read
    if not space.allows(settings):
        return RowMisfit(line, "forbidden", "search.space.forbidden has its combination")
    return settings, value


def _value(dimension: Dimension, text: str) -> Any:
    """Return the value of a dimension for a cell; None: the dimension does not have this value."""
    if isinstance(dimension, Choice):
        for value in dimension.values:
            if str(value) == text or (_number(text) == value is not None and not isinstance(value, str | bool)):
                return value
        return None
    number = _number(text)
    if number is None or not dimension.contains(number) or (dimension.whole and number != int(number)):
        return None
    return int(number) if dimension.whole else number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _thinned(found: list[Prior]) -> list[Prior]:
    if len(found) <= MOST:
        return found
    order = sorted(range(len(found)), key=lambda i: (found[i][1] is None, found[i][1] or 0.0, i))
    best, others = order[: MOST // 2], order[MOST // 2 :]
    step = len(others) / (MOST - len(best))
    rows = sorted([*best, *(others[int(i * step)] for i in range(MOST - len(best)))])
    return [found[i] for i in rows]


def on_scale_of(prior: Sequence[Prior], own: Sequence[float]) -> list[Prior]:
    """Rescale earlier results, perhaps of other data, to the median and the spread of this search's results.

    Return them unchanged while this search has fewer than eight results.
    """
    known = sorted(value for _, value in prior if value is not None)
    here = sorted(own)
    if len(here) < 8 or len(known) < 8:
        return list(prior)
    spread = _quartile(known, 3) - _quartile(known, 1)
    scale = (_quartile(here, 3) - _quartile(here, 1)) / spread if spread > 0.0 else 1.0
    middle, quartile = _quartile(known, 2), _quartile(here, 2)
    return [(s, None if value is None else quartile + (value - middle) * scale) for s, value in prior]


def _quartile(ordered: Sequence[float], which: int) -> float:
    return ordered[(len(ordered) - 1) * which // 4]
