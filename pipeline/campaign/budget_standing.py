"""How the limits of a budget stand, as the driver records it and people see it."""

from __future__ import annotations

from dataclasses import dataclass

QUANTITIES = ("node_hours", "kwh", "hours")
UNITS = {"node_hours": "node-hours", "kwh": "kWh", "hours": "hours", "trials": "trials"}


@dataclass(frozen=True)
class Standing:
    """How one limit stands; ``key`` is its place in the workflow file, ``stage`` '' for one of the whole campaign."""

    key: str
    stage: str
    quantity: str
    limit: float
    spent: float
    reserved: float

    @property
    def left(self) -> float:
        """What may still be promised."""
        return self.limit - self.spent - self.reserved


@dataclass(frozen=True)
class BudgetReviewed:
    """How all limits stand; recorded when a driver begins, when a stage begins, and when a driver ends."""

    standings: tuple[Standing, ...]


def sentence(standing: Standing) -> str:
    """Return how a limit stands, for people."""
    unit = UNITS[standing.quantity]
    where = f" of {standing.stage}" if standing.stage else ""
    return (
        f"{unit}{where}: {standing.spent:,.3g} of {standing.limit:,.6g} spent, {standing.reserved:,.3g} reserved, "
        f"{max(0.0, standing.left):,.3g} left"
    )
