"""Commands that check a campaign: verify, why and replay."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.table import Table

from gfm_pipeline.api.folders import existing
from gfm_pipeline.api.run_request import resolve
from gfm_pipeline.campaign.folder import check_name
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.cli.options import campaign_argument, workflow_options
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.answered import ArtefactState, Replayed, StagesExplained, Verified
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import Manifest
from gfm_pipeline.engine.decisions.artefacts import Artefact, Role, artefacts, check, refusal
from gfm_pipeline.engine.decisions.decide import stage_names
from gfm_pipeline.engine.decisions.explain import Explanation, explain


@click.command()
@campaign_argument
@click.option("--quick", is_flag=True, help="Compare sizes only; without it, every byte is read.")
@JSON
def verify(campaign: Path, quick: bool, as_json: bool) -> None:
    """Compare every artefact of the campaign in folder CAMPAIGN with its published digest.

    Exit code 5 if a needed artefact is missing, or if one has changed; the message names the first one and the
    fix. You may remove intermediate artefacts, and those of abandoned settings, to save space.
    """
    paths = existing(campaign)
    found = list(artefacts(paths, load_state(paths.journal)))
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("stage")
    table.add_column("artefact", overflow="fold")
    table.add_column("files", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("is", overflow="fold")
    first: IntegrityError | None = None
    states: list[ArtefactState] = []
    for artefact in found:
        manifest, verdict, fault = _check(artefact, quick, paths.root)
        first = first or fault
        sizes = [] if manifest is None else [entry.size for entry in manifest.files.values()]
        counts = ("", "") if manifest is None else (str(len(sizes)), f"{sum(sizes):,}")
        folder = str(artefact.folder.relative_to(paths.root))
        table.add_row(artefact.stage, folder, *counts, verdict)
        files, size = (None, None) if manifest is None else (len(sizes), sum(sizes))
        states.append(ArtefactState(artefact.stage, artefact.task, folder, files, size, verdict))
    if as_json:
        print_answer(Verified(str(paths.root), not quick, None if first is None else str(first), tuple(states)))
    else:
        terminal.console().print(table)
    if first is not None:
        raise first
    how = "sizes" if quick else "every byte"
    if not as_json:
        click.echo(f"\n{len(found)} artefacts checked ({how}): nothing is missing, nothing was changed.")


def _check(artefact: Artefact, quick: bool, campaign: Path) -> tuple[Manifest | None, str, IntegrityError | None]:
    """Return an artefact's manifest, its state in words, and its fault, if any."""
    try:
        manifest = check(artefact, digests=not quick)
    except IntegrityError as error:
        return None, "DAMAGED", refusal(artefact, error, campaign)
    if manifest is not None:
        return manifest, "whole", None
    if artefact.role is Role.STEP:
        return None, "gone; not needed any more", None
    if artefact.role is Role.SUPERSEDED:
        return None, "gone; of settings that were given up", None
    again = shlex.join(["gfm-pipeline", "resume", str(campaign)])
    fault = IntegrityError(
        f"{artefact.folder} is gone.",
        f"Run `{again}`: {artefact.stage} makes it again (task {artefact.task}).",
    )
    return None, "GONE", fault


@click.command()
@workflow_options
@click.argument("stage")
@JSON
def why(
    workflow: Path,
    stage: str,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Explain why STAGE of WORKFLOW would run or not, with old and new values of changed settings."""
    request = resolve(workflow, site, folder, overrides, overlays)
    state = check_name(request.context.paths, request.loaded.model.name) or CampaignState()
    names = stage_names(request.context)
    if stage not in names:
        raise click.BadParameter(f"{stage!r} is not a stage of this campaign. Choose from: {', '.join(names)}.")
    explanation = explain(request.context, state, stage)
    first = [] if explanation.waits_for is None else [explain(request.context, state, explanation.waits_for)]
    if as_json:
        gone = [line for found in (explanation, *first) for line in _gone(request.context.paths, state, found)]
        print_answer(StagesExplained((explanation, *first), tuple(line.strip() for line in gone)))
        return
    for found in (explanation, *first):
        for line in [*_lines(found), *_gone(request.context.paths, state, found)]:
            click.echo(line)


def _gone(paths: CampaignPaths, state: CampaignState, found: Explanation) -> list[str]:
    """Return one line per missing output of a cached stage."""
    promised = (
        [a for a in artefacts(paths, state) if a.key == found.key and a.role is Role.OUTPUT] if found.cached else []
    )
    return [f"  but {a.folder} is gone: task {a.task} makes it again" for a in promised if check(a) is None]


def _lines(found: Explanation) -> list[str]:
    """Return an explanation as lines for users."""
    verdict = "cached" if found.cached else "to run"
    key = "not known yet" if found.key is None else found.key[:10]
    if found.last_key is not None and found.last_key != found.key:
        key = f"{found.last_key[:10]} -> {key}"
    return [f"{found.stage}: {verdict}: {found.reason} (key {key}).", *(f"  {change}" for change in found.changes)]


@click.command()
@campaign_argument
@JSON
def replay(campaign: Path, as_json: bool) -> None:
    """Derive each decision of the search in folder CAMPAIGN again from the journal, and compare.

    Each wave of candidates, each promotion and stop with its evidence, each ranking and choice of members must come out
    as recorded, bit for bit. Exit code 5 if one differs; the message names the first. The command changes nothing.
    """
    from gfm_pipeline.engine.decisions.replay import replayed  # here: the other commands need no proposal method

    counts = replayed(existing(campaign))
    if as_json:
        print_answer(Replayed(str(campaign), counts))
        return
    words = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "no decision yet"
    click.echo(f"Every decision follows from the journal, bit for bit: {words}.")
