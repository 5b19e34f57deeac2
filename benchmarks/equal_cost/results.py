"""Results of ``benchmarks/accuracy.py``: a row per training in a CSV file, and the tables made from it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equal_cost.splits import SETS

Array = NDArray[np.float64]
OURS = "ours"
MARKS = {name: (f"<!-- {name} -->\n", f"<!-- end {name} -->") for name in ("figures", "ablation")}


@dataclass(frozen=True)
class Result:
    """One training. Errors are those of the test structures, meV per atom and meV/Angstrom per component.

    ``variant`` names what was changed for a trial; empty: the side as it stands in the table. ``settings`` is JSON.
    """

    set: str
    side: str
    variant: str
    settings: str
    seed: int
    budget: float
    cpu_seconds: float
    version: str
    parameters: int
    steps: int
    structures: int
    energy_rmse: float
    energy_mae: float
    force_rmse: float
    force_mae: float
    date: str

    @property
    def key(self) -> tuple[str, ...]:
        """What makes a training another one."""
        return (self.set, self.side, self.variant, self.settings, str(self.seed), f"{self.budget:g}")


def errors(
    atoms: Sequence[int], energy: Array, forces: Array, true_energy: Array, true_forces: Array
) -> dict[str, float]:
    """Return root mean square and mean absolute errors in meV per atom and meV/Angstrom."""
    wrong, pulled = 1e3 * (energy - true_energy) / np.asarray(atoms), 1e3 * (forces - true_forces)
    return {
        "energy_rmse": float(np.sqrt(np.mean(wrong**2))),
        "energy_mae": float(np.mean(np.abs(wrong))),
        "force_rmse": float(np.sqrt(np.mean(pulled**2))),
        "force_mae": float(np.mean(np.abs(pulled))),
    }


def read_results(path: Path) -> list[Result]:
    """Return the results of a file; none without it."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Result(**{f.name: {"int": int, "float": float}.get(str(f.type), str)(row[f.name]) for f in fields(Result)})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def add_result(path: Path, result: Result) -> None:
    """Append one row, and write the header first."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Result)], lineterminator="\n")
        if new:
            writer.writeheader()
        rounded = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(result).items()}
        writer.writerow(rounded)


def newest(results: Iterable[Result]) -> dict[tuple[str, ...], Result]:
    """Return the last result of each training."""
    return {result.key: result for result in results}


def figures(results: Iterable[Result], missing: Mapping[str, str]) -> list[str]:
    """Return the table of all sides on all sets, a budget after the other, as lines of Markdown.

    ``missing`` says why sides have no results.
    """
    plain = {(r.budget, r.set, r.side): r for r in results if not r.variant}
    lines = []
    for budget in sorted({budget for budget, _, _ in plain}):
        rows = [r for (b, _, _), r in plain.items() if b == budget]
        lines += [f"**{budget:g} CPU-seconds each** ({', '.join(sorted({r.version for r in rows}))})", ""]
        lines += ["| set | side | CPU s | structures seen | E RMSE | E MAE | F RMSE | F MAE |", "|---" * 8 + "|"]
        for name, about in SETS.items():
            rows = [r for (b, s, _), r in plain.items() if b == budget and s == name]
            for r in sorted(rows, key=lambda r: (r.side != OURS, r.side)):
                numbers = " | ".join(f"{v:.3g}" for v in (r.energy_rmse, r.energy_mae, r.force_rmse, r.force_mae))
                side = f"**{r.side}**" if r.side == OURS else r.side
                lines.append(f"| {name} | {side} | {r.cpu_seconds:.0f} | {r.structures:,} | {numbers} |")
            for model, (energy, force) in about.published.items() if rows else ():
                four = (
                    f"{energy:.2g} | | {force:.3g} | "
                    if about.measure == "rmse"
                    else f" | {energy:.2g} | | {force:.3g}"
                )
                lines.append(f"| {name} | *published: {model}* | | | {four} |")
        lines += ["", *verdicts(plain, budget), ""]
    return [*lines, *(f"{side} has no figures: {why}" for side, why in missing.items())]


def verdicts(plain: Mapping[tuple[float, str, str], Result], budget: float) -> list[str]:
    """Return ours over the better peer on every set that has both: below one, ours is better."""
    lines = ["| set | ours / best peer, E RMSE | F RMSE | at least as good in both |", "|---|---|---|---|"]
    for name in SETS:
        ours = plain.get((budget, name, OURS))
        peers = [r for (b, s, side), r in plain.items() if (b, s) == (budget, name) and side != OURS]
        if ours is None or not peers:
            continue
        energy = ours.energy_rmse / min(r.energy_rmse for r in peers)
        force = ours.force_rmse / min(r.force_rmse for r in peers)
        lines.append(f"| {name} | {energy:.2f} | {force:.2f} | {'yes' if max(energy, force) <= 1.0 else '**no**'} |")
    return lines if len(lines) > 2 else []


def ablation(results: Iterable[Result]) -> list[str]:
    """Return the trials of one change each, with their errors over those of the unchanged training beside them."""
    groups: dict[tuple[str, str, float], list[Result]] = {}
    for r in results:
        if r.variant:
            groups.setdefault((r.set, r.side, r.budget), []).append(r)
    lines = ["| set | CPU s | trial | structures seen | E RMSE | F RMSE |", "|---|---|---|---|---|---|"]
    for (name, side, budget), rows in groups.items():
        for r in rows:
            what = f"{side}: {r.variant}" if side != OURS else r.variant
            lines.append(
                f"| {name} | {budget:g} | {what} | {r.structures:,} | {r.energy_rmse:.3g} | {r.force_rmse:.3g} |"
            )
    return lines if groups else []


def replaced(page: str, name: str, lines: Sequence[str]) -> str:
    """Return the page with a table between its marks.

    Raises
    ------
    ValueError
        When the page has not exactly one pair of them.
    """
    first, last = MARKS[name]
    if page.count(first) != 1 or page.count(last) != 1 or page.index(first) > page.index(last):
        raise ValueError(f"The page needs one pair of marks for {name}: {first.strip()} and {last}.")
    table = "\n".join(lines)
    return page[: page.index(first) + len(first)] + f"\n{table}\n\n" + page[page.index(last) :]
