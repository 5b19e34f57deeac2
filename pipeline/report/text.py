"""Numbers and times in readable form; the same in status, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

MISSING = "–"

SYMBOLS = {
    "waiting": "○",
    "running": "◐",
    "done": "●",
    "failed": "✕",
    "stopped": "■",
    "interrupted": "■",
    "finished": "●",
    "diverged": "✕",
    "selected": "★",
    "converged": "●",
    "limit": "▲",
}


def symbol(status: str) -> str:
    """Return the symbol of a status, so that colour never carries the information alone."""
    return SYMBOLS.get(status, "·")


def count(value: float | None) -> str:
    """Return a whole number with separated thousands."""
    return MISSING if value is None else f"{value:,.0f}"


def short_count(value: float) -> str:
    """Return 950, 12.5k, 3.2M: a count that may be rounded."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` significant digits, without an exponent if it stays readable."""
    if value is None:
        return MISSING
    if value != 0.0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    text = f"{value:#.{digits}g}"
    if "e" in text:
        text = f"{value:,.0f}"
    return text.rstrip(".")


def milli(value: float | None) -> str:
    """Return eV as meV, three significant digits."""
    return MISSING if value is None else significant(1e3 * value)


def objective(value: float | None, decimals: int = 4, error: float | None = None) -> str:
    """Return an objective (a ratio to "learns nothing"), with its standard error if known."""
    spread = "" if error is None else f" ± {error:.{decimals}f}"
    return MISSING if value is None else f"{value:.{decimals}f}{spread}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return MISSING if value is None else f"{100.0 * value:.{digits}f} %"


def ratio(value: float, null: float) -> float | None:
    """Return ``value / null``, or None if ``null`` allows no comparison."""
    return value / null if null > 0.0 else None


def duration(seconds: float | None) -> str:
    """Return 4.2 s, 3 min 12 s, 2 h 05 min, or 3 d 4 h."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(unix: float | None) -> str:
    """Return a Unix time as ``2026-11-23 04:05 UTC``."""
    if unix is None:
        return MISSING
    return datetime.fromtimestamp(unix, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def plain(value: Any) -> str:
    """Return a setting's value as a short text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(part) for part in value)
    return MISSING if value is None else str(value)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted keys; empty mappings disappear."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
