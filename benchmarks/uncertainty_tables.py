"""Tables of `uncertainty.py`: each takes predictions of test sets and prints Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from uncertainty_sets import Flags, Frames

from gfm_pipeline.apps.calibrate.groups import bootstrap_error
from gfm_pipeline.apps.calibrate.ranking import auprc, auroc, ause, worst
from gfm_pipeline.apps.deploy.predictor import Predictor

TOGETHER = 64  # structures computed at once
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """Predictions of a set, as arrays over its structures; forces are components, end to end."""

    of: Frames
    results: list[dict[str, Any]]
    error: Floats
    covered: Flags
    flagged: Flags
    distance: Floats
    spread: Floats
    forces_covered: Flags

    @classmethod
    def by(cls, predictor: Predictor, of: Frames) -> Predicted:
        """Predict a set."""
        frames = of.frames
        parts = (frames[first : first + TOGETHER] for first in range(0, len(frames), TOGETHER))
        results = [result for part in parts for result in predictor.predict(part)]
        pairs = list(zip(results, frames, strict=True))
        error = np.array([r["energy"] - a.get_potential_energy() for r, a in pairs])
        inside = [
            (np.abs(r["forces"] - a.calc.results["forces"]) <= r["forces_interval"]).ravel()
            for r, a in pairs
            if "forces" in a.calc.results
        ]
        return cls(
            of,
            results,
            error,
            np.abs(error) <= np.array([r["energy_interval"] for r in results]),
            ~np.array([r["in_domain"] for r in results]),
            np.array([r["distance"] for r in results]),
            np.array([r["energy_std"] / len(a) for r, a in pairs]),
            np.concatenate(inside) if inside else np.zeros(0, dtype=bool),
        )

    @classmethod
    def joined(cls, name: str, parts: list[Predicted]) -> Predicted:
        """Return several sets as one."""
        frames = [atoms for one in parts for atoms in one.of.frames]
        arrays = {
            key: np.concatenate([getattr(one, key) for one in parts])
            for key in ("error", "covered", "flagged", "distance", "spread", "forces_covered")
        }
        outside = np.concatenate([one.of.outside for one in parts])
        return cls(Frames(name, frames, outside), [r for one in parts for r in one.results], **arrays)

    def force_errors(self) -> Floats:
        """Return the errors of all force components [N, 3]."""
        return np.concatenate([r["forces"] - a.get_forces() for r, a in zip(self.results, self.of.frames, strict=True)])


def percent(share: Flags) -> str:
    """Return a share in percent; nothing for an empty one."""
    return f"{100 * np.mean(share):.0f} %" if len(share) else ""


def header(*titles: str) -> None:
    """Print the head of a table whose first column is text."""
    print(f"\n| {' | '.join(titles)} |")
    print(f"|---{'|---:' * (len(titles) - 1)}|")


def by_set(found: list[Predicted]) -> None:
    """Print a row for each set; AUROC compares it, or its structures that are out of domain, with the first set.

    A set that holds structures like those of the first one bounds the AUROC of the whole set: see `ideal`.
    """
    header(
        "set", "structures", "out of domain", "median energy error, eV", "energies covered", "forces covered",
        "flagged", "covered or flagged", "covered of not flagged", "AUROC distance", "AUROC spread",
        "AUROC of an ideal detector", "out of domain: flagged", "covered or flagged", "AUROC distance",
    )  # fmt: skip
    first = found[0]
    for one in found:
        out, told = one.of.outside, ["", "", "", "", "", ""]
        if one is not first:
            told[:2] = [_against(first, one, key, np.ones(len(out), dtype=bool)) for key in ("distance", "spread")]
            told[2] = f"{ideal(out):.3f}"
        if out.any():
            told[3:] = [percent(one.flagged[out]), percent((one.covered | one.flagged)[out])]
            told.append(_against(first, one, "distance", out))
        shares = [percent(s) for s in (one.covered, one.forces_covered, one.flagged, one.covered | one.flagged)]
        shares.append(percent(one.covered[~one.flagged]))
        row = [one.of.name, str(len(out)), str(int(out.sum())), f"{np.median(np.abs(one.error)):.3g}", *shares, *told]
        print(f"| {' | '.join(row)} |", flush=True)


def ideal(outside: Flags) -> float:
    """Return the AUROC of a whole set, against the first one, that an ideal detector reaches.

    It puts each structure that is out of domain before all of the first set, and cannot tell the others from these.
    """
    share = float(np.mean(outside))
    return share + 0.5 * (1.0 - share)


def print_chance(like: list[Predicted], calibrated: int, level: float) -> None:
    """Print how much the coverage of sets like the training data scatters by chance.

    With n independent structures to calibrate on, the coverage of new ones has a beta distribution around the level
    (Vovk, 2012); a set of m structures adds the scatter of a binomial count.
    """
    within = [
        f"{one.of.name} {one.covered.mean():.1%}, by chance {level:.0%} ± "
        f"{np.sqrt(level * (1.0 - level) * (1.0 / (calibrated + 2) + 1.0 / len(one.covered))):.1%}"
        for one in like
    ]
    print(f"\nEnergies covered, calibrated on {calibrated} structures: {'; '.join(within)}")


def _against(first: Predicted, one: Predicted, measure: str, chosen: Flags) -> str:
    values = np.concatenate([getattr(first, measure), getattr(one, measure)[chosen]])
    return f"{auroc(values, np.arange(len(values)) >= len(first.error)):.3f}"


def by_element(one: Predicted) -> None:
    """Print the coverage of force components by element, with an error whose clusters are structures."""
    frames = one.of.frames
    symbols = np.concatenate([a.symbols for a in frames])
    structure = np.repeat(np.arange(len(frames)), [len(a) for a in frames])
    inside_of_atoms = one.forces_covered.reshape(-1, 3).sum(1).astype(float)
    shown = []
    for symbol in np.unique(symbols):
        own = symbols == symbol
        inside = np.bincount(structure[own], weights=inside_of_atoms[own], minlength=len(frames))
        counts = np.bincount(structure[own], minlength=len(frames)) * 3.0
        shown.append(f"{symbol} {inside.sum() / counts.sum():.1%} ± {bootstrap_error(inside, counts):.1%}")
    print(f"\nForces covered on {one.of.name}, by element: {', '.join(shown)}")


def worst_forces(one: Predicted) -> dict[str, tuple[float, float, float]]:
    """Return AUROC, AUPRC and AUSE of measures of an atom for the tenth of the atoms with the largest errors."""
    results = one.results
    bound = np.concatenate([r["forces_interval"] for r in results])
    measures = {
        "half-width": np.linalg.norm(bound, axis=1),
        "spread": np.linalg.norm(np.concatenate([r["forces_std"] for r in results]), axis=1),
        "distance": np.concatenate([r["distances"] for r in results]),
        "length of the force": np.linalg.norm(np.concatenate([r["forces"] for r in results]), axis=1),
    }
    error = np.linalg.norm(one.force_errors(), axis=1)
    return {name: (auroc(of, worst(error)), auprc(of, worst(error)), ause(error, of)) for name, of in measures.items()}


def print_worst_forces(one: Predicted) -> None:
    """Print a row for each measure."""
    header(f"largest tenth of force errors, {one.of.name}", "AUROC", "AUPRC", "AUSE")
    for name, values in worst_forces(one).items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")


def tails(found: dict[str, Floats]) -> None:
    """Print quantiles of the absolute error of energies, eV."""
    header("energy errors, eV", "structures", "median", "90 % quantile")
    for name, error in found.items():
        middle, far = np.quantile(np.abs(error), (0.5, 0.9))
        print(f"| {name} | {len(error)} | {middle:.4f} | {far:.4f} |")
