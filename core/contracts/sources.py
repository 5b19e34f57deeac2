"""Settings of a source that belong to its reader; the engine checks them before it starts anything.

Group keys: besides a metadata key, ``SourceSettings.group_key`` may be ``@file`` (each file, or member of an
archive, is a group), ``@record`` (records are independent) or ``@block:N`` (N consecutive records of a file are a
group).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gfm_pipeline.core.contracts.data import EnergyUnit, ForceSign, LengthUnit, SourceSettings, Split
from gfm_pipeline.core.contracts.options import ReaderOptions
from gfm_pipeline.core.contracts.readers import describe, suggestion
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.explain import expected_text, short


@dataclass(frozen=True)
class RecordedFile:
    """A file that ingest read: its name, its SHA-256, and its path; None: no longer known."""

    name: str
    digest: str
    place: Path | None


def parse_options(reader: str, options: dict[str, Any]) -> ReaderOptions:
    """Build the options of ``reader``.

    Raises
    ------
    ConfigError
        When there is no such reader or option, or a value does not fit.
    """
    model = describe(reader).options
    unknown = [key for key in options if key not in model.model_fields]
    if unknown:
        raise ConfigError(
            f"Reader {reader} has no option {unknown[0]!r}.", suggestion(str(unknown[0]), list(model.model_fields))
        )
    try:
        return model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ConfigError(f"Reader {reader} needs the option {place}.", _example(model, place)) from error
        own = first["type"] == "value_error"  # a rule of the reader, with the reader's message
        rule = (
            first["msg"].removeprefix("Value error, ")
            if own
            else f"must be {expected_text(first)}, not {short(first['input'])}"
        )
        hint = "Correct the value."
        raise ConfigError(f"Option {place or 'value'} of reader {reader} is wrong: {rule}.", hint) from error


def _example(model: type[ReaderOptions], option: str) -> str:
    """Return what to write for an option without a default, with its values if they are declared."""
    schema = model.model_json_schema()
    about = schema["properties"].get(option, {})
    about = schema.get("$defs", {}).get(str(about.get("$ref", "")).rpartition("/")[2], about)
    values = [str(value) for value in about.get("enum", ())]
    if not values:
        return f"Write options: {{{option}: ...}}."
    return f"Write for instance options: {{{option}: {values[0]}}}. Choose from: {', '.join(values)}."


def validate_options(reader: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return ``options`` with every default filled in, as plain data.

    Raises
    ------
    ConfigError
        As `parse_options`.
    """
    plain: dict[str, Any] = parse_options(reader, options).model_dump(mode="json")
    return plain


def block_size(group_key: str | None) -> int | None:
    """Return N of ``@block:N``; None for every other key.

    Raises
    ------
    ConfigError
        For a key that begins with ``@`` and is not ``@file``, ``@record`` or ``@block:N``.
    """
    if group_key is None or not group_key.startswith("@") or group_key in ("@file", "@record"):
        return None
    name, _, number = group_key.partition(":")
    if name == "@block" and number.isdecimal() and int(number) > 0:
        return int(number)
    raise ConfigError(f"Group key {group_key!r} is not known.", "Use @file, @record, @block:N or a metadata key.")


# Spellings in files and keys; case is ignored.
_SPELLINGS = {
    Split.TRAIN: ("train", "training", "trainset", "train_set"),
    Split.VALIDATION: ("validation", "valid", "val", "valset", "val_set", "validate", "dev"),
    Split.TEST: ("test", "testing", "testset", "test_set"),
}
_SPLITS = {name: split for split, names in _SPELLINGS.items() for name in names}


def split_named(name: str | None) -> Split | None:
    """Return the split for a name such as ``train``, ``valid`` or ``testset``; None for other names."""
    return None if name is None else _SPLITS.get(name.strip().lower())


def force_label(reader: str, named: ForceSign | None) -> ForceSign:
    """Return the meaning of a source's force label: the setting, or else the reader's own.

    Raises
    ------
    ConfigError
        When forces were named that the reader's format does not have.
    """
    if not describe(reader).no_forces:
        return ForceSign.FORCES if named is None else named
    if named not in (None, ForceSign.NONE):
        raise ConfigError(f"Reader {reader} gives no {named}: its format has none.", "Remove force_sign.")
    return ForceSign.NONE


def check_units(source: SourceSettings) -> None:
    """Refuse units for a reader whose format fixes them: they would be converted twice.

    Raises
    ------
    ConfigError
        When the reader gives eV and Angstrom, and the source names other units.
    """
    named = (source.energy_unit, source.length_unit) != (EnergyUnit.EV, LengthUnit.ANGSTROM)
    if named and describe(source.reader).fixed_units:
        raise ConfigError(
            f"Reader {source.reader} gives eV and Angstrom: its format fixes the units.",
            "Remove energy_unit and length_unit.",
        )
