"""Provenance of a dataset, as kept in its manifest."""

from __future__ import annotations

from typing import Any

from gfm_pipeline.core.contracts.data import AssembleSpec, SourceSettings
from gfm_pipeline.core.contracts.layout import Provenance


def filters(source: SourceSettings) -> dict[str, Any]:
    """Return the filters of a source by the names of the workflow file."""
    return {
        "max_force": source.max_force,
        "energy_window": None if source.energy_window is None else list(source.energy_window),
        "duplicates": str(source.duplicates),
        "isolated_atoms": source.isolated_atoms,
        "overlap": source.overlap,
        "inconsistent_pbc": str(source.inconsistent_pbc),
    }


def units(source: SourceSettings) -> dict[str, str]:
    """Return the units of the labels of a source."""
    return {
        "energy": str(source.energy_unit) + ("/atom" if source.energy_per_atom else ""),
        "length": str(source.length_unit),
        "force": f"{source.energy_unit}/{source.length_unit}",
        "force label": str(source.forces_are),
    }


def provenance(spec: AssembleSpec, conversions: tuple[str, ...], warnings: tuple[str, ...]) -> Provenance:
    """Return the provenance of the dataset that ``spec`` asks for."""
    source = spec.source
    return Provenance(
        source=source.name,
        reader=source.reader,
        n_files=len(source.files),
        level_of_theory=source.level_of_theory,
        licence=source.licence,
        citation=source.citation,
        charge=source.charge,
        spin=source.spin,
        units=units(source),
        conversions=conversions,
        filters={**filters(source), "max_quarantined": spec.max_quarantined},
        warnings=warnings,
    )


def lines(origin: Provenance) -> list[str]:
    """Return the provenance as lines of Markdown."""
    unknown = "not said"
    sentences = [
        ("level of theory", origin.level_of_theory),
        ("licence", origin.licence),
        ("citation", origin.citation),
        ("charge", origin.charge),
        ("spin multiplicity", origin.spin),
        ("units of the source", ", ".join(f"{what} {unit}" for what, unit in origin.units.items())),
        ("filters", ", ".join(f"{what} {limit}" for what, limit in origin.filters.items() if limit is not None)),
    ]
    return [f"- {what}: {unknown if value is None else value}" for what, value in sentences]
