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
    """Reads what is to be read of a node, each joule once.

    Sources are tried in order; one whose scope is covered already is not looked at, so neither two sources of the same
    GPUs nor a node's counter and its parts are ever added.

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
            except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:  # a driver older or newer
                self.trouble[name] = (str(error).splitlines() or [type(error).__name__])[0]
                continue
            covered.add(scope)
            self._meters[name] = meter

    @property
    def source(self) -> str:
        """Names of the sources that are read, '' where there are none."""
        return "+".join(self._meters)

    def read(self) -> dict[str, CounterReading]:
        """Return every counter that can be read now, by source and name; those that cannot are left out."""
        found: dict[str, CounterReading] = {}
        for name, meter in self._meters.items():
            try:
                found |= {f"{name}:{counter}": reading for counter, reading in meter.read().items()}
            except (OSError, AttributeError, KeyError, TypeError, ValueError):  # noqa: PERF203 - gone; it may come back
                continue
        return found


def readable(sources: Sequence[str], roots: dict[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return what each source shows now in all (J), and why the others cannot be read."""
    found, trouble = {}, {}
    for name in sources:
        meter = NodeMeter(EnergyPlan((name,), roots))
        counters = meter.read()
        if counters:
            found[name] = sum(reading.joules for reading in counters.values())
        else:
            trouble[name] = meter.trouble.get(name, "it shows nothing")
    return found, trouble
