"""Conversion of further labels to the units of their targets; virials become stresses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gfm_pipeline.apps.ingest.checks.label_shapes import Numbers, as_declared
from gfm_pipeline.apps.ingest.labels.known_keys import KeyKind, kind_of
from gfm_pipeline.apps.ingest.labels.plans import plan_of
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.targets import Origin, Target
from gfm_pipeline.core.contracts.units import LabelUnit, label_unit


class LabelConversion:
    """Conversion of the labels of one source to those of its dataset.

    A key named virial holds minus the stress times the volume, as in extended XYZ files of QUIP and its successors,
    unless ``label_units`` of the source sets another unit.

    Parameters
    ----------
    source
        The source of the records.
    """

    def __init__(self, source: SourceSettings) -> None:
        stated = source.label_units or {}
        self.source = source
        self.targets = {t.name: t for t in source.columns}
        self.stated = {name: label_unit(text, self.targets[name]) for name, text in stated.items()}

    def unit_of(self, target: Target, key: str | None) -> LabelUnit:
        """Return the unit of the label of a target under a key; None: the key is not known."""
        if target.name in self.stated:
            return self.stated[target.name]
        if target.origin is Origin.STRAIN and key is not None and kind_of(key)[0] is KeyKind.VIRIAL:
            return label_unit(f"-{self.source.energy_unit}", target)
        return label_unit(target.unit, target)

    def sentences(self) -> list[str]:
        """Return the conversions that the source requests, for people."""
        return [
            f"{name} was converted from {unit.text} to {self.targets[name].unit} "
            f"({'divided by the volume, ' if unit.per_volume else ''}times {unit.factor:.9g})."
            for name, unit in self.stated.items()
            if unit.factor != 1.0 or unit.per_volume
        ]

    def labels(self, record: Record, cell: Numbers) -> dict[str, Numbers]:
        """Return the labels and declared attributes of a record in their units and shapes.

        Parameters
        ----------
        record
            Record from the reader.
        cell
            Its lattice vectors as rows [3, 3], Angstrom. Without three periodic directions a virial gives no stress,
            and the label is missing.
        """
        keys: Mapping[str, str] = {}
        if record.keys is not None and any(t.origin is Origin.STRAIN for t in self.targets.values()):
            keys = dict(plan_of(record.keys, self.source).labels)
        found = {name: np.array(value) for name, value in (self.source.attribute_values or {}).items()}
        for name, values in record.labels.items():
            target = self.targets[name]
            unit = self.unit_of(target, keys.get(name))
            factor = unit.factor
            if unit.per_volume:
                volume = float(abs(np.linalg.det(cell))) if np.all(record.pbc) else 0.0
                if not volume > 0:
                    continue
                factor /= volume
            found[name] = as_declared(target, values, len(record.numbers)) * factor
        return found
