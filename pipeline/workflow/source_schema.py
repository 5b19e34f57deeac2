"""One source of the workflow file as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from gfm_pipeline.core.contracts.data import (
    OVERLAP,
    Duplicates,
    EnergyUnit,
    ForceSign,
    InconsistentPbc,
    LengthUnit,
    RecordWeights,
    StatedUnits,
)
from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.errors import Refused
from gfm_pipeline.core.strict import LONGEST_NAME, NAME, Strict

Selected = StrictStr | StrictInt | StrictFloat
Force = Annotated[float, Field(gt=0, le=10**9)]
Distance = Annotated[float, Field(gt=0, le=1000)]
Energy = Annotated[float, Field(ge=-(10**9), le=10**9)]
FilePattern = Annotated[str, Field(min_length=1, max_length=4096)]
# Of elements; no package of the field is imported for them.
_TABLE = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr
Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta
W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs
Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = tuple(_TABLE.split())
Key = Annotated[str, Field(min_length=1, max_length=4096)]


class GivenFilesModel(Strict):
    """Files of your own splits; a split without files takes its share from the other records."""

    train: FilePattern | list[FilePattern] = Field(default=[], description="Paths or globs of training.")
    validation: FilePattern | list[FilePattern] = Field(default=[], description="Paths or globs of validation.")
    test: FilePattern | list[FilePattern] = Field(default=[], description="Paths or globs of test.")


class IndexListsModel(Strict):
    """Numbers of records (from 0) of the first file; with a list for training, those of no list are unused."""

    train: FilePattern | None = Field(default=None, description="Text file of the numbers of training.")
    validation: FilePattern | None = Field(default=None, description="Text file of the numbers of validation.")
    test: FilePattern | None = Field(default=None, description="Text file of the numbers of test.")


class ReadingModel(Strict):
    """How files are read, and what their labels are."""

    reader: str | None
    files: FilePattern | list[FilePattern]
    options: dict[str, Any] = Field(default={}, description="Options of the reader.")
    energy_unit: EnergyUnit = Field(default=EnergyUnit.EV, description="Unit of the energy label; converted to eV.")
    length_unit: LengthUnit = Field(default=LengthUnit.ANGSTROM, description="Unit of lengths; converted to Angstrom.")
    energy_key: Key | None = Field(default=None, description="Name of the energy label, if the format does not fix it.")
    forces_key: Key | None = Field(default=None, description="Name of the force label, if the format does not fix it.")
    group_key: Key | None = Field(
        default=None,
        description="Metadata key of the trajectory or family; all records of a group go to the same split.",
    )
    energy_per_atom: bool = Field(default=False, description="The energy label is divided by the number of atoms.")
    force_sign: ForceSign | None = Field(
        default=None,
        description="Meaning of the force label: forces; gradients, whose sign is changed; or none, to read "
        "energies only. Default: forces; none for readers of formats without forces.",
    )
    charge: Annotated[int, Field(ge=-10_000, le=10_000)] | None = Field(
        default=None, description="Total charge (e) of records that have none."
    )
    spin: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="Spin multiplicity (2S + 1) of records that have none."
    )
    attributes: dict[str, Selected] | None = Field(
        default=None, description="Values of declared attributes of records that have none; null: not known."
    )
    level_of_theory: str | None = Field(
        default=None, description="Method and basis of the labels; kept with the dataset."
    )
    licence: str | None = Field(default=None, description="Licence of the data, by its SPDX name; kept with it.")
    citation: str | None = Field(default=None, description="Paper or DOI of the data; kept with it.")
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=OVERLAP,
        description="Quarantine records with atoms closer than this share of the sum of covalent radii.",
    )
    select: dict[str, Selected | list[Selected]] | None = Field(
        default=None,
        min_length=1,
        description="Read only records whose metadata have these values: key to a value or a list of values.",
    )
    stated_units: StatedUnits = Field(
        default=StatedUnits.USE,
        description="Units stated in the data: use them if the source names no others, or ignore them.",
    )
    record_weights: RecordWeights = Field(
        default=RecordWeights.USE,
        description="Weights in the data (config_weight, config_forces_weight, ...): use them in the loss, or ignore "
        "them.",
    )
    labels: dict[str, Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, description="Name of each target or attribute in these data; null: their own names."
    )
    label_units: dict[str, str] | None = Field(
        default=None,
        description="Unit of each target or attribute in these data, with a minus sign if the label has the "
        "opposite sign; a unit of energy turns a virial into a stress; null: the target's own unit.",
    )
    shards: Annotated[int, Field(ge=1, le=10**5)] = Field(
        default=1, description="Number of tasks that read the source."
    )


class TestSetModel(ReadingModel):
    """Files to judge models on, or a path alone; keys without a value are those of the source.

    Models never learn from these structures. Splits and filters of the source do not apply to them, and
    repetitions are kept.
    """

    __test__ = False  # no class of tests

    reader: str | None = Field(default=None, description="Reader; null: that of the source.")
    files: FilePattern | list[FilePattern] = Field(description="Paths or globs, relative to the workflow file.")

    @model_validator(mode="before")
    @classmethod
    def _files_alone(cls, plain: Any) -> Any:
        return {"files": plain} if isinstance(plain, (str, list)) else plain


class SourceModel(ReadingModel):
    """One source of labelled structures; its key is the name of the dataset and of its branch in the model."""

    reader: str = Field(description="Reader, or generator (xtb-md, emt-alloys); docs/data.md lists them.")
    files: FilePattern | list[FilePattern] = Field(
        default=[], description="Paths or globs, relative to the workflow file."
    )
    splits: GivenFilesModel = GivenFilesModel()
    split_indices: IndexListsModel = IndexListsModel()
    split_key: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Metadata key with the split of a record: train, validation (valid, val, dev) or test.",
    )
    max_force: Force | None = Field(default=None, description="Quarantine records above this force (eV/A).")
    energy_window: tuple[Energy, Energy] | None = Field(
        default=None, description="Quarantine records whose energy minus references is outside this window (eV/atom)."
    )
    duplicates: Duplicates = Field(
        default=Duplicates.EXACT, description="Repetitions to quarantine: keep (none), exact, or rounded."
    )
    isolated_atoms: Distance | None = Field(
        default=None, description="Quarantine records in which an atom has no neighbour within this distance (A)."
    )
    inconsistent_pbc: InconsistentPbc = Field(
        default=InconsistentPbc.KEEP,
        description="Records with a cell and no periodic direction: keep them as not periodic, or quarantine.",
    )
    isolated_energies: dict[str, Energy] | None = Field(
        default=None, description="Isolated-atom energies (eV) by element; they replace those in the data and the fit."
    )

    test_sets: dict[Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)], TestSetModel] = Field(
        default={}, description="Named test sets: files to judge the models on that are never trained on."
    )

    @field_validator("isolated_energies")
    @classmethod
    def _elements_exist(cls, given: dict[str, float] | None) -> dict[str, float] | None:
        for symbol in given or ():
            if symbol not in SYMBOLS:
                raise Refused("names no element", suggestion(symbol, SYMBOLS), (symbol,))
        return given

    @model_validator(mode="after")
    def _window_has_room(self) -> SourceModel:
        if self.energy_window is not None and not self.energy_window[0] < self.energy_window[1]:
            raise ValueError(f"energy_window must rise, not {list(self.energy_window)}")
        return self
