"""Errors of a model on a sample of the validation splits, which a training of the search stores for the selection.

A safetensors file within the checkpoint: for each dataset and target, the errors (prediction minus label, float32,
[rows, components]) and the group of each row (int64, [rows]). The sample is the same for all models. The mean of
members' errors is the error of their mean, and the spread of their errors is the spread of their predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

from gfm_pipeline.core.contracts.targets import Level, Target

ERRORS_FILE = "validation_errors.safetensors"
STRUCTURES, ATOMS = 256, 512  # largest sample of a dataset
MOST_BYTES = 256 * 2**20  # a larger file is none of ours
_HEADER = 4096  # bytes per dataset, about


def error_key(dataset: str, target: str) -> str:
    """Return the key of errors [rows, components]."""
    return f"error/{dataset}/{target}"


def group_key(dataset: str, target: str) -> str:
    """Return the key of the groups of rows [rows]."""
    return f"group/{dataset}/{target}"


def largest_bytes(datasets: int, targets: Sequence[Target]) -> int:
    """Return the largest size of a file."""
    rows = {Level.GRAPH: STRUCTURES, Level.ATOM: ATOMS}
    return datasets * (_HEADER + sum(rows[t.level] * (4 * _components(t) + 8) for t in targets))


def _components(target: Target) -> int:
    count = 1
    for size in target.shape:
        count *= size
    return count
