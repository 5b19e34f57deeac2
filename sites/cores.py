"""Lists of hardware threads as Slurm and taskset write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART = re.compile(r"^(\d+)(?:-(\d+))?$")


def parse_cores(text: str) -> tuple[int, ...]:
    """Return the numbers in ``text``, e.g. (1, 2, 3, 65) of ``1-3,65``.

    Raises
    ------
    ValueError
        When the text is not a list of cores.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _PART.match(part.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a list of cores such as 1-7 or 48-63,112-127")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise ValueError(f"{part.strip()!r} runs backwards")
        found += range(low, high + 1)
    return tuple(found)


def format_cores(cores: Iterable[int]) -> str:
    """Return numbers as a list with ranges, sorted; the reverse of `parse_cores`."""
    parts: list[list[int]] = []
    for core in sorted(set(cores)):
        if parts and core == parts[-1][1] + 1:
            parts[-1][1] = core
        else:
            parts.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
