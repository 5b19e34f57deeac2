"""Reads the stored errors of trainings (`gfm_pipeline.core.contracts.attempts.stored_errors`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from gfm_pipeline.core.contracts.attempts.stored_errors import ERRORS_FILE, MOST_BYTES


@dataclass(frozen=True)
class StoredErrors:
    """Errors of one model: by quantity (a target of a dataset), [rows, components], and the group of each row.

    ``digest`` is the SHA-256 of the file.
    """

    digest: str
    errors: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray]

    def same_sample(self, other: StoredErrors) -> bool:
        """Return whether both have errors on the same structures."""
        return self.errors.keys() == other.errors.keys() and all(
            self.errors[name].shape == other.errors[name].shape
            and np.array_equal(self.groups[name], other.groups[name])
            for name in self.errors
        )


def read_errors(checkpoint: Path) -> StoredErrors | str:
    """Return the errors that a checkpoint stores, or why it has no usable ones."""
    path = checkpoint / ERRORS_FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            return "its stored errors are too large"
        content = path.read_bytes()
        arrays = load(content)
    except FileNotFoundError:
        return "its training stored no errors"
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        return f"its stored errors cannot be read ({str(error).splitlines()[0]})"
    parts: dict[str, dict[str, np.ndarray]] = {"error": {}, "group": {}}
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        if kind in parts:
            parts[kind][name] = array
    errors, groups = parts["error"], parts["group"]
    whole = errors.keys() == groups.keys() and all(
        error.ndim == 2 and groups[name].shape == (len(error),) for name, error in errors.items()
    )
    if not whole or not any(error.size for error in errors.values()):
        return "its stored errors have another form"
    if not all(np.isfinite(error).all() for error in errors.values()):
        return "its stored errors are not finite"
    known = sorted(name for name, error in errors.items() if error.size)
    return StoredErrors(
        hashlib.sha256(content).hexdigest(),
        {name: errors[name].astype(np.float64) for name in known},
        {name: groups[name] for name in known},
    )
