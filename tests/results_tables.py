"""Tables of an earlier search, for searches that begin with one."""

from __future__ import annotations

import numpy as np

from gfm_pipeline.search.space import SearchSpace


def results_of(space: SearchSpace) -> str:
    """Return a table of one candidate of a search space, in DeepHyper's columns."""
    settings = space.settings(space.sample(1, np.random.default_rng(0))[0])
    head = [*(f"p:{name}" for name in settings), "objective"]
    return "\n".join([",".join(head), ",".join([*map(str, settings.values()), "-1"])]) + "\n"
