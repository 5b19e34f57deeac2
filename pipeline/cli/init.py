"""The command that writes a workflow for files of structures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from gfm_pipeline.api.drafting.starter import FoundSource, by_folder, find_source, spec_of
from gfm_pipeline.cli.support.answered import Drafted, DraftedSource
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.ingest.preview import Preview
from gfm_pipeline.core.contracts.readers import reader_names
from gfm_pipeline.core.errors import ConfigError, DataError, named_by_user
from gfm_pipeline.core.publish import check_output, write_atomic
from gfm_pipeline.core.subprocess_query import query
from gfm_pipeline.workflow.draft import Chosen, WorkflowDraft
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_sources

TOLERATED = 0.05  # share of bad records that a workflow tolerates by default
DATASET_MARKS = ("type.raw", "data.mdb", "md.idx", "metadata.json")  # files of formats whose datasets are folders
PROSE = re.compile(
    r"\.|(README|LICEN[CS]E|COPYING|CITATION|CHANGELOG)\b|.*\.(md|rst|pdf|ya?ml|py|sh|ipynb)$", re.IGNORECASE
)
STARTING = 600.0  # seconds: on a busy login node, imports take long


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("workflow.yaml"), show_default=True, help="File to write."
)
@click.option("--name", help="Name of the campaign.  [default: that of the folder]")
@click.option("--reader", type=click.Choice(reader_names()), help="What reads the files.  [default: what can]")
@click.option("--overwrite", is_flag=True, help="Write over a file that is there.")
@JSON
@named_by_user()
def init(
    files: tuple[Path, ...], output: Path, name: str | None, reader: str | None, overwrite: bool, as_json: bool
) -> None:
    """Look at FILES of structures and write a commented workflow that reads them.

    FILES may be folders of such files. Those of one folder and suffix become one source. Formats, keys of the labels,
    units, signs, groups and splits are found by trying them on a sample; each setting says why it was chosen. What is
    written passes `validate` and `ingest`, or nothing is. Without FILES, on a terminal, it asks.
    """
    check_output(output, files, overwrite=overwrite)
    if not output.parent.is_dir():
        raise ConfigError(f"There is no folder {output.parent}.", "Make it first.")
    if not files:
        if as_json or not sys.stdin.isatty():
            raise click.UsageError("Give files of structures: gfm-pipeline init data/*.xyz")
        name = name or click.prompt("Name of the campaign", default=_name_of(output))
        files = tuple(_files_from_terminal())
    given = _existing(files)
    sources = by_folder(given if reader is not None else [file for one in given for file in _inside(one)])
    found = [find_source(source, names, _look, output.parent, reader) for source, names in sources.items()]
    draft = WorkflowDraft(name or _name_of(output), tuple(one.draft for one in found), _data(found))
    _write(draft, output)
    if as_json:
        print_answer(Drafted(str(output), draft.name, tuple(map(_drafted, found))))
        return
    for one in found:
        preview, reading = (
            one.preview,
            ", ".join(f"{k} {c.value}" for k, c in one.draft.settings.items() if k != "files"),
        )
        click.echo(f"{one.draft.name}: {preview.usable:,} of {preview.read:,} records read are usable, {reading}")
        for split in preview.splits:
            click.echo(f"  {split.split:<8} {split.records:,} records in {split.groups:,} groups")
    click.echo(f"Written: {output}. It is valid, and ingest would not fail. Next: gfm-pipeline ingest {output}")


def _files_from_terminal() -> Iterator[Path]:
    """Yield files until the user enters an empty line."""
    while text := click.prompt("Files of structures (path or pattern; empty: no more)", default="", show_default=False):
        matches = _matches(Path(text).expanduser())
        click.echo(f"  {len(matches)} files" if matches else f"  there is no {text}")
        yield from matches


def _matches(pattern: Path) -> list[Path]:
    """Return the files of a path or pattern; an existing path is never a pattern, with any characters."""
    if pattern.exists():
        return [pattern]
    return sorted(pattern.parent.glob(pattern.name)) if pattern.parent.is_dir() else []


def _existing(files: tuple[Path, ...]) -> list[Path]:
    """Return the files; raises `ConfigError` if one is missing, or without any files."""
    gone = next((file for file in files if not file.exists()), None)
    if gone is not None or not files:
        what = "No file was given." if gone is None else f"There is no file {gone}."
        raise ConfigError(what, "Give files of structures, or folders of them.")
    return list(files)


def _is_dataset(folder: Path) -> bool:
    return folder.suffix == ".bp" or any((folder / mark).exists() for mark in DATASET_MARKS)


def _inside(path: Path) -> list[Path]:
    """Return the files of structures in a folder, and its datasets that are folders, or else those of folders in it.

    For a file, and a dataset that is a folder, it is the path itself.
    """
    if not path.is_dir() or _is_dataset(path):
        return [path]
    found = sorted(one for one in path.iterdir() if not PROSE.match(one.name))
    files = [one for one in found if one.is_file() or _is_dataset(one)]
    return files or [file for one in found if one.is_dir() for file in _inside(one) if file != one] or [path]


def _name_of(output: Path) -> str:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in output.resolve().parent.name)
    return name.lstrip("-._") or "campaign"


def _look(settings: SourceSettings) -> Preview:
    spec = spec_of(settings)
    return query("gfm_pipeline.apps.ingest.preview", spec, Preview, spec.seconds + STARTING)


def _data(found: list[FoundSource]) -> dict[str, Chosen]:
    """Return the settings other than sources: the workflow tolerates more bad records only if there are more."""
    chosen = {"validation": Chosen(0.1, "share of the records; whole groups"), "test": Chosen(0.1, "")}
    share, worst = max(((_aside(one.preview), one) for one in found), key=lambda pair: pair[0])
    if share > TOLERATED:
        reasons = ", ".join(f"{one.records} x {one.reason}" for one in worst.preview.removed[:3])
        why = f"{share:.0%} of the sample of {worst.draft.name} would be set aside: {reasons}"
        chosen["max_quarantined"] = Chosen(min(1.0, round(share + 0.05, 2)), why)
    return chosen


def _aside(preview: Preview) -> float:
    return (preview.read - preview.usable) / max(1, preview.read)


def _write(draft: WorkflowDraft, output: Path) -> None:
    """Write the workflow after checking that it is valid and that ingest would not fail.

    Raises
    ------
    DataError
        When ingest would fail; nothing is written.
    """
    partial = output.with_name(f".{output.name}.partial.yaml")
    try:
        write_atomic(partial, draft.text(output.name).encode())
        loaded = load_workflow(partial)
        for source in resolve_sources(loaded):
            data = loaded.model.data
            spec = replace(spec_of(source, data.max_quarantined), validation=data.validation, test=data.test)
            preview = query("gfm_pipeline.apps.ingest.preview", spec, Preview, spec.seconds + STARTING)
            if preview.failure is not None:
                files = ", ".join(Path(file).name for file in source.files[:3])
                of = source.name if source.test_of is None else f"{source.name} ({files})"
                raise DataError(
                    f"Source {of}: ingest would fail: {preview.failure.rstrip('.')}; nothing was written.",
                    "Give other files, or write the workflow by hand.",
                )
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _drafted(found: FoundSource) -> DraftedSource:
    settings = {key: chosen.value for key, chosen in found.draft.settings.items()}
    preview = found.preview
    return DraftedSource(found.draft.name, settings, preview.read, preview.usable, preview.elements, preview.splits)
