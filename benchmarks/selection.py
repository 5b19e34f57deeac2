"""Members chosen on one half of the validation groups, judged on the other half.

``python benchmarks/selection.py CAMPAIGN [MEMBERS] [HALVES]``: of a campaign whose search stored errors
(``converge.selection: greedy``), prints for each selection the mean negative log-likelihood of the ensemble with equal
weights, calibrated on the half it was chosen on, and the share of halves in which it is lower than that of ``best``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.engine.stages.trials import objective_of, task_name
from gfm_pipeline.search.greedy import FLOORS, SMALLEST, Greedy, fitted_scales, negative_log
from gfm_pipeline.search.selection import Best, Diverse, Finalist
from gfm_pipeline.search.stored_errors import StoredErrors, read_errors


def finalists(campaign: Path) -> tuple[list[Finalist], dict[str, StoredErrors]]:
    """Return the candidates of the search with stored errors."""
    paths = CampaignPaths(campaign)
    stage = load_state(paths.journal).stage("search")
    if stage is None:
        raise SystemExit(f"{campaign} has no search.")
    found, errors = [], {}
    for candidate in stage.candidates().values():
        rungs = range(len(stage.settings["rungs"]))
        values = {r: v for r in rungs if (v := objective_of(stage, candidate.name, r)) is not None}
        if not values:
            continue
        rung = max(values)
        read = read_errors(paths.stage("search", stage.key).checkpoint(task_name(candidate.name, rung)))
        if isinstance(read, StoredErrors):
            found.append(Finalist(candidate.name, rung, values[rung], str(candidate.settings["algorithm"])))
            errors[candidate.name] = read
    return found, errors


def half(errors: StoredErrors, groups: Mapping[str, np.ndarray]) -> StoredErrors:
    """Return the errors of some groups of each dataset."""
    kept = {name: np.isin(errors.groups[name], groups[name.partition("/")[0]]) for name in errors.errors}
    return StoredErrors(
        "",
        {name: values[kept[name]] for name, values in errors.errors.items()},
        {name: values[kept[name]] for name, values in errors.groups.items()},
    )


def judged(names: Sequence[str], fit: Mapping[str, StoredErrors], other: Mapping[str, StoredErrors]) -> float:
    """Return the negative log-likelihood on ``other`` of members with equal weights, calibrated on ``fit``."""
    values = []
    for quantity in fit[names[0]].errors:
        parts = [np.stack([s[n].errors[quantity].reshape(-1) for n in names]) for s in (fit, other)]
        (mean, there), (spread, spread_there) = zip(*((p.mean(0), p.var(0, ddof=1)) for p in parts), strict=True)
        typical = float(spread.mean())
        shape, shape_there = ((1 - FLOORS[:, None]) * s / typical + FLOORS[:, None] for s in (spread, spread_there))
        square, square_there = mean**2 + SMALLEST, there**2 + SMALLEST
        scale = fitted_scales(square, shape)
        chosen = int(np.argmin(negative_log(square, scale[:, None] * shape).mean(axis=1)))
        values.append(negative_log(square_there, scale[chosen] * shape_there[chosen]).mean())
    return float(np.mean(values))


def main(campaign: str, members: str = "4", halves: str = "12") -> None:
    """Print the table."""
    found, errors = finalists(Path(campaign))
    count, rng, rows = int(members), np.random.default_rng(0), []
    first = errors[found[0].name]
    for _ in range(int(halves)):
        sides: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = {}, {}
        for dataset in dict.fromkeys(name.partition("/")[0] for name in first.errors):
            mine = [first.groups[name] for name in first.errors if name.partition("/")[0] == dataset]
            drawn = rng.permutation(np.unique(np.concatenate(mine)))
            for side, part in zip(sides, np.array_split(drawn, 2), strict=True):
                side[dataset] = part
        fit, other = ({name: half(one, side) for name, one in errors.items()} for side in sides)
        chosen = {
            "best": [f.name for f in Best().choose(found, count, count)],
            "greedy": list(Greedy().rank(found, count, count, fit).weights),
            "diverse": [f.name for f in Diverse().choose(found, count, count)],
        }
        rows.append([judged(names, fit, other) for names in chosen.values()])
    table = np.array(rows)
    for name, column in zip(("best", "greedy", "diverse"), table.T, strict=True):
        print(f"{name:8} {column.mean():8.4f}  better than best in {(column < table[:, 0]).mean():.0%} of the halves")


if __name__ == "__main__":
    main(*sys.argv[1:])
