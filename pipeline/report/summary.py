"""The summary at the end of a run: outputs, accuracy, and paths."""

from __future__ import annotations

import shlex

from gfm_pipeline.report.tables.headlines import in_unit
from gfm_pipeline.report.view import CampaignView


def doubts(view: CampaignView) -> tuple[str, ...]:
    """Return the datasets for which the ensemble should not be used, with reasons: absurd errors."""
    if view.calibration is None:
        return ()
    return tuple(
        f"{name} should not be used: {doubt}. See the warnings of its data in the report."
        for name, report in view.calibration.datasets.items()
        for doubt in report.doubts()
    )


def remarks(view: CampaignView) -> tuple[str, ...]:
    """Return remarks on weak results: members that did not converge, an ensemble clearly worse than a member."""
    found = []
    converge = view.resolved.get("converge")
    criterion = converge.get("criterion") if isinstance(converge, dict) else None
    limited = [member.name for member in view.members if member.status == "limit"]
    if limited and not (isinstance(criterion, dict) and criterion.get("name") == "limit"):
        names = ", ".join(limited)
        found.append(
            f"{len(limited)} of {len(view.members)} members did not converge ({names}): they reached "
            "converge.max_graphs while they still improved. Raise it, and run again."
        )
    for name, report in ({} if view.calibration is None else view.calibration.judged).items():
        for target, part in report.quantities():
            mae, best = in_unit(target, part.mae), in_unit(target, part.best_member_mae)
            beyond = part.mae - part.best_member_mae > 2.0 * (part.excess_error or 0.0)
            if part.n and beyond and mae != best:
                found.append(
                    f"On {name} the ensemble is worse than its best member alone: {target.name} MAE {mae} against "
                    f"{best} {target.printed_unit}."
                )
    return tuple(found)


def summary_lines(view: CampaignView, folder: str) -> list[str]:
    """Return the lines printed at the end of a campaign."""
    lines = [
        "",
        f"Campaign {view.name} is done: {len(view.members)} members, chosen from {len(view.candidates)} candidates.",
    ]
    if view.calibration is not None:
        level = view.calibration.level
        lines.append("")
        wide = max(14, *(len(name) for name in view.calibration.judged))
        covered = f"{level:.0%} intervals cover"
        lines.append(f"  {'test split':<{wide}}{'energy MAE':>17}{'force MAE':>17}{'of nothing*':>13}{covered:>25}")
        for name, report in view.calibration.judged.items():
            energy, forces = report.energy, report.forces
            mae = [f"{1000 * energy.mae:.1f} meV/at" if energy.n else "none", "none", "none"]
            parts = [f"E {energy.coverage_calibrated:.1%}"] if energy.n else []
            if forces.n:
                mae[1] = f"{1000 * forces.mae:.0f} meV/A"
                mae[2] = f"{forces.mae / forces.null_mae:.2f}" if forces.null_mae else "none"
                parts.append(f"F {forces.coverage_calibrated:.1%}")
            lines.append(f"  {name:<{wide}}{mae[0]:>17}{mae[1]:>17}{mae[2]:>13}{', '.join(parts):>25}")
            for target, part in report.quantities():
                if part.n and target.name in report.others:
                    error = f"{in_unit(target, part.mae)} {target.printed_unit}"
                    nothing = f"{part.mae / part.null_mae:.2f}" if part.null_mae else "none"
                    lines.append(f"    {target.name:<12}{error:>34}{nothing:>13}{part.coverage_calibrated:>25.1%}")
        lines.append("  * force MAE as a share of predicting zero forces")
        lines += [f"  WARNING {sentence}" for sentence in doubts(view)]
        lines += [f"  NOTE {sentence}" for sentence in remarks(view)]
    lines += [
        "",
        f"  report     {folder}/report.html (and report.md)",
        f"  status     gfm-pipeline status {shlex.quote(folder)}",
        "  calculator from gfm_pipeline.apps.calculator import GFMCalculator",
        f"             GFMCalculator.from_campaign({folder!r}, dataset=...)",
    ]
    return lines
