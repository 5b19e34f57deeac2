"""JSON without the marks by which decoders find a Python module to import (MSON: ``@module``, ``@class``)."""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMBERS = ("bool", "int", "uint", "float", "complex")


def unmarked(node: Any) -> Any:
    """Return JSON values without keys that begin with ``@``; a marked object keeps its plain fields.

    Arrays from monty (``{"@module": "numpy", "@class": "array", "dtype": ..., "data": ...}``) become arrays of numbers.
    """
    if isinstance(node, list):
        return [unmarked(item) for item in node] if any(isinstance(item, (dict, list)) for item in node) else node
    if not isinstance(node, dict):
        return node
    if node.get("@module") == "numpy" and str(node.get("dtype")).startswith(_NUMBERS):
        return np.asarray(node.get("data"), dtype=np.complex128 if "complex" in node["dtype"] else None)
    return {key: unmarked(value) for key, value in node.items() if not str(key).startswith("@")}
