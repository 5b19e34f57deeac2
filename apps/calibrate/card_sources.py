"""The parts of the model card on the data: where each dataset comes from, and how to cite it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.version import __version__

_UNKNOWN = "not said"
_NAMES = {Split.TRAIN: "training", Split.VALIDATION: "validation", Split.TEST: "test"}
_FACTS = ("level_of_theory", "licence", "citation")


def sources(data: Mapping[str, Mapping[str, Any]]) -> str:
    """Return where the data of each dataset and test set come from.

    Parameters
    ----------
    data
        By dataset: ``digest``, ``provenance`` (its manifest's), and ``statistics`` as plain data.
    """
    lines = []
    for name, facts in data.items():
        origin, counts, groups = (
            facts["provenance"],
            *(facts["statistics"][key] for key in ("n_structures", "n_groups")),
        )
        splits = ", ".join(
            f"{_NAMES[split]} {counts[split]:,} in {groups[split]:,} groups" for split in Split if counts.get(split)
        )
        stated = [f"{key.replace('_', ' ')}: {origin.get(key) or _UNKNOWN}" for key in _FACTS]
        lines.append(f"- **{name}**: {'; '.join(stated)}; splits: {splits}; SHA-256 {facts['digest']}")
    return "\n".join(lines)


def how_to_cite(data: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what to cite: the program, and the citation of each dataset that has one."""
    cited: dict[str, list[str]] = {}
    for name, facts in data.items():
        if citation := facts["provenance"].get("citation"):
            cited.setdefault(str(citation), []).append(name)
    lines = [f"- gfm-pipeline {__version__}, as the file CITATION.cff of its source says"]
    lines += [f"- {citation} (data: {', '.join(names)})" for citation, names in cited.items()]
    silent = [name for name, facts in data.items() if not facts["provenance"].get("citation")]
    if silent:
        lines.append(f"- the data of {', '.join(silent)}, whose sources name no citation")
    return "\n".join(lines)
