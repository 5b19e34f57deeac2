"""Commands that use a finished ensemble: export to one file, predictions of files, errors on labelled files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from gfm_pipeline.api.folders import dataset_folders
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.core.contracts.data import EnergyUnit, ForceSign, LengthUnit, SourceSettings
from gfm_pipeline.core.contracts.deploy import (
    PACKAGE_SUFFIX,
    BundleFacts,
    ExportSpec,
    OutOfDomain,
    PredictFacts,
    PredictFilesSpec,
    SelectFacts,
    SelectSpec,
)
from gfm_pipeline.core.contracts.targets import DEFAULT
from gfm_pipeline.core.errors import named_by_user
from gfm_pipeline.core.publish import check_output, write_atomic
from gfm_pipeline.core.subprocess_query import query

PIPED = 160  # width of lines outside terminals, in characters
F = TypeVar("F", bound=Callable[..., Any])
_PROGRAMS = "gfm_pipeline.apps.deploy"
_SHOWN = {target.error_unit: (target.printed_unit, target.shown_factor) for target in DEFAULT}
MODEL = click.argument("model", type=click.Path(exists=True, path_type=Path))
FILES = click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))


def _of_files(command: F) -> F:
    """Add the options for reading files and for the device."""
    options = (
        click.option("--dataset", metavar="NAME", help="Dataset head to use; needed if the model has several."),
        click.option("--reader", default="ase", show_default=True, help="Reader of the files."),
        click.option("--energy-key", metavar="KEY", help="Key of the energy in the files."),
        click.option("--forces-key", metavar="KEY", help="Key of the forces in the files."),
        click.option(
            "--energy-unit", type=click.Choice([str(u) for u in EnergyUnit]), default="eV", show_default=True,
            help="Unit of energies in the files.",
        ),
        click.option(
            "--length-unit", type=click.Choice([str(u) for u in LengthUnit]), default="Angstrom", show_default=True,
            help="Unit of lengths in the files.",
        ),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda (AMD too), or xpu."),
        click.option(
            "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
            help="Numbers of the computation.",
        ),
        click.option(
            "--batch-atoms", type=click.IntRange(1), default=2048, show_default=True, help="Atoms per batch."
        ),
        click.option(
            "--out-of-domain", type=click.Choice([str(p) for p in OutOfDomain]), default="answer", show_default=True,
            help="What is done with structures unlike the training data.",
        ),
        click.option("--overwrite", is_flag=True, help="Overwrite an existing file."),
        JSON,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@MODEL
@click.option(
    "--output", type=click.Path(path_type=Path), required=True,
    help="File to write: NAME.gfm for Python, or NAME.pt2, a compiled package for C++.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Overwrite an existing file.")
@click.option("--dataset", metavar="NAME", help="Dataset head of a package; needed if the model has several.")
@click.option("--device", default="cpu", show_default=True, help="Device of a package: cpu, cuda (AMD too), or xpu.")
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
    help="Numbers of a package.",
)  # fmt: skip
@JSON
def export(
    model: Path, output: Path, overwrite: bool, dataset: str | None, device: str, dtype: str, as_json: bool
) -> None:
    """Write the ensemble of MODEL (a campaign, an ensemble's folder, or an exported file) to one portable file.

    A .gfm file holds weights, calibration, the model card with the campaign's decisions in brief, and for each dataset
    statistics, licence, citation and level of theory. Opening the file checks its digests and needs no campaign:
    GFMCalculator("model.gfm"). A .pt2 file is the ensemble compiled for one dataset and device; C++ runs it without
    Python (docs/deploy.md).
    """
    from gfm_pipeline.report.brief import decisions_in_brief  # here: other commands need no stages

    spec = ExportSpec(str(model), str(output), overwrite, dataset, device, dtype, decisions_in_brief(model))
    found = query(f"{_PROGRAMS}.export", spec, BundleFacts, None, shows=True)
    if as_json:
        print_answer(found)
        return
    console = _console()
    console.print(f"{found.output}: {found.size:,} bytes, SHA-256 {found.digest}", highlight=False)
    console.print(f"  members   {', '.join(found.members)}", highlight=False)
    console.print(f"  datasets  {', '.join(found.datasets)}; targets {', '.join(found.targets)}", highlight=False)
    use = f"gfm-pipeline predict {found.output} FILES --output predictions.extxyz"
    console.print(
        f"  use       {use if output.suffix != PACKAGE_SUFFIX else 'examples/cpp/energy.cpp'}", highlight=False
    )


@click.command()
@MODEL
@FILES
@click.option(
    "--output", type=click.Path(path_type=Path), required=True,
    help="File of predictions; the suffix .extxyz, .db (ASE), .h5, .csv or .parquet sets the format.",
)  # fmt: skip
@_of_files
@named_by_user()
def predict(model: Path, files: tuple[Path, ...], output: Path, **given: Any) -> None:
    """Predict the structures of FILES with MODEL (a campaign, the folder of an ensemble, or an exported file).

    The output holds every target with its spread (NAME_std) and calibrated half-width (NAME_interval). The command
    names structures that it cannot predict (unknown elements, two atoms at one place, numbers that are not finite)
    and predicts the others.
    """
    found = _run(model, files, given, output=str(output))
    if not given["as_json"]:
        _console().print(f"Written to {found.output}.", highlight=False)


@click.command()
@MODEL
@FILES
@click.option(
    "--output", type=click.Path(path_type=Path), help="Also write the predictions to this file, as `predict` does."
)
@click.option("--group-key", metavar="KEY", help="Also print errors for each value of this key of the records.")
@click.option(
    "--report", type=click.Path(path_type=Path),
    help="Also write this HTML page: errors, figures of predictions and intervals, the largest errors.",
)  # fmt: skip
@_of_files
@named_by_user()
def evaluate(
    model: Path,
    files: tuple[Path, ...],
    output: Path | None,
    group_key: str | None,
    report: Path | None,
    **given: Any,
) -> None:
    """Compare predictions of MODEL with the labels in FILES: errors by target, size, element and group.

    MODEL is a campaign, the folder of an ensemble, or an exported file. The command lists the structures with the
    largest errors. Structures without a label of a target do not count for this target.
    """
    written = None if output is None else str(output)
    if report is None:
        _run(model, files, given, output=written, evaluate=True, group_key=group_key)
        return
    check_output(report, (model, *files), overwrite=given["overwrite"])
    with tempfile.TemporaryDirectory() as folder:
        found = _run(model, files, given, output=written, evaluate=True, group_key=group_key, figures=folder)
        from gfm_pipeline.report.evaluation_page import evaluation_page  # matplotlib is slow to import

        write_atomic(report, evaluation_page(found, Path(folder), model).encode())
    if not given["as_json"]:
        _console().print(f"Written to {report}.", highlight=False)


@click.command()
@MODEL
@click.argument("pool", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--n", "count", type=click.IntRange(1), required=True, help="Structures to choose.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("selected.extxyz"), show_default=True,
    help="Extended XYZ to write.",
)  # fmt: skip
@click.option(
    "--training", type=click.Path(exists=True, path_type=Path), multiple=True,
    help="Campaign, or folder of a dataset, that the model was trained on.  [default: MODEL, if it is one]",
)  # fmt: skip
@_of_files
@named_by_user()
def select(
    model: Path, pool: tuple[Path, ...], count: int, output: Path, training: tuple[Path, ...], **given: Any
) -> None:
    """Choose structures of POOL to label next: uncertain ones that differ from each other and from training data.

    MODEL is a campaign, the folder of an ensemble, or an exported file. The structures are written in the order of
    their worth, each with the reasons. Structures that are in the data of the model (training, validation, test or a
    test set) are named and not chosen.
    """
    folders = [folder for place in (training or (model,)) for folder in dataset_folders(place)]
    spec = SelectSpec(_spec(model, pool, given), str(output), count, tuple(map(str, folders)))
    found = query(f"{_PROGRAMS}.select", spec, SelectFacts, None, shows=True)
    if given["as_json"]:
        print_answer(found)
        return
    _render_selection(found, count)


def _render_selection(found: SelectFacts, count: int) -> None:
    def line(text: str) -> None:
        _console().print(text, highlight=False, markup=False, soft_wrap=True)

    line(f"{found.chosen:,} of {found.pool:,} structures are chosen for {found.dataset}; written to {found.output}.")
    if found.chosen < count:
        line("  No more of them differ from each other.")
    line(
        f"  spread of the members: {found.uncertainty:.4g} on average, {found.uncertainty_of_pool:.4g} over the pool"
        + ("" if found.out_of_domain is None else f"; {found.out_of_domain:,} out of domain")
    )
    for file, n in found.files.items():
        line(f"  {n:,} from {file}")
    if not found.compared:
        line("  The training data are not at hand (--training CAMPAIGN): overlap with them is not known.")
    if found.n_overlap:
        line(f"  {found.n_overlap:,} structures of the pool are in the data of the model and are not chosen:")
        for place in found.overlap:
            line(f"    {place}")
    if found.n_refused:
        line(f"  {found.n_refused:,} structures cannot be predicted:")
        for sentence in found.refused:
            line(f"    {sentence}")


def _run(
    model: Path,
    files: tuple[Path, ...],
    given: dict[str, Any],
    *,
    output: str | None,
    evaluate: bool = False,
    group_key: str | None = None,
    figures: str | None = None,
) -> PredictFacts:
    spec = _spec(model, files, given, output=output, evaluate=evaluate, group_key=group_key)
    spec = replace(spec, figures=figures)
    found = query(f"{_PROGRAMS}.predict", spec, PredictFacts, None, shows=True)
    if given["as_json"]:
        print_answer(found)
    else:
        _render(found, evaluate)
    return found


def _spec(
    model: Path,
    files: tuple[Path, ...],
    given: dict[str, Any],
    *,
    output: str | None = None,
    evaluate: bool = False,
    group_key: str | None = None,
) -> PredictFilesSpec:
    source = SourceSettings(
        name="files",
        reader=given["reader"],
        files=tuple(str(file.absolute()) for file in files),
        energy_unit=EnergyUnit(given["energy_unit"]),
        length_unit=LengthUnit(given["length_unit"]),
        energy_key=given["energy_key"],
        forces_key=given["forces_key"],
        group_key=group_key,
        forces_are=ForceSign.FORCES,
    )
    return PredictFilesSpec(
        model=str(model),
        source=source,
        output=output,
        dataset=given["dataset"],
        evaluate=evaluate,
        by_group=group_key is not None,
        batch_atoms=given["batch_atoms"],
        device=given["device"],
        dtype=given["dtype"],
        overwrite=given["overwrite"],
        on_out_of_domain=OutOfDomain(given["out_of_domain"]),
    )


def _render(found: PredictFacts, evaluate: bool) -> None:
    console = _console()
    speed = found.structures / max(found.seconds, 1e-9)
    console.print(
        f"{found.structures:,} structures ({found.atoms:,} atoms) predicted for {found.dataset}: "
        f"{', '.join(found.targets)}; {found.seconds:.1f} s, {speed:,.0f} structures per second",
        highlight=False,
    )
    for sentence, n in found.warnings.items():
        console.print(f"  warning, {n:,} structures: {sentence}", highlight=False, markup=False)
    if found.outside:
        console.print(
            f"  {found.outside:,} structures are unlike the training data (in_domain is false)", highlight=False
        )
    if found.n_refused:
        console.print(f"  {found.n_refused:,} structures have no prediction:", highlight=False)
        for sentence in found.refused:
            console.print(f"    {sentence}", highlight=False, markup=False)
    if not evaluate:
        return
    if found.unlabelled:
        console.print(f"  {found.unlabelled:,} structures have no label and do not count.", highlight=False)
    table = Table("target", "by", "group", header_style="bold")
    for title in ("entries", "MAE", "RMSE", "unit", "intervals cover"):
        table.add_column(title, justify="right")
    for row in sorted(found.errors, key=lambda r: (r.target, r.by != "all", r.by, -r.entries)):
        unit, factor = _SHOWN.get(row.unit, (row.unit, 1.0))
        covered = "" if row.coverage is None else f"{row.coverage:.1%}"
        covered += "" if row.coverage_error is None else f" ± {row.coverage_error:.1%}"
        errors = f"{factor * row.mae:.4g}", f"{factor * row.rmse:.4g}"
        table.add_row(row.target, row.by, row.group, f"{row.entries:,}", *errors, unit, covered)
    console.print(table)
    shown = [
        worst for k, worst in enumerate(found.worst) if [w.target for w in found.worst[:k]].count(worst.target) < 3
    ]
    for worst in shown:
        unit, factor = _SHOWN.get(worst.unit, (worst.unit, 1.0))
        place = f"{worst.file}, record {worst.record} ({worst.formula})"
        console.print(
            f"  largest error of {worst.target}: {factor * worst.error:.4g} {unit}, {place}",
            highlight=False,
            markup=False,
        )


def _console() -> Console:
    console = terminal.console()
    if not console.is_terminal:
        console.width = PIPED
    return console
