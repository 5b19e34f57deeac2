"""The command that previews a source before its conversion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gfm_pipeline.api.fine_tuning import refuse_unknown_elements
from gfm_pipeline.cli.options import workflow_argument
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.amounts import Amount, Count
from gfm_pipeline.cli.support.answers import JSON, print_answer, print_line
from gfm_pipeline.core.contracts.data import is_test_set
from gfm_pipeline.core.contracts.ingest.preview import Preview, PreviewSpec, TargetPreview
from gfm_pipeline.core.contracts.ingest.report import Histogram
from gfm_pipeline.core.contracts.target_checks import unlabelled_sentence
from gfm_pipeline.core.contracts.targets import Rank
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.subprocess_query import query
from gfm_pipeline.sites.registry import split_sets
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_source, resolve_sources

BAR = 40
WIDE = 110  # characters: wider terminals have room for columns
PIPED = 160  # width of lines outside terminals, in characters
STARTING = 600.0  # seconds: on a busy login node, imports take long
TRIED_OUT = 10  # a named source with fewer records is a trial: a failure of ingest gives only a message
PATIENCE = 15.0  # seconds: a record that takes longer is quarantined while a user waits
MARKS = {True: "[green]ok[/]", False: "[red]WARNING[/]", None: "[dim]cannot tell[/]"}


@click.command()
@workflow_argument
@click.option(
    "--preview",
    "source",
    metavar="SOURCE",
    is_flag=False,
    flag_value="",
    default="",
    help="Source of the workflow.  [default: all sources]",
)
@click.option("--records", type=Count(0), default=10, show_default=True, help="Records to show.")
@click.option("--scan", type=Count(), default=2000, show_default=True, help="Largest number of records to read.")
@click.option("--seconds", type=Amount(), default=20.0, show_default=True, help="Longest time to read.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the workflow.")
@JSON
def ingest(
    workflow: Path,
    source: str,
    records: int,
    scan: int,
    seconds: float,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Preview the sources of WORKFLOW without writing anything (`run` converts them).

    The preview shows records, keys and their use, units and conversions, energies and forces, the records that each
    filter would remove, and the splits and reference energies that would result. It tests whether energies, forces and
    positions are consistent, to find wrong units and wrong signs. Exit code 1 if ingest would fail (a SOURCE of
    fewer than 10 records is tried out: the preview only says so). With --json it prints one object per source; of
    several sources, one on each line.
    """
    loaded = load_workflow(workflow, split_sets(overrides)[0])
    data, limits = loaded.model.data, loaded.model.limits.reading(PATIENCE)
    sources = (resolve_source(loaded, source),) if source else resolve_sources(loaded)
    shares = data.validation, data.test, data.split_across_sources, data.max_quarantined
    previews: list[Preview] = []
    for settings in sources:
        spec = PreviewSpec(settings, loaded.model.seed, records, scan, seconds, limits, *shares)
        # The start of the program, and one slow record, add to the time for reading.
        preview = query("gfm_pipeline.apps.ingest.preview", spec, Preview, seconds + STARTING)
        preview = _beside_training(preview, settings.test_of, previews)
        previews.append(preview)
        _print(preview, as_json, alone=len(sources) == 1, first=len(previews) == 1)
    failed = next((one for one in previews if one.failure is not None and not _tried_out(one, source)), None)
    if failed is not None:
        raise DataError(f"Source {failed.source}: ingest would fail: {str(failed.failure).rstrip('.')}.")
    refuse_unknown_elements(loaded, {one.source: one.elements for one in previews if not is_test_set(one.source)})
    if len(previews) < len(data.sources):
        return
    for first in previews[0].targets:
        name = first.target.name
        if not any(one.records for preview in previews for one in preview.targets if one.target.name == name):
            raise DataError(unlabelled_sentence(first.target, "source of the workflow", first.attribute))


def _beside_training(preview: Preview, test_of: str | None, earlier: list[Preview]) -> Preview:
    """Return the preview of a test set with a warning of elements that the records of its source lack."""
    source = next((one for one in earlier if one.source == test_of), None)
    if source is None:
        return preview
    unseen = sorted(set(preview.elements) - set(source.elements))
    if not unseen:
        return preview
    of_sample = "" if source.complete else " that were read"
    sentence = (
        f"The records{of_sample} of {source.source} have no {', '.join(unseen)}: ingest quarantines the records of "
        f"{preview.source} with it, because no model can predict them."
    )
    return replace(preview, warnings=(*preview.warnings, sentence))


def _tried_out(preview: Preview, named: str) -> bool:
    """Return whether a named source is only a trial: a few records, some of them usable, are too few for splits."""
    return bool(named) and preview.usable > 0 and preview.read < TRIED_OUT


def _print(preview: Preview, as_json: bool, *, alone: bool, first: bool) -> None:
    if as_json:
        (print_answer if alone else print_line)(preview)
        return
    console = terminal.console()
    if not console.is_terminal:
        console.width = PIPED  # a file has no width
    if not first:
        console.print()
    render(preview, console)


