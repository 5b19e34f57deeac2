"""Option models of the built-in readers: plain pydantic, so the engine checks settings without the readers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gfm_pipeline.core.strenum import StrEnum

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
PositiveInt = Annotated[int, Field(gt=0, le=10**9)]


class ReaderOptions(BaseModel):
    """What all option models share: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileOptions(ReaderOptions):
    """What readers of text files share: they also read inside compressed files and archives.

    Parameters
    ----------
    members
        Which members of a tar or zip archive are read, as a pattern such as ``*/OUTCAR*``; a ``*`` matches any
        text, slashes included. Other files are not concerned.
    """

    members: str = Field(default="*", min_length=1)


class AseOptions(FileOptions):
    """Files ASE reads: (ext)xyz, ASE databases, trajectories, outputs of codes.

    Parameters
    ----------
    format
        ASE's name of the format; None: by file name.
    """

    format: str | None = None


class PymatgenJsonOptions(FileOptions):
    """JSON lists or trees of records with a ``structure``, and lists of ``ComputedStructureEntry``."""


class ParquetOptions(ReaderOptions):
    """Tables of structures in Parquet, as ColabFit publishes them; needs the extra ``parquet`` (pyarrow)."""


class JsonTableOptions(FileOptions):
    """Tables of structures that pandas wrote as JSON, in any orientation."""


class VaspEnergy(StrEnum):
    """Which of VASP's energies is the label."""

    FREE = "free"
    SIGMA_0 = "sigma->0"


class VaspOptions(FileOptions):
    """``vasprun.xml`` and ``OUTCAR`` of VASP, one record an ionic step.

    Parameters
    ----------
    energy
        ``free``: the free energy, which the forces are the gradient of; ``sigma->0``: extrapolated to no smearing.
    """

    energy: VaspEnergy = VaspEnergy.FREE


class FitsnapJsonOptions(FileOptions):
    """JSON files of FitSNAP, one configuration each."""


class CifCsvOptions(ReaderOptions):
    """A CSV table of labels, and a CIF file for each row or the CIF text in a column.

    Parameters
    ----------
    path
        Path of a row's CIF file, relative to the table, with names of columns in braces.
    cif
        Column that holds the text of a CIF; then ``path`` is not used.
    columns
        Names of the columns; empty: the first line names them.
    """

    path: str = "{id}.cif"
    cif: str | None = None
    columns: tuple[str, ...] = ()


class DeepmdOptions(ReaderOptions):
    """DeePMD-kit systems: folders with ``type.raw`` and ``set.*/*.npy`` or ``*.raw``, HDF5 files, LMDB data sets.

    Parameters
    ----------
    type_map
        Element of each type; empty: as the data set says.
    """

    type_map: tuple[str, ...] = ()


class Hdf5Layout(StrEnum):
    """How groups and arrays of an HDF5 file are named."""

    ANI_1X = "ani-1x"
    ANI_1 = "ani-1"
    QM7X = "qm7-x"
    TRANSITION1X = "transition1x"
    SPICE = "spice"


class Hdf5Options(ReaderOptions):
    """HDF5 files of molecular data sets.

    Parameters
    ----------
    layout
        Whose names: ``ani-1x`` (ANI-1x and ANI-1ccx), ``ani-1`` (ANI-1, ANI-2x, COMP6), ``qm7-x``, ``transition1x``,
        ``spice``.
    """

    layout: Hdf5Layout


class NpzOptions(ReaderOptions):
    """NumPy archives of the conformers of one molecule, as MD17, rMD17 and sGDML have them."""


class OcpEnergy(StrEnum):
    """Which energy of the Open Catalyst data is the label."""

    TOTAL = "total"
    ADSORPTION = "adsorption"


class OcpTextOptions(ReaderOptions):
    """S2EF data of OC20 and OC22 as published: pairs of ``N.extxyz`` and ``N.txt``, compressed or not.

    Parameters
    ----------
    energy
        ``total``, or ``adsorption``: less the reference of the clean surface and the molecule, from ``N.txt``.
    """

    energy: OcpEnergy = OcpEnergy.TOTAL


class OcpLmdbOptions(ReaderOptions):
    """LMDB files of the Open Catalyst Project: pickled graphs, read without running what a pickle may ask for."""


class HydragnnOptions(ReaderOptions):
    """BP files in HydraGNN's layout; their own splits are dealt anew by group, unless split_key is ``split``.

    Parameters
    ----------
    add_references
        Add to energies what HydraGNN's linear regression subtracted: the sum over atoms of the file's attribute
        ``energy_linear_regression_coeff`` (eV). Without, energies are taken as they are.
    """

    add_references: bool = False


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
