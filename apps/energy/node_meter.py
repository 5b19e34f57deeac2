"""The energy counters of one node: those of the whole node, or else those of GPUs and processors."""

from __future__ import annotations

from collections.abc import Sequence

from gfm_pipeline.core.contracts.energy import (
    SOURCES,
    CounterReading,
    EnergyMeter,
    EnergyPlan,
    EnergyScope,
    make_meter,
)


class NodeMeter:
    """Reads the counters of a node so that each joule counts once.

    Sources are tried in order, except those whose scope is already covered. So two sources of the same GPUs, or a
    node's counter and its parts, are never added.

    Parameters
    ----------
    plan
        Sources, and folders of their files.
    """

    def __init__(self, plan: EnergyPlan) -> None:
        self.trouble: dict[str, str] = {}
        self._meters: dict[str, EnergyMeter] = {}
        covered: set[EnergyScope] = set()
        for name in plan.sources:
            scope = SOURCES.describe(name).scope
            if scope in covered or EnergyScope.NODE in covered or (scope is EnergyScope.NODE and covered):
                continue
            try:
                meter = make_meter(name, plan.roots.get(name))
                meter.read()
            except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:  # an older or newer driver
                self.trouble[name] = (str(error).splitlines() or [type(error).__name__])[0]
                continue
            covered.add(scope)
            self._meters[name] = meter

    @property
    def source(self) -> str:
        """Names of the sources in use; '' without any."""
        return "+".join(self._meters)

    def read(self) -> dict[str, CounterReading]:
        """Return every readable counter by source and name; unreadable ones are left out."""
        found: dict[str, CounterReading] = {}
        for name, meter in self._meters.items():
            try:
                found |= {f"{name}:{counter}": reading for counter, reading in meter.read().items()}
            except (OSError, AttributeError, KeyError, TypeError, ValueError):  # noqa: PERF203 - gone; it may come back
                continue
        return found


def readable(sources: Sequence[str], roots: dict[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the current total of each source (J), and why the others cannot be read."""
    found, trouble = {}, {}
    for name in sources:
        meter = NodeMeter(EnergyPlan((name,), roots))
        counters = meter.read()
        if counters:
            found[name] = sum(reading.joules for reading in counters.values())
        else:
            trouble[name] = meter.trouble.get(name, "it shows nothing")
    return found, trouble
