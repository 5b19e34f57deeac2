"""One source of the workflow file as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictFloat, StrictInt, StrictStr, model_validator

from gfm_pipeline.core.contracts.data import (
    OVERLAP,
    Duplicates,
    EnergyUnit,
    ForceSign,
    InconsistentPbc,
    LengthUnit,
    StatedUnits,
)
from gfm_pipeline.core.strict import Strict

Selected = StrictStr | StrictInt | StrictFloat
Force = Annotated[float, Field(gt=0, le=10**9)]
Distance = Annotated[float, Field(gt=0, le=1000)]
Energy = Annotated[float, Field(ge=-(10**9), le=10**9)]
FilePattern = Annotated[str, Field(min_length=1, max_length=4096)]
ELEMENT = r"^[A-Z][a-z]?$"


class GivenFilesModel(Strict):
    """Files of the splits that you bring; a split without files is dealt out of the other records."""

    train: FilePattern | list[FilePattern] = Field(default=[], description="Paths or globs of training.")
    validation: FilePattern | list[FilePattern] = Field(default=[], description="Paths or globs of validation.")
    test: FilePattern | list[FilePattern] = Field(default=[], description="Paths or globs of test.")


class SourceModel(Strict):
    """One source of labelled structures; its key is the name of the dataset and of its branch in the model."""

    reader: str = Field(description="Reader, or generator (xtb-md, emt-alloys); docs/data.md lists them.")
    files: FilePattern | list[FilePattern] = Field(
        default=[], description="Paths or globs, relative to the workflow file."
    )
    splits: GivenFilesModel = GivenFilesModel()
    split_key: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Metadata key that says the split of a record: train, validation (valid, val, dev) or test.",
    )
    options: dict[str, Any] = Field(default={}, description="Options of the reader.")
    energy_unit: EnergyUnit = Field(default=EnergyUnit.EV, description="Unit of the energy label; converted to eV.")
    length_unit: LengthUnit = Field(default=LengthUnit.ANGSTROM, description="Unit of lengths; converted to Angstrom.")
    energy_key: str | None = Field(
        default=None, description="Name of the energy label, where the format leaves it free."
    )
    forces_key: str | None = Field(
        default=None, description="Name of the force label, where the format leaves it free."
    )
    group_key: str | None = Field(
        default=None, description="Metadata key of the trajectory or family; a group never crosses splits."
    )
    max_force: Force | None = Field(default=None, description="Quarantine records above this force (eV/A).")
    energy_per_atom: bool = Field(default=False, description="The energy label is divided by the number of atoms.")
    force_sign: ForceSign | None = Field(
        default=None,
        description="What the force label is: forces, gradients, whose sign is turned, or none: energies alone are "
        "read. Default: forces, and none for readers whose format has none.",
    )
    charge: Annotated[int, Field(ge=-10_000, le=10_000)] | None = Field(
        default=None, description="Total charge (e) of records that do not say their own."
    )
    spin: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="Spin multiplicity (2S + 1) of records that do not say their own."
    )
    level_of_theory: str | None = Field(
        default=None, description="Method and basis of the labels; kept with the dataset."
    )
    licence: str | None = Field(default=None, description="Licence of the data, by its SPDX name; kept with it.")
    citation: str | None = Field(default=None, description="Paper or DOI of the data; kept with it.")
    energy_window: tuple[Energy, Energy] | None = Field(
        default=None, description="Quarantine records whose energy minus references is outside (eV/atom)."
    )
    duplicates: Duplicates = Field(
        default=Duplicates.EXACT, description="Repetitions to quarantine: keep (none), exact, or rounded."
    )
    isolated_atoms: Distance | None = Field(
        default=None, description="Quarantine records with an atom without neighbour within this distance (A)."
    )
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=OVERLAP,
        description="Quarantine records with atoms closer than this share of the sum of covalent radii.",
    )
    inconsistent_pbc: InconsistentPbc = Field(
        default=InconsistentPbc.KEEP,
        description="Records with a cell and no periodic direction: keep them as not periodic, or quarantine.",
    )
    select: dict[str, Selected | list[Selected]] | None = Field(
        default=None,
        min_length=1,
        description="Records of this source by metadata: key to the value, or values, that they must have.",
    )
    stated_units: StatedUnits = Field(
        default=StatedUnits.USE,
        description="Units that data state of themselves: use them where the source names no other, or ignore them.",
    )
    labels: dict[str, Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, description="Target to the name of its label in these data; null: by the names targets have."
    )
    label_units: dict[str, str] | None = Field(
        default=None,
        description="Target to the unit of its label in these data, with a minus sign where the label has the opposite "
        "sign; a unit of energy makes a stress of a virial; null: the target's own unit.",
    )
    shards: Annotated[int, Field(ge=1, le=10**5)] = Field(default=1, description="Read in so many tasks.")
    isolated_energies: dict[Annotated[str, Field(pattern=ELEMENT)], Energy] | None = Field(
        default=None, description="Isolated-atom energies (eV) by element, used instead of those found and the fit."
    )

    @model_validator(mode="after")
    def _window_has_room(self) -> SourceModel:
        if self.energy_window is not None and not self.energy_window[0] < self.energy_window[1]:
            raise ValueError(f"energy_window must rise, not {list(self.energy_window)}")
        return self
