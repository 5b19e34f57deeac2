"""Options of every reader, so that the engine can check them before anything is started.

Group keys: besides a metadata key, ``SourceSettings.group_key`` may be ``@file`` (each file is a group),
``@record`` (records are independent) or ``@block:N`` (N consecutive records of a file are a group).
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gfm_pipeline.common.errors import ConfigError

ORGANIC_MOLECULES = (
    "CH4",
    "NH3",
    "H2O",
    "H2O2",
    "N2H4",
    "HCN",
    "C2H2",
    "C2H4",
    "C2H6",
    "H2CO",
    "CH3OH",
    "H3CNH2",
    "CH3CN",
    "CH3CHO",
    "HCOOH",
    "CH3CH2OH",
    "CH3OCH3",
    "C3H8",
    "C3H6_D3h",
    "CH2NHCH2",
    "CH2OCH2",
    "CH3CONH2",
    "CH3COOH",
    "C4H4O",
)
EMT_METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]


class ReaderOptions(BaseModel):
    """What all option models share: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AseOptions(ReaderOptions):
    """Files ASE reads: (ext)xyz, ASE databases, trajectories, outputs of codes.

    Parameters
    ----------
    format
        ASE's name of the format; None: by file name.
    """

    format: str | None = None


class PymatgenJsonOptions(ReaderOptions):
    """JSON lists or trees of records with a ``structure``, and lists of ``ComputedStructureEntry``."""


class HydragnnOptions(ReaderOptions):
    """BP files in HydraGNN's layout; their own splits are joined and dealt anew by group."""


class XtbMdOptions(ReaderOptions):
    """Short Langevin trajectories of small molecules, labelled with GFN2-xTB.

    Parameters
    ----------
    molecules
        Names in ASE's G2 collection.
    temperatures
        Kelvin.
    replicas
        Trajectories a molecule and temperature; each is one group.
    frames
        Frames kept of a trajectory.
    burn_in_fs, stride_fs
        Time before the first frame and between frames, fs.
    timestep_fs
        Integration step, fs.
    friction_per_fs
        Langevin friction, 1/fs.
    """

    molecules: tuple[str, ...] = Field(default=ORGANIC_MOLECULES, min_length=1)
    temperatures: tuple[Positive, ...] = Field(default=(300.0, 600.0, 1000.0), min_length=1)
    replicas: PositiveInt = 12
    frames: PositiveInt = 3
    burn_in_fs: Positive = 40.0
    stride_fs: Positive = 12.0
    timestep_fs: Annotated[float, Field(gt=0, le=5)] = 1.0
    friction_per_fs: Positive = 0.02


class EmtAlloysOptions(ReaderOptions):
    """Strained and rattled cells of binary fcc alloys, labelled with effective medium theory.

    Parameters
    ----------
    metals
        Elements pairs are drawn from.
    parents
        Cells (ordering, composition, shape); each is one group.
    children
        Distorted copies of a parent.
    sizes
        Atoms in a cell.
    volume_strain
        Largest relative change of the volume.
    shear
        Standard deviation of the shear components.
    rattle
        Smallest and largest standard deviation of displacements, Angstrom.
    """

    metals: tuple[str, ...] = Field(default=EMT_METALS, min_length=2)
    parents: PositiveInt = 900
    children: PositiveInt = 3
    sizes: tuple[Annotated[int, Field(ge=2, le=64)], ...] = Field(default=(4, 5, 6, 7, 8), min_length=1)
    volume_strain: Annotated[float, Field(ge=0, lt=0.5)] = 0.04
    shear: Annotated[float, Field(ge=0, lt=0.2)] = 0.01
    rattle: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.05, 0.15)

    @model_validator(mode="after")
    def _known_metals(self) -> EmtAlloysOptions:
        unknown = [metal for metal in self.metals if metal not in EMT_METALS]
        if unknown:
            raise ValueError(f"no EMT parameters for {', '.join(unknown)}; known are {', '.join(EMT_METALS)}")
        if len(set(self.metals)) < 2:
            raise ValueError("two different metals are needed")
        return self


OPTION_MODELS: dict[str, type[ReaderOptions]] = {
    "ase": AseOptions,
    "pymatgen-json": PymatgenJsonOptions,
    "hydragnn": HydragnnOptions,
    "xtb-md": XtbMdOptions,
    "emt-alloys": EmtAlloysOptions,
}
GENERATORS = frozenset({"xtb-md", "emt-alloys"})


def suggestion(word: str, known: list[str]) -> str:
    """Return a sentence with the nearest known word, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known are {', '.join(sorted(known))}." if known else "It takes none."


def parse_options(reader: str, options: dict[str, Any]) -> ReaderOptions:
    """Build the options of ``reader``.

    Raises
    ------
    ConfigError
        When there is no such reader or option, or a value does not fit.
    """
    if reader not in OPTION_MODELS:
        raise ConfigError(f"There is no reader {reader!r}.", suggestion(reader, list(OPTION_MODELS)))
    model = OPTION_MODELS[reader]
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
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"Option {place or 'value'} of reader {reader} is wrong: {message}.") from error


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
        For any other key beginning with ``@`` than ``@file``, ``@record`` and ``@block:N``.
    """
    if group_key is None or not group_key.startswith("@") or group_key in ("@file", "@record"):
        return None
    name, _, number = group_key.partition(":")
    if name == "@block" and number.isdecimal() and int(number) > 0:
        return int(number)
    raise ConfigError(f"Group key {group_key!r} is not known.", "Use @file, @record, @block:N or a metadata key.")
