"""The available readers: built-in ones, and ones that other installed packages add.

A package adds a reader by an entry point of the group ``gfm_pipeline.readers``, whose name is the reader's and whose
value names a `ReaderDescription`. The engine imports the module of the description, so that module should hold only the
description and the option model. The program that reads records imports the reader itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gfm_pipeline.core.contracts import options
from gfm_pipeline.core.contracts.extensions import Extensions, suggestion
from gfm_pipeline.core.contracts.options import ReaderOptions

__all__ = ["BUILT_IN", "ENTRY_POINTS", "ReaderDescription", "describe", "reader_names", "suggestion"]

ENTRY_POINTS = "gfm_pipeline.readers"
_READERS = "gfm_pipeline.apps.ingest.readers"
_GENERATORS = "gfm_pipeline.apps.ingest.generators"


@dataclass(frozen=True)
class ReaderDescription:
    """Facts about a reader, available to the engine without importing it.

    Parameters
    ----------
    options
        Model of its options.
    reader
        ``module:class``; the class takes no arguments and returns a `gfm_pipeline.apps.ingest.records.Reader`.
    summary
        Its input in one line.
    makes_data
        It generates records and reads no files.
    fixed_units
        Its format fixes the units, and the reader returns eV and Angstrom: a source must not name other units.
    no_forces
        Its format has no forces: only energies are read from sources, ``force_sign: none``.
    labels
        Names of the labels other than energy and forces that a generator computes; None: known from its records only.
    names
        Patterns of the names of its files, in lower case; `init` tries it on files of such names.
    trials
        Options that `init` tries, one after the other, if the reader needs some; empty: the defaults alone.
    """

    options: type[ReaderOptions]
    reader: str
    summary: str
    makes_data: bool = False
    fixed_units: bool = False
    no_forces: bool = False
    labels: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    trials: tuple[Mapping[str, Any], ...] = ()


BUILT_IN: dict[str, ReaderDescription] = {
    "ase": ReaderDescription(
        options.AseOptions,
        f"{_READERS}.ase.files:AseReader",
        "extended XYZ, ASE trajectories and databases, and every other format ASE reads",
        names=("*",),
    ),
    "pymatgen-json": ReaderDescription(
        options.PymatgenJsonOptions,
        f"{_READERS}.tables.pymatgen_json:PymatgenJsonReader",
        "JSON with pymatgen structures: lists, trees (MPtrj), lines, ComputedStructureEntry (Alexandria)",
        names=("*.json*",),
    ),
    "parquet": ReaderDescription(
        options.ParquetOptions,
        f"{_READERS}.tables.parquet:ParquetReader",
        "tables of structures in Parquet (ColabFit); needs the extra parquet",
        names=("*.parquet",),
    ),
    "json-table": ReaderDescription(
        options.JsonTableOptions,
        f"{_READERS}.tables.json_table:JsonTableReader",
        "tables of structures that pandas wrote as JSON, in any orientation, and lines",
        names=("*.json*",),
    ),
    "vasp": ReaderDescription(
        options.VaspOptions,
        f"{_READERS}.vasp.outputs:VaspReader",
        "vasprun.xml, OUTCAR, vaspout.h5 and ML_AB of VASP",
        fixed_units=True,
        names=("*outcar*", "*vasprun*.xml*", "vaspout*.h5", "ml_ab*"),
    ),
    "hdf5": ReaderDescription(
        options.Hdf5Options,
        f"{_READERS}.hdf5:Hdf5Reader",
        "HDF5 in the layouts of ANI-1, ANI-1x, QM7-X, Transition1x and SPICE",
        fixed_units=True,
        names=("*.h5", "*.hdf5"),
        trials=tuple({"layout": layout.value} for layout in options.Hdf5Layout),
    ),
    "npz": ReaderDescription(
        options.NpzOptions,
        f"{_READERS}.npz:NpzReader",
        "NumPy archives of one molecule: MD17, rMD17, sGDML",
        names=("*.npz",),
    ),
    "deepmd": ReaderDescription(
        options.DeepmdOptions,
        f"{_READERS}.deepmd:DeepmdReader",
        "DeePMD-kit systems: npy, raw, HDF5 and LMDB",
        fixed_units=True,
        names=("type.raw", "*.hdf5", "*.lmdb", "data_*"),
    ),
    "ocp-text": ReaderDescription(
        options.OcpTextOptions,
        f"{_READERS}.ocp.text:OcpTextReader",
        "OC20 and OC22 S2EF as published: pairs of extxyz and txt",
        fixed_units=True,
    ),
    "ocp-lmdb": ReaderDescription(
        options.OcpLmdbOptions,
        f"{_READERS}.ocp.lmdb:OcpLmdbReader",
        "OC20 and OC22 LMDB files of pickled graphs",
        fixed_units=True,
        names=("*.lmdb",),
    ),
    "fitsnap-json": ReaderDescription(
        options.FitsnapJsonOptions,
        f"{_READERS}.fitsnap:FitsnapJsonReader",
        "JSON files of FitSNAP",
        names=("*.json",),
    ),
    "cif-csv": ReaderDescription(
        options.CifCsvOptions,
        f"{_READERS}.tables.cif_csv:CifCsvReader",
        "a CSV table of energies, and CIF files",
        no_forces=True,
        names=("*.csv",),
    ),
    "hydragnn": ReaderDescription(
        options.HydragnnOptions,
        f"{_READERS}.hydragnn:HydragnnReader",
        "BP files in HydraGNN's layout",
        names=("*.bp",),
    ),
    "xtb-md": ReaderDescription(
        options.XtbMdOptions,
        f"{_GENERATORS}.xtb_md:XtbMd",
        "generator: molecular dynamics of small molecules with GFN2-xTB",
        makes_data=True,
        labels=("dipole", "charges", "band_gap"),
    ),
    "emt-alloys": ReaderDescription(
        options.EmtAlloysOptions,
        f"{_GENERATORS}.emt_alloys:EmtAlloys",
        "generator: binary fcc alloys with effective medium theory",
        makes_data=True,
        labels=("stress",),
    ),
}


READERS = Extensions("reader", ENTRY_POINTS, ReaderDescription, BUILT_IN)


def reader_names() -> list[str]:
    """Return the names of all readers, including those of other packages."""
    return READERS.names()


def describe(name: str) -> ReaderDescription:
    """Return the description of a reader. Built-in readers take precedence over entry points of the same name.

    Raises
    ------
    ConfigError
        When no reader or more than one package has that name, or a package's description cannot be imported.
    """
    return READERS.describe(name)
