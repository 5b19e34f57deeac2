"""Program: facts, records, checks and exports of a published dataset; checks the manifest before any BP file."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from gfm_pipeline.apps.dataset.neighbors.edges import check_edges
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.dataset.store.dataset import Dataset
from gfm_pipeline.apps.dataset.store.edge_files import edge_files
from gfm_pipeline.apps.dataset.store.hydragnn_export import export
from gfm_pipeline.apps.dataset.store.write import ContentDigest
from gfm_pipeline.apps.runtime.query_program import answer_query
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import (
    LAYOUT_FILE,
    DatasetInfo,
    DatasetLayout,
    EdgeFacts,
    InspectSpec,
    Origins,
    RecordLine,
    SplitFacts,
)
from gfm_pipeline.core.errors import ConfigError, IntegrityError
from gfm_pipeline.core.publish import read_manifest
from gfm_pipeline.core.records import from_plain, read_record


def info(dataset: Dataset) -> DatasetInfo:
    """Return sizes, splits, elements and provenance; manifest and statistics only."""
    manifest, facts = read_manifest(dataset.path), dataset.statistics
    return DatasetInfo(
        name=dataset.name,
        folder=str(dataset.path),
        digest=manifest.digest,
        content=manifest.meta.get("content"),
        bytes=sum(entry.size for entry in manifest.files.values()),
        files={
            name: sum(entry.size for file, entry in manifest.files.items() if file.startswith(f"{name}/"))
            for name in dataset.files
        },
        splits={
            split: SplitFacts(n, facts.n_atoms[split], facts.n_groups[split]) for split, n in facts.n_structures.items()
        },
        elements=facts.reference,
        reference_from=facts.reference_from,
        force_rms=facts.force_rms,
        energy_std=facts.energy_std,
        max_atoms=facts.max_atoms,
        n_quarantined=facts.n_quarantined,
        reasons=facts.reasons,
        warnings=facts.warnings,
        provenance=manifest.meta.get("provenance", {}),
        edges=_edge_facts(dataset),
        targets=facts.targets,
    )


def _edge_facts(dataset: Dataset) -> EdgeFacts | None:
    if dataset.layout is None or dataset.layout.edges is None:
        return None
    extents, files = dataset.layout.edges.splits.values(), [name for split in Split for name in edge_files(split)]
    return EdgeFacts(
        cutoff=dataset.layout.edges.cutoff,
        n_edges=sum(extent.n_edges for extent in extents),
        bytes=sum((dataset.path / name).stat().st_size for name in files),
        unpacked=sum(extent.unpacked for extent in extents),
    )


def head(dataset: Dataset, count: int) -> dict[str, list[RecordLine]]:
    """Return the first records of every split."""
    found: dict[str, list[RecordLine]] = {}
    known = read_manifest(dataset.path).meta.get("origins")
    origins = Origins((), ()) if known is None else from_plain(Origins, known)
    for split in Split:
        with dataset.rows(split) as rows:
            columns = rows.read(np.arange(min(count, len(rows))))
        found[str(split)] = [_line(columns, g, origins) for g in range(len(columns))]
    return found


def _line(columns: Columns, g: int, origins: Origins) -> RecordLine:
    atoms = slice(int(columns.offsets[g]), int(columns.offsets[g + 1]))
    charge, spin = (float(v) for v in columns.graph_attr[g])
    natoms, largest = int(columns.natoms[g]), float(np.abs(columns.forces[atoms]).max())
    return RecordLine(
        place=origins.place(int(columns.origin[g])),
        formula=str(Formula.from_list([chemical_symbols[z] for z in columns.numbers[atoms]]).format("hill")),
        n_atoms=natoms,
        energy=float(columns.energy[g]),
        energy_per_atom=float(columns.energy[g]) / natoms,
        max_force=None if math.isnan(largest) else largest,
        group=origins.group(int(columns.group[g])),
        periodic="".join(axis for axis, on in zip("xyz", columns.pbc[g], strict=True) if on) or "none",
        charge=None if math.isnan(charge) else charge,
        spin=None if math.isnan(spin) or not spin else spin,
    )


def verify(dataset: Dataset) -> dict[str, Any]:
    """Compare the content of the files with statistics, layout and digest; the caller has checked the bytes.

    Stored edges must belong to the structures and be no longer than their cutoff.

    Raises
    ------
    IntegrityError
        Naming the first difference from the published state.
    """
    counts = dataset.statistics.n_structures
    content = ContentDigest()
    layout = None
    if (dataset.path / LAYOUT_FILE).exists():
        layout = read_record(DatasetLayout, dataset.path / LAYOUT_FILE)
        for split in Split:
            n = sum(file.labels[split].n_graphs for file in layout.files if split in file.labels)
            if n != counts[split]:
                raise IntegrityError(
                    f"{LAYOUT_FILE} of {dataset.path} has {n} structures in {split}, not {counts[split]}."
                )
    for split in Split:
        n, edges = 0, dataset.edges(split)
        for columns in dataset.blocks(split):
            content.update(str(split), columns)
            if edges is not None:
                check_edges(columns, edges.read(np.arange(n, n + len(columns))))
            n += len(columns)
        if n != counts[split]:
            raise IntegrityError(f"{dataset.path} holds {n} structures in {split}, its statistics say {counts[split]}.")
    if layout is not None and content.hexdigest() != layout.content:
        raise IntegrityError(
            f"{dataset.path} holds other records than {LAYOUT_FILE} says.", "Ingest the dataset again."
        )
    manifest = read_manifest(dataset.path)
    return {
        "name": dataset.name,
        "files": len(manifest.files),
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "structures": sum(counts.values()),
        "content": content.hexdigest(),
    }


def inspect(spec: InspectSpec) -> Any:
    """Run the requested action.

    Raises
    ------
    IntegrityError
        When the folder is not an intact published dataset.
    """
    dataset = Dataset.open(Path(spec.folder), digests=spec.action == "verify")
    if spec.action == "info":
        return info(dataset)
    if spec.action == "head":
        return head(dataset, spec.count)
    if spec.action == "verify":
        return verify(dataset)
    if spec.action == "export" and spec.output is not None:
        return export(dataset, Path(spec.output), spec.export)
    raise ConfigError(f"There is no action {spec.action!r} on a dataset.")


if __name__ == "__main__":
    sys.exit(answer_query(InspectSpec, inspect))
