"""Counts the keys of records during reading, and the decisions about them, at the cost of a few counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from gfm_pipeline.apps.ingest.labels.known_keys import MIXING, KeyKind, KeySet
from gfm_pipeline.apps.ingest.labels.plans import Remark, plan_of
from gfm_pipeline.apps.ingest.records import Record, reduced_formula
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.ingest.label_keys import EnergiesOf, KeyFound, LabelInventory
from gfm_pipeline.core.contracts.properties.attributes import CHARGE, SPIN

MOST_VALUES = 12
MOST_FORMULAS = 64
MOST_KEYS = 200
OTHERS = "others"
UNUSED = "not used"
# A key of records of one composition explains their energies when the means of its values lie this far apart.
APART = 0.05  # eV/atom
FAR_APART, FEW = 1.0, 3  # eV/atom, and records per value: for keys without declared meaning
SCATTERS = 4.0  # in standard deviations within the values


@dataclass
class Inventory:
    """Counts the keys of a source, record by record."""

    source: SourceSettings
    _records: int = 0
    _sets: Counter[KeySet] = field(default_factory=Counter)
    _values: dict[str, Counter[str]] = field(default_factory=dict)
    _remarks: Counter[Remark] = field(default_factory=Counter)
    _sums: dict[tuple[str, KeyKind, str, str], list[float]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Add a record from the reader."""
        if record.keys is None:
            return
        self._records += 1
        self._sets[record.keys] += 1
        self._remarks.update(record.remarks)
        for name, _, value in record.stated_keys:
            counts = self._values.setdefault(name, Counter())
            counts[value if value in counts or len(counts) < MOST_VALUES else OTHERS] += 1

    def add_energy(self, record: Record) -> None:
        """Add a converted, usable record."""
        if record.energy is None:
            return
        for name, kind, value in record.stated_keys:
            if kind not in MIXING and (kind is not KeyKind.UNKNOWN or OTHERS in self._values.get(name, ())):
                continue
            key = (name, kind, value, reduced_formula(record.numbers))
            sums = self._sums.get(key)
            if sums is None:
                if len(self._sums) >= MOST_FORMULAS * MOST_VALUES:
                    continue
                sums = self._sums[key] = [0.0, 0.0, 0.0]
            # Mean and sum of squares around it, updated (B. P. Welford, Technometrics 4, 419 (1962)).
            energy = record.energy / len(record.numbers)
            sums[0] += 1
            off = energy - sums[1]
            sums[1] += off / sums[0]
            sums[2] += off * (energy - sums[1])

    def found(self) -> LabelInventory:
        """Return the counts."""
        keys: dict[str, KeyFound] = {}
        for key_set, n in self._sets.items():
            uses = dict(plan_of(key_set, self.source).uses)
            for key in key_set.keys:
                use = uses.get(key.name, UNUSED)
                kind = str(key.kind) if key.declared or key.kind is KeyKind.UNKNOWN else f"looks like {key.kind}"
                one = KeyFound(
                    key.name, kind, key.shape, n, use, dict(self._values.get(key.name, Counter()).most_common())
                )
                keys[key.name] = _joined(keys.get(key.name), one, values=False)
        return LabelInventory(
            tuple(keys.values())[:MOST_KEYS],
            {remark.text: n for remark, n in self._remarks.most_common() if not remark.warns},
            {remark.text: n for remark, n in self._remarks.most_common() if remark.warns},
            tuple(
                EnergiesOf(name, str(kind), value, formula, int(n), mean, square / n)
                for (name, kind, value, formula), (n, mean, square) in self._sums.items()
            ),
            self._records,
        )


def _joined(known: KeyFound | None, new: KeyFound, values: bool = True) -> KeyFound:
    if known is None:
        return new
    counts = Counter(known.values)
    if values:
        counts.update(new.values)
    shape = known.shape if known.shape == new.shape else f"{known.shape} or {new.shape}"
    shape = known.shape if new.shape in known.shape.split(" or ") else shape
    use = known.use if new.use == UNUSED else new.use
    return KeyFound(known.key, known.kind, shape, known.records + new.records, use, dict(counts.most_common()))


def merge(parts: Iterable[LabelInventory]) -> LabelInventory:
    """Merge the counts of several shards."""
    keys: dict[str, KeyFound] = {}
    notes: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    energies: dict[tuple[str, str, str, str], EnergiesOf] = {}
    records = 0
    for part in parts:
        for key in part.keys:
            keys[key.key] = _joined(keys.get(key.key), key)
        notes.update(part.notes)
        warnings.update(part.warnings)
        records += part.records
        for new in part.energies:
            at = (new.key, new.kind, new.value, new.formula)
            energies[at] = _pooled(energies[at], new) if at in energies else new
    return LabelInventory(
        tuple(keys.values()), dict(notes.most_common()), dict(warnings.most_common()), tuple(energies.values()), records
    )


