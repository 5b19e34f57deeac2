"""Slurm's syntax of times and node lists."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gfm_pipeline.batch_systems.commands import SchedulerTrouble


def parse_seconds(text: str) -> float | None:
    """Return a time of Slurm (``[days-]hours:minutes:seconds``, or shorter) in seconds; None for no time.

    Raises
    ------
    SchedulerTrouble
        The text is not such a time.
    """
    if text in ("UNLIMITED", "NOT_SET", "N/A", ""):
        return None
    if text == "INVALID":  # Slurm's word for a negative time: the time is over
        return 0.0
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        raise SchedulerTrouble(f"Slurm gave a time nobody understands: {text!r}.")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def fold(nodes: Sequence[str]) -> str:
    """Return names as a host list of Slurm, e.g. ``fr[0001-0003,0007]``, with the same order and number widths."""
    folded: list[tuple[str, str, list[tuple[str, str]]]] = []  # prefix, suffix, ranges of numbers
    for name in nodes:
        match = re.match(r"^(.*?)(\d+)(\D*)$", name)
        prefix, number, suffix = (match[1], match[2], match[3]) if match else (name, "", "")
        if not folded or not number or folded[-1][:2] != (prefix, suffix) or not folded[-1][2]:
            folded.append((prefix, suffix, [(number, number)] if number else []))
            continue
        ranges = folded[-1][2]
        low, high = ranges[-1]
        if number == str(int(high) + 1).zfill(len(high)) and (len(number) == len(low) or low[0] != "0"):
            ranges[-1] = (low, number)
        else:
            ranges.append((number, number))
    return ",".join(_host_range(*entry) for entry in folded)


def _host_range(prefix: str, suffix: str, ranges: list[tuple[str, str]]) -> str:
    if not ranges:
        return prefix
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return prefix + ranges[0][0] + suffix
    inner = ",".join(low if low == high else f"{low}-{high}" for low, high in ranges)
    return f"{prefix}[{inner}]{suffix}"
