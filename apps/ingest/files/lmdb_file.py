"""LMDB files, opened read-only, without a lock file; truncated files are detected before mapping.

Access beyond the end of a memory-mapped file ends the process (SIGBUS), so this module first compares the size with the
header.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb


class LmdbFile:
    """One environment; ``path`` is the file, or the folder that holds ``data.mdb``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> LmdbFile:
        self._environment = lmdb.open(
            str(self._path), subdir=self._path.is_dir(), readonly=True, lock=False, readahead=False, max_readers=1
        )
        try:
            data = self._path / "data.mdb" if self._path.is_dir() else self._path
            pages = self._environment.info()["last_pgno"] + 1
            expected = pages * self._environment.stat()["psize"]
            size = data.stat().st_size
            if size < expected:
                raise ValueError(f"the file has {size} bytes of {expected}: it is truncated")
            self._transaction = self._environment.begin(buffers=False)
        except BaseException:  # any exception, also Ctrl-C: LMDB allows no second opening in a process; raised again
            self._environment.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._transaction.abort()
        self._environment.close()

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key."""
        value: bytes | None = self._transaction.get(key)
        return value

    def keys(self) -> Iterator[bytes]:
        """Yield all keys in their order."""
        with self._transaction.cursor() as cursor:
            yield from cursor.iternext(keys=True, values=False)

    def claimed(self, number: int) -> int:
        """Return the number of records that a file states.

        Raises
        ------
        ValueError
            When that exceeds its number of entries, or is negative.
        """
        if not 0 <= number <= self.entries:
            raise ValueError(f"it claims {number:,} records, and has {self.entries:,} entries")
        return number

    @property
    def entries(self) -> int:
        """Number of keys."""
        return int(self._environment.stat()["entries"])
