"""Drafts of workflow files: the chosen settings, each with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SMALLEST, LARGEST = 500, 10_000  # limits of graphs at the first rung
GROWTH = 3  # of the rungs
PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
RESERVED = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
COLUMN = 48  # first column of comments

HEAD = """\
# Written by `gfm-pipeline init`. Each setting that was chosen says why; docs/workflow.md explains every key.
#   gfm-pipeline validate {file}     is the file right?
#   gfm-pipeline ingest {file}       what would be made of the data: units, signs, outliers, splits
#   gfm-pipeline plan {file}         what would run, and what it may cost
#   gfm-pipeline run {file}
"""
REST = """\
search:
  candidates: 16              # in all
  rungs: {rungs}   # graphs seen; at each rung only the best go on ...
  reduction: 2                # ... one in two
  validation_limit: 1000      # structures per dataset validated on at each rung
  space:                      # a list is a choice, {{low, high, scale}} a range
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [32, 64, 128]
    layers: {{low: 2, high: 4}}
    cutoff: 5.0               # Angstrom
    learning_rate: {{low: 5.0e-4, high: 5.0e-3, scale: log}}
    batch_size: [8, 16]
    force_weight: {{low: 0.3, high: 30, scale: log}}

converge:
  members: 4                  # the ensemble: the best candidates, trained on
  check_every: {check_every}  # graphs between validations
  max_graphs: {max_graphs}    # in case a member never converges

calibrate:
  level: 0.9                  # intervals that cover 90 %

# budget: {{node_hours: 100, kwh: 50}}   # docs/budgets.md
"""


@dataclass(frozen=True)
class Chosen:
    """A setting, and the reason for its value."""

    value: Any
    why: str


@dataclass(frozen=True)
class SourceDraft:
    """One source: settings by key in the order of the file, hints for comments, and the number of usable records."""

    name: str
    settings: Mapping[str, Chosen]
    hints: tuple[str, ...] = ()
    records: int = 0


@dataclass(frozen=True)
class WorkflowDraft:
    """A campaign with its sources. ``data`` are the other settings of the section."""

    name: str
    sources: tuple[SourceDraft, ...]
    data: Mapping[str, Chosen] = field(default_factory=dict)

    def text(self, file: str) -> str:
        """Return the text of the workflow file named ``file``."""
        lines = [HEAD.format(file=file), f"name: {_scalar(self.name)}", "seed: 1   # of everything random", "", "data:"]
        lines.append("  sources:")
        for source in self.sources:
            lines.append(f"    {_scalar(source.name)}:")
            lines += [_line(6, key, chosen) for key, chosen in source.settings.items()]
            lines += [f"      # {hint}" for hint in source.hints]
        lines += [_line(2, key, chosen) for key, chosen in self.data.items()]
        first = min(LARGEST, max(SMALLEST, GROWTH * max((s.records for s in self.sources), default=0)))
        rungs = [first * GROWTH**k for k in range(3)]
        rest = REST.format(rungs=rungs, check_every=first, max_graphs=100 * first)
        return "\n".join(lines) + "\n\n" + rest


def _line(indent: int, key: str, chosen: Chosen) -> str:
    text = f"{' ' * indent}{key}: {_scalar(chosen.value)}"
    return f"{text:<{COLUMN}}  # {chosen.why}" if chosen.why else text


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line: JSON, or a plain word."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)
