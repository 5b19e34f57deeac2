"""Commands about published datasets: information, checks, and export to HydraGNN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.amounts import Amount
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.core.contracts.layout import (
    DatasetExportFacts,
    DatasetInfo,
    ExportedEnergies,
    HydragnnExport,
    InspectSpec,
    RecordLine,
)
from gfm_pipeline.core.records import from_plain
from gfm_pipeline.core.subprocess_query import query

PIPED = 160  # width of lines outside terminals, in characters
PROGRAM = "gfm_pipeline.apps.dataset.inspect"
DEFAULT = HydragnnExport()
QUICK, LONG = 300.0, 86_400.0  # seconds: a short query, and a pass over all bytes
folder_argument = click.argument("folder", type=click.Path(path_type=Path))


@click.group()
def dataset() -> None:
    """Inspect and export published datasets (CAMPAIGN/stages/ingest-*/datasets/NAME)."""


@dataset.command()
@folder_argument
@JSON
def info(folder: Path, as_json: bool) -> None:
    """Show sizes, splits, elements, stored edges and provenance of the dataset in FOLDER."""
    found = query(PROGRAM, InspectSpec("info", str(folder)), DatasetInfo, QUICK)
    if as_json:
        print_answer(found)
        return
    console = terminal.console()
    console.print(f"[bold]{found.name}[/]: {found.bytes:,} bytes in {len(found.files)} BP files, {found.folder}")
    table = _table(("split", "left"), ("structures", "right"), ("atoms", "right"), ("groups", "right"))
    for split, facts in found.splits.items():
        table.add_row(split, f"{facts.structures:,}", f"{facts.atoms:,}", f"{facts.groups:,}")
    console.print(table)
    console.print(
        f"elements    {', '.join(f'{symbol} {energy:.4f}' for symbol, energy in found.elements.items())} eV "
        f"({found.reference_from})"
    )
    console.print(
        f"labels      force RMS {found.force_rms:.4g} eV/A, energies scatter {1000 * found.energy_std:.4g} meV/atom, "
        f"at most {found.max_atoms} atoms"
    )
    for name, one in found.targets.items():
        target, known = one.target, ", ".join(f"{n:,} {split}" for split, n in one.known.items())
        console.print(
            f"{name:<11} {known} known, scale {target.shown_factor * one.scale:.4g} {target.printed_unit}".rstrip(),
            highlight=False,
        )
    reasons = ", ".join(f"{n} x {reason}" for reason, n in found.reasons.items())
    console.print(f"set aside   {found.n_quarantined:,}{f' ({reasons})' if reasons else ''}")
    for key, value in found.provenance.items():
        if value in (None, [], {}):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        console.print(f"{key:<16}{' '.join(value) if isinstance(value, list) else value}", highlight=False)
    console.print(f"edges       {_edges(found)}", highlight=False)
    console.print(f"digest      {found.digest} (files), {found.content or 'unknown'} (content)")
    for sentence in found.warnings:
        console.print(f"[red]WARNING[/] {sentence}")


@dataset.command()
@folder_argument
@click.option("-n", "--count", type=click.IntRange(min=1), default=5, show_default=True, help="Records per split.")
@JSON
def head(folder: Path, count: int, as_json: bool) -> None:
    """Print the first records of every split of the dataset in FOLDER."""
    found: dict[str, Any] = query(PROGRAM, InspectSpec("head", str(folder), count), dict, QUICK)
    if as_json:
        print_answer({}, splits=found)
        return
    table = _table(("split", "left"), ("formula", "left"), ("atoms", "right"), ("energy, eV", "right"),
                   ("eV/atom", "right"), ("max force, eV/A", "right"), ("periodic", "left"), ("group", "right"),
                   ("from", "left"))  # fmt: skip
    records = [(split, from_plain(RecordLine, line)) for split, lines in found.items() for line in lines]
    charged = any(record.charge or record.spin for _, record in records)  # zeros mean unknown
    for name in ("charge", "spin") if charged else ():
        table.add_column(name, justify="right")
    for split, r in records:
        largest = "none" if r.max_force is None else f"{r.max_force:.4g}"
        figures = (f"{r.energy:.6g}", f"{r.energy_per_atom:.6g}", largest)
        state = (f"{r.charge or 0:g}", "unknown" if not r.spin else f"{r.spin:g}") if charged else ()
        table.add_row(
            split, r.formula, str(r.n_atoms), *figures, r.periodic, escape(Path(r.group).name), escape(r.place), *state
        )
    console = terminal.console()
    if not console.is_terminal:
        console.width = PIPED
    console.print(table)


@dataset.command()
@folder_argument
@JSON
def verify(folder: Path, as_json: bool) -> None:
    """Check every byte and the contents of the dataset in FOLDER; exit code 5 if they are damaged.

    The command compares the digests of all files before ADIOS2 opens them. It compares stored edges with their
    structures.
    """
    with waiting(f"Checking {folder.name}", as_json):
        found: dict[str, Any] = query(PROGRAM, InspectSpec("verify", str(folder)), dict, LONG)
    if as_json:
        print_answer({}, **found)
        return
    click.echo(
        f"{found['name']}: {found['files']} files, {found['bytes']:,} bytes, {found['structures']:,} structures: "
        "nothing is missing, nothing was changed."
    )


@dataset.command()
@click.option("--hydragnn", is_flag=True, required=True, help="One BP file in HydraGNN's layout.")
@click.option(
    "--radius", type=Amount(), default=DEFAULT.radius, show_default=True,
    help="Pairs of atoms closer than this are edges, Angstrom.",
)  # fmt: skip
@click.option(
    "--max-neighbours", type=click.IntRange(min=1), default=DEFAULT.max_neighbours, show_default=True,
    help="Edges to keep per atom; the shortest are kept.",
)  # fmt: skip
@click.option(
    "--energies", type=click.Choice([str(e) for e in ExportedEnergies]), default=str(DEFAULT.energies),
    show_default=True, help="Total energies, or energies minus the reference energies (which become an attribute).",
)  # fmt: skip
@click.option("--name", help="Name of the dataset inside the file, e.g. ani1x.  [default: the dataset's own name]")
@folder_argument
@click.argument("output", type=click.Path(path_type=Path))
@JSON
def export(
    hydragnn: bool,  # noqa: ARG001 - the one format there is
    radius: float,
    max_neighbours: int,
    energies: str,
    name: str | None,
    folder: Path,
    output: Path,
    as_json: bool,
) -> None:
    """Write the dataset in FOLDER to OUTPUT (NAME.bp), a file that HydraGNN trains on.

    The file holds the samples, with edges, that HydraGNN's scripts for foundation models read. Those scripts expect
    files called NAME-v2.bp, and their own names of datasets (--name). The export needs 20 bytes per edge of
    temporary disk space next to OUTPUT.
    """
    options = HydragnnExport(radius, max_neighbours, ExportedEnergies(energies), name)
    spec = InspectSpec("export", str(folder), output=str(output.absolute()), export=options)
    with waiting(f"Exporting {folder.name}", as_json):
        found = query(PROGRAM, spec, DatasetExportFacts, LONG)
    if as_json:
        print_answer(found)
        return
    click.echo(f"{found.output}: {found.structures:,} structures, {found.edges:,} edges, {found.bytes:,} bytes")
    if found.left_out:
        click.echo(f"{found.left_out:,} structures are left out: no two of their atoms are within {radius:g} A.")
    if found.atoms_alone:
        click.echo(f"{found.atoms_alone:,} atoms have no neighbour within {radius:g} A; some of its models need one.")
    if found.without_forces:
        click.echo(
            f"{found.without_forces:,} structures have no forces: those are NaN there, which HydraGNN does not mask."
        )


@contextmanager
def waiting(what: str, quiet: bool) -> Iterator[None]:
    """Show on the terminal that a long operation is in progress, with its duration so far."""
    console = terminal.console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        bar.add_task(what, total=None)
        yield


def _edges(found: DatasetInfo) -> str:
    if found.edges is None:
        return "not stored: listed whenever structures are read"
    e = found.edges
    rest = f"; those of {e.unpacked:,} structures are listed when they are read" if e.unpacked else ""
    return f"{e.n_edges:,} within {e.cutoff:g} A are stored, {e.bytes:,} bytes{rest}"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return table