def render(preview: Preview, console: Console) -> None:
    """Print a preview for users."""
    extent = "all of it" if preview.complete else "a sample"
    of_files = f" from {preview.files_read} of {preview.files} files" if preview.files else ""
    total = "" if preview.total is None else f" of {preview.total:,}"
    console.print(
        f"[bold]{preview.source}[/] ({preview.reader}): {preview.read:,}{total} records read{of_files} ({extent}), "
        f"{preview.usable:,} usable, {preview.groups:,} groups, elements {' '.join(preview.elements) or 'none'}"
    )
    _records(preview, console)
    if preview.failure is not None:
        console.print(f"[bold red]Ingest would fail[/]: {escape(preview.failure.rstrip('.'))}.", highlight=False)
    console.print("\n[bold]Units[/] of the source: " + ", ".join(f"{k} {v}" for k, v in preview.units.items()))
    for sentence in preview.conversions or ("Nothing is converted: labels are eV, Angstrom and eV/Angstrom.",):
        console.print(f"  {sentence}", highlight=False)
    _histogram("Energy minus references, eV/atom", preview.energies, console)
    _histogram("Largest force component of a record, eV/Angstrom", preview.forces, console)
    for one in preview.targets:
        _target(one, preview.usable, console)
    console.print("\n[bold]Filters[/]: " + ", ".join(f"{k} {v}" for k, v in preview.filters.items() if v is not None))
    for taken in preview.removed:
        share = taken.records / max(1, preview.read)
        console.print(
            f"  {taken.reason}: {taken.records:,} ({share:.1%}); {taken.example}", highlight=False, markup=False
        )
    if not preview.removed:
        console.print("  No filter would remove a record.")
    for reason, n in preview.passed_over.items():
        console.print(f"  Passed over, not for this source: {n:,} ({reason})", highlight=False, markup=False)
    _splits(preview, console)
    _references(preview, console)
    _keys(preview, console)
    console.print("\n[bold]Labels[/]")
    for check in preview.checks:
        console.print(f"  {check.name}: {MARKS[check.passed]}", highlight=False)
        console.print(f"    {check.sentence}", highlight=False, markup=False)
    for sentence in preview.warnings:
        if sentence not in {preview.failure, *(check.sentence for check in preview.checks)}:
            console.print(f"  {MARKS[False]} {escape(sentence)}", highlight=False)


def _target(found: TargetPreview, usable: int, console: Console) -> None:
    """Print the labels of a target other than energy and forces."""
    target = found.target
    if not found.records:
        what = "states this attribute" if found.attribute else "has this target"
        console.print(f"\n[bold]{target.name}[/]: no usable record {what}")
        return
    read_from = f" ({', '.join(found.keys)})" if found.keys else ""
    largest = "" if target.rank is Rank.SCALAR else ", largest component"
    title = f"{target.name}{escape(read_from)}, {target.error_unit or 'a number'}{largest}"
    _histogram(f"{title}, of {found.records:,} of {usable:,} usable records", found.values, console)


def _records(preview: Preview, console: Console) -> None:
    narrow = console.width < WIDE
    table = Table(box=None, header_style="bold", padding=(0, 1 if narrow else 2, 0, 0))
    figures = ("atoms", "energy, eV", "eV/atom", "max eV/A" if narrow else "max force, eV/A")
    for name in ("formula", *figures, "pbc" if narrow else "periodic", "group", "from"):
        table.add_column(name, justify="right" if name in figures else "left", overflow="fold")
    for r in preview.records:
        largest = "none" if r.max_force is None else f"{r.max_force:.4g}"
        shown = (f"{r.energy:.6g}", f"{r.energy_per_atom:.6g}", largest)
        file, _, index = r.place.rpartition("#")
        place = f"#{index}" if narrow and preview.files == 1 else f"{Path(file).name}#{index}"
        table.add_row(r.formula, str(r.n_atoms), *shown, r.periodic, escape(Path(r.group).name), escape(place))
    console.print(table)


def _keys(preview: Preview, console: Console) -> None:
    """Print the keys of the records, and the use of each."""
    if not preview.labels.keys:
        return
    console.print("\n[bold]Keys[/] of the records, and what they are used as:")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("key", "what it is", "shape", "records", "used as", "values"):
        table.add_column(name, justify="right" if name == "records" else "left", overflow="fold")
    for key in preview.labels.keys:
        values = ", ".join(f"{value}: {n:,}" for value, n in key.values.items())
        row = (key.key, key.kind, key.shape, f"{key.records:,}", key.use, values)
        table.add_row(*map(escape, row))
    console.print(table)


def _splits(preview: Preview, console: Console) -> None:
    """Print the resulting splits, and the requested ones."""
    if not preview.splits:
        return
    console.print("\n[bold]Splits[/] that would result")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("split", "records", "groups", "share", "asked for", "elements"):
        table.add_column(name, justify="right" if name in ("records", "groups", "share", "asked for") else "left")
    for one in preview.splits:
        requested = "given" if one.requested is None else f"{one.requested:.1%}"
        row = (one.split, f"{one.records:,}", f"{one.groups:,}", f"{one.share:.1%}", requested, " ".join(one.elements))
        table.add_row(*row)
    console.print(table)


def _references(preview: Preview, console: Console) -> None:
    """Print the reference energies, and the number that the records determine."""
    found = preview.references
    if found is None:
        return
    shown = ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in found.energies.items())
    console.print(
        f"\n[bold]References[/], eV ({found.origin}; {found.rank} of {len(found.energies)} determined): {shown}",
        highlight=False,
    )


def _histogram(title: str, found: Histogram | None, console: Console) -> None:
    if found is None:
        return
    console.print(f"\n[bold]{title}[/]")
    scale = BAR / max(1, *found.counts)
    for low, high, n in zip(found.edges[:-1], found.edges[1:], found.counts, strict=True):
        console.print(f"  {low:11.4g} .. {high:11.4g} {n:7d} [cyan]{'█' * round(n * scale)}[/]", highlight=False)
