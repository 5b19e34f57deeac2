"""Labels and metadata in the records of a source, and their uses."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class KeyFound:
    """One key that records of a source have.

    Attributes
    ----------
    key, kind
        Its name in the data, and what it is by that name; ``unknown`` where the name is not declared.
    shape
        ``number``, ``text``, or an array's shape in the first record that has it, N being the number of atoms.
    records
        Records that have it, good and bad.
    use
        What it is used as, or ``not used``.
    values
        Of keys that tell records apart: how many records have each value, the most frequent ones.
    """

    key: str
    kind: str
    shape: str
    records: int
    use: str
    values: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EnergiesOf:
    """Energies (eV/atom) of the records of one composition that have one value of a key."""

    key: str
    kind: str
    value: str
    formula: str
    records: int
    mean: float
    variance: float


@dataclass(frozen=True)
class LabelInventory:
    """The keys of a source, in the order they were met.

    ``notes`` say what was decided, ``warnings`` what should be looked at; both map a sentence to the number of records
    it holds for. ``records`` were looked at; 0 of readers that do not say their keys.
    """

    keys: tuple[KeyFound, ...] = ()
    notes: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    energies: tuple[EnergiesOf, ...] = ()
    records: int = 0
