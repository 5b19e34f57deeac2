"""``StrEnum`` for Python 3.10, which has none in its standard library."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum  # noqa: TID251 - the one place it is taken from
else:  # pragma: no cover - taken on Python 3.10 only
    from enum import Enum

    class StrEnum(str, Enum):
        """A ``str`` enum whose ``str()`` is its value, as in Python 3.11."""

        def __str__(self) -> str:
            """Return the value, not ``Class.MEMBER``."""
            return str(self.value)


__all__ = ["StrEnum"]
