"""The section ``predict:`` of the workflow file as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gfm_pipeline.core.contracts.data import EnergyUnit, ForceSign, LengthUnit
from gfm_pipeline.core.contracts.deploy import OutOfDomain
from gfm_pipeline.core.strict import Strict
from gfm_pipeline.workflow.source_schema import FilePattern, Selected, SourceModel


class StructuresModel(Strict):
    """Files of structures, read as a source of ``data`` is."""

    reader: str = Field(default="ase", description="Reader; docs/data.md lists them.")
    files: FilePattern | list[FilePattern] = Field(description="Paths or globs, relative to the workflow file.")
    options: dict[str, Any] = Field(default={}, description="Options of the reader.")
    energy_unit: EnergyUnit = Field(default=EnergyUnit.EV, description="Unit of the energy label.")
    length_unit: LengthUnit = Field(default=LengthUnit.ANGSTROM, description="Unit of lengths.")
    energy_key: str | None = Field(default=None, description="Name of the energy label, if the format does not fix it.")
    forces_key: str | None = Field(default=None, description="Name of the force label, if the format does not fix it.")
    group_key: str | None = Field(default=None, description="Metadata key by whose values errors are given, too.")
    energy_per_atom: bool = Field(default=False, description="The energy label is divided by the number of atoms.")
    force_sign: ForceSign | None = Field(default=None, description="As for a source of data.")
    select: dict[str, Selected | list[Selected]] | None = Field(
        default=None, min_length=1, description="Read only records whose metadata have these values."
    )
    shards: Annotated[int, Field(ge=1, le=10**5)] = Field(
        default=1, description="Number of parts: tasks, and files of predictions."
    )

    def as_source(self) -> SourceModel:
        """Return the source that reads these files."""
        return SourceModel(**{"reader": self.reader, **self.model_dump(exclude_unset=True)})


class PredictModel(Strict):
    """Predictions of files of structures by the calibrated ensemble, after `calibrate`."""

    structures: StructuresModel
    dataset: str | None = Field(
        default=None, description="Dataset head to use: a source of data; needed if there are several."
    )
    format: Literal["extxyz", "h5", "parquet", "csv", "db"] = Field(
        default="extxyz", description="Format of the predictions; docs/deploy.md describes each."
    )
    evaluate: bool = Field(default=False, description="Compare with the labels in the files.")
    out_of_domain: OutOfDomain = Field(
        default=OutOfDomain.ANSWER,
        description="What is done with structures unlike the training data: answer, warn, or refuse.",
    )
    dtype: Literal["float32", "float64"] = Field(default="float32", description="Numbers of the models.")
    batch_atoms: Annotated[int, Field(ge=1, le=10**8)] = Field(default=2048, description="Atoms per batch.")
