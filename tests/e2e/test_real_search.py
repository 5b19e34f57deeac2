"""A whole search for real: Parsl, the surrogate of DeepHyper and the trainer, 24 candidates of four algorithms."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.engine.stages.trials import objective_of

pytestmark = [pytest.mark.slow, pytest.mark.long]

CANDIDATES = 24
WORKFLOW = f"""\
name: real
seed: 5
data:
  sources: {{alloys: {{reader: emt-alloys, options: {{parents: 60, children: 2, sizes: [4]}}}}}}
  validation: 0.2
  test: 0.2
search:
  candidates: {CANDIDATES}
  wave: 6
  rungs: [96, 288, 864]
  reduction: 3
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [8, 16]
    layers: [1, 2]
    cutoff: {{low: 3.0, high: 4.5}}
    learning_rate: {{low: 1e-4, high: 3e-2, scale: log}}
    batch_size: [4, 8]
converge: {{members: 2, check_every: 864, patience: 1, max_graphs: 1728}}
"""


def test_twenty_four_trials_are_proposed_trained_and_promoted(tmp_path: Path):
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    words = ["w.yaml", "--site", "local", "--set", "site.compile_training=never", "--set", "site.slots=2"]
    runs.finish(tmp_path, "run", *words, "--until", "search")
    journal = tmp_path / "campaigns" / "real" / "journal.jsonl"
    search = load_state(journal).stage("search")
    assert search is not None
    proposed = [search.waves[wave].candidates for wave in sorted(search.waves)]
    settings = [tuple(sorted(c.settings.items())) for wave in proposed for c in wave]
    assert len(settings) == len(set(settings)) == CANDIDATES
    trained = [{c for c in search.candidates() if objective_of(search, c, rung) is not None} for rung in range(3)]
    assert len(trained[0]) >= CANDIDATES - 3  # a large learning rate may diverge
    assert len(trained[1]) <= CANDIDATES // 3
    assert 1 <= len(trained[2]) <= CANDIDATES // 9
    assert trained[2] <= trained[1] <= trained[0]
    promoted = {c for decision in search.decisions.values() for c in decision.promoted}
    assert promoted == trained[1] | trained[2]
    # What the surrogate proposed is better than the first design, by the median of the first rung.
    first, later = (sorted(objectives(search, wave)) for wave in (proposed[0], [c for w in proposed[2:] for c in w]))
    assert later[len(later) // 2] < first[len(first) // 2]
    ended = [e for e in runs.events(journal) if isinstance(e, ev.TaskEnded) and e.outcome is ev.AttemptOutcome.OK]
    assert len({(e.key, e.task) for e in ended}) == len(ended)  # each trial and rung once
    runs.finish(tmp_path, "replay", str(journal.parent))


def objectives(search, candidates) -> list[float]:
    found = [objective_of(search, c.name, 0) for c in candidates]
    return [value for value in found if value is not None]
