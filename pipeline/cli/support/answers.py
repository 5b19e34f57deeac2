"""Answers for programs: the only declaration of what ``--json`` prints for each command.

Every answer is one JSON object with ``schema_version`` and the keys of a record. Later versions add keys and remove
none. ``gfm-pipeline schema --answer COMMAND`` prints the JSON schema of an answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

import click

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.records import to_plain

SCHEMA_VERSION = 1
LINES = " One object on each line, as events happen."
HEAD = """# Answers for programs

Commands that answer have the option `--json`. They print one JSON object to standard output, and everything else to
standard error. The keys of each command are below. Later versions add keys; if they remove keys, they raise
`schema_version`. A command that fails prints a sentence to standard error and sets the exit code (`gfm-pipeline --help`
lists the codes).

    gfm-pipeline schema --answer status     # the JSON Schema of an answer, with all nested records

The program writes this page: `python -m gfm_pipeline.cli.support.answers > docs/json.md`."""
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output.")


@dataclass(frozen=True)
class Answer:
    """The answer of a command.

    Parameters
    ----------
    record
        ``module:class`` of the record whose fields are the keys, below this package.
    more
        Further keys, and their descriptions.
    lines
        Whether the command prints one object per line, as events happen.
    """

    record: str
    more: Mapping[str, str] = field(default_factory=dict)
    lines: bool = False

    def kind(self) -> type[Any]:
        """Import the record's class."""
        module, _, name = self.record.partition(":")
        found: type[Any] = getattr(import_module(f"gfm_pipeline.{module}"), name)
        return found

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the object, in order."""
        return ("schema_version", *self.more, *(f.name for f in fields(self.kind())))


_STATUS = {"status": "state of the campaign: running, stopped, done or failed", "doubts": "warnings, as sentences"}
ANSWERS = {
    "cancel": Answer("cli.support.answered:Sentences"),
    "clean": Answer("cli.support.answered:Cleaned"),
    "dataset export": Answer("core.contracts.layout:DatasetExportFacts"),
    "dataset head": Answer("cli.support.answered:Heads"),
    "dataset info": Answer("core.contracts.layout:DatasetInfo"),
    "dataset verify": Answer("cli.support.answered:DatasetVerified"),
    "evaluate": Answer("core.contracts.deploy:PredictFacts"),
    "export": Answer("core.contracts.deploy:BundleFacts"),
    "init": Answer("cli.support.answered:Drafted"),
    "list": Answer("cli.support.answered:Listed"),
    "logs": Answer("api.campaign_log:LogLine", lines=True),
    "plan": Answer("engine.decisions.plan:CampaignPlan", {"scripts": "with --show-scripts: texts of scripts, by name"}),
    "predict": Answer("core.contracts.deploy:PredictFacts"),
    "replay": Answer("cli.support.answered:Replayed"),
    "report": Answer("cli.support.answered:Reported"),
    "resume": Answer("report.view:CampaignView", _STATUS),
    "run": Answer("report.view:CampaignView", _STATUS),
    "select": Answer("core.contracts.deploy:SelectFacts"),
    "sites list": Answer("cli.support.answered:SitesListed"),
    "status": Answer("report.view:CampaignView", _STATUS),
    "submit": Answer("cli.support.answered:Sentences"),
    "unlock": Answer("cli.support.answered:Unlocked"),
    "simulate": Answer("simulate.result:SimulationOutcome", {"idle_node_hours": "node-hours of idle nodes, by reason"}),
    "sites check": Answer("cli.support.answered:SiteChecked"),
    "sites show": Answer("cli.support.answered:SiteShown"),
    "ingest": Answer("core.contracts.ingest.preview:Preview"),  # of several sources, one on each line
    "validate": Answer("cli.support.answered:Validated"),
    "verify": Answer("cli.support.answered:Verified"),
    "why": Answer("cli.support.answered:StagesExplained"),
}


def answer_schema(command: str) -> dict[str, Any]:
    """Return the JSON schema of what ``command --json`` prints.

    Raises
    ------
    ConfigError
        When no such command answers in JSON.
    """
    from pydantic import TypeAdapter  # here: it takes longer than most commands

    if command not in ANSWERS:
        raise ConfigError(f"No command {command!r} has --json.", f"Choose from: {', '.join(sorted(ANSWERS))}.")
    answer = ANSWERS[command]
    schema = TypeAdapter(answer.kind()).json_schema()
    keys: dict[str, Any] = {"schema_version": {"const": SCHEMA_VERSION}}
    keys |= {key: {"description": text} for key, text in answer.more.items()}
    return {**schema, "title": f"gfm-pipeline {command} --json", "properties": keys | schema["properties"]}


def print_answer(record: Any, **more: Any) -> None:
    """Print a record and ``more``, the keys that the record lacks, as one JSON object."""
    plain = {"schema_version": SCHEMA_VERSION, **more, **to_plain(record)}
    click.echo(json.dumps(plain, indent=1, allow_nan=False))


def print_line(record: Any) -> None:
    """Print a record as a JSON object on one line."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **to_plain(record)}, allow_nan=False))


def page() -> str:
    """Return the page of the documentation about these answers."""
    lines = [HEAD]
    for command, answer in sorted(ANSWERS.items()):
        kind = answer.kind()
        lines.append(f"\n## {command}\n")
        lines.append(" ".join((kind.__doc__ or "").split("\n\n")[0].split()) + (LINES if answer.lines else "") + "\n")
        lines.append("| key | type |\n|---|---|\n| `schema_version` | 1 |")
        lines += [f"| `{key}` | {text} |" for key, text in answer.more.items()]
        lines += [f"| `{f.name}` | {_type(f.type)} |" for f in fields(kind)]
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    """Return the source text of an annotation, for a cell of a table."""
    return "`" + str(annotation).replace("|", "\\|") + "`"


if __name__ == "__main__":
    sys.stdout.write(page())
