"""The state of a budget's limits, for the journal and for users."""

from __future__ import annotations

from dataclasses import dataclass

QUANTITIES = ("node_hours", "kwh", "hours")
UNITS = {"node_hours": "node-hours", "kwh": "kWh", "hours": "hours", "trials": "trials"}


@dataclass(frozen=True)
class Standing:
    """The state of one limit; ``key`` is its key in the workflow file, ``stage`` is '' for the whole campaign."""

    key: str
    stage: str
    quantity: str
    limit: float
    spent: float
    reserved: float

    @property
    def left(self) -> float:
        """The part that may still be reserved."""
        return self.limit - self.spent - self.reserved


@dataclass(frozen=True)
class BudgetReviewed:
    """The state of all limits; recorded when a driver begins, when a stage begins, and when a driver ends."""

    standings: tuple[Standing, ...]


def sentence(standing: Standing) -> str:
    """Return the state of a limit, as a sentence for users."""
    unit = UNITS[standing.quantity]
    where = f" of {standing.stage}" if standing.stage else ""
    return (
        f"{unit}{where}: {standing.spent:,.3g} of {standing.limit:,.6g} spent, {standing.reserved:,.3g} reserved, "
        f"{max(0.0, standing.left):,.3g} left"
    )