def _pooled(one: EnergiesOf, other: EnergiesOf) -> EnergiesOf:
    n = one.records + other.records
    share = other.records / n
    mean = one.mean + share * (other.mean - one.mean)
    variance = (1 - share) * one.variance + share * other.variance + share * (1 - share) * (other.mean - one.mean) ** 2
    return EnergiesOf(one.key, one.kind, one.value, one.formula, n, mean, variance)


def label_key_sentences(found: LabelInventory) -> tuple[str, ...]:
    """Return the warnings about the keys of a source, one sentence per warning."""
    counted = [f"{text} ({n:,} of {found.records:,} records)" for text, n in found.warnings.items()]
    return (*counted, *_mixtures(found))


def notes_of_keys(found: LabelInventory) -> tuple[str, ...]:
    """Return the decisions about the keys of a source, one sentence per decision."""
    return tuple(f"{text} ({n:,} of {found.records:,} records)" for text, n in found.notes.items())


def _mixtures(found: LabelInventory) -> Iterable[str]:
    """Yield a sentence per key that distinguishes records whose energies one branch should not mix."""
    for key in found.keys:
        if (key.kind not in MIXING and key.kind != KeyKind.UNKNOWN) or len(key.values) < 2:
            continue
        energies = [e for e in found.energies if e.key == key.key]
        if key.kind == KeyKind.UNKNOWN:
            gap, formula, clear = _gap([e for e in energies if e.records >= FEW])
            if clear and gap > FAR_APART and OTHERS not in key.values and key.use == UNUSED:
                yield _undeclared(key, gap, formula)
            continue
        gap, formula, clear = _gap(energies)
        if key.kind == KeyKind.CONFIG_TYPE and not (clear and gap > 4 * APART):
            continue
        if key.kind == KeyKind.SPIN and not clear:
            continue  # a composition with a single multiplicity mixes nothing
        shown = list(key.values.items())
        counts = ", ".join(f"{value} ({n:,} records)" for value, n in shown[:4])
        counts += f" and {len(shown) - 4} more" if len(shown) > 4 else ""
        apart = f"; energies of {formula} lie {gap:.3g} eV/atom apart by it" if clear else ""
        example = next((value for value, _ in shown if value not in (OTHERS, "none")), shown[0][0])
        yield (
            f"The source mixes records by {key.kind}: {key.key} is {counts}{apart}. One branch learns them all, and "
            f"{_unseen(key)}: give each a source of its own, e.g. select: {{{key.key}: {example}}}."
        )


def _unseen(key: KeyFound) -> str:
    """Return which part of a key models see, as a clause."""
    attribute = {str(KeyKind.CHARGE): CHARGE, str(KeyKind.SPIN): SPIN}.get(key.kind)
    unless = "" if attribute is None else f" unless they are told of it (search.space.condition_on: {attribute.name})"
    return f"models do not see {key.key}{unless}"


def _undeclared(key: KeyFound, gap: float, formula: str) -> str:
    """Return a sentence for a key without declared meaning that distinguishes energies of one composition."""
    shown = list(key.values.items())
    counts = ", ".join(f"{value} ({n:,} records)" for value, n in shown[:4])
    counts += f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return (
        f"Energies of {formula} lie {gap:.3g} eV/atom apart by {key.key}, whose meaning is not known here: it is "
        f"{counts}. If they are of several methods or charges, give each a source of its own, e.g. "
        f"select: {{{key.key}: {shown[0][0]}}}."
    )


def _gap(energies: list[EnergiesOf]) -> tuple[float, str, bool]:
    """Return the largest distance of means within a composition (eV/atom), the composition, and if it is clear."""
    by_formula: dict[str, list[EnergiesOf]] = {}
    for one in energies:
        by_formula.setdefault(one.formula, []).append(one)
    best = (0.0, "", False)
    for formula, some in by_formula.items():
        if len(some) < 2:
            continue
        gap = max(e.mean for e in some) - min(e.mean for e in some)
        within = (sum(e.records * e.variance for e in some) / sum(e.records for e in some)) ** 0.5
        best = max(best, (gap, formula, gap > max(APART, SCATTERS * within)))
    return best
