"""Examples of every command, which its help shows after the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

#: Arguments after ``gfm-pipeline``, by command; of commands in a group by "GROUP COMMAND".
EXAMPLES: Mapping[str, Sequence[str]] = {
    "init": ("data/*.xyz", "runs/*/OUTCAR --name silicon --output silicon.yaml"),
    "run": ("workflow.yaml", "workflow.yaml --set search.candidates=8 --until search"),
    "resume": ("campaigns/demo", "campaigns/demo --set site.slots=4"),
    "submit": ("workflow.yaml --site frontier --nodes 64 --hours 6",),
    "unlock": ("campaigns/demo",),
    "cancel": ("campaigns/demo", "campaigns/demo --now"),
    "status": ("campaigns/demo --watch 5", "campaigns/demo --json"),
    "report": ("campaigns/demo", "campaigns/demo --output page"),
    "plan": ("workflow.yaml", "workflow.yaml --site frontier --nodes 64 --show-scripts"),
    "simulate": ("workflow.yaml --site frontier", "workflow.yaml --site frontier --from campaigns/demo"),
    "why": ("workflow.yaml search",),
    "verify": ("campaigns/demo", "campaigns/demo --quick"),
    "replay": ("campaigns/demo",),
    "validate": ("workflow.yaml", "workflow.yaml --site perlmutter --overlay account.yaml"),
    "ingest": ("workflow.yaml", "workflow.yaml --preview my-dft --scan 500"),
    "dataset info": ("campaigns/demo/stages/ingest-*/datasets/alloys",),
    "dataset head": ("campaigns/demo/stages/ingest-*/datasets/alloys -n 3",),
    "dataset verify": ("campaigns/demo/stages/ingest-*/datasets/alloys",),
    "dataset export": ("campaigns/demo/stages/ingest-*/datasets/alloys alloys-v2.bp --hydragnn",),
    "export": ("campaigns/demo --output model.gfm", "model.gfm --output alloys.pt2 --dataset alloys"),
    "predict": ("model.gfm new.xyz --dataset alloys --output predicted.extxyz",),
    "evaluate": ("model.gfm labelled.xyz --dataset alloys --report errors.html",),
    "select": ("campaigns/demo pool.xyz --dataset alloys --n 100 --output to-label.extxyz",),
    "list": ("", "/scratch/campaigns"),
    "logs": ("campaigns/demo --follow", "campaigns/demo --task search/c00003-r1"),
    "clean": ("campaigns/demo", "campaigns/demo --only parsl-logs --yes"),
    "completion": (
        "bash > ~/.local/share/bash-completion/completions/gfm-pipeline",
        "zsh > ~/.zfunc/_gfm-pipeline     # with ~/.zfunc in $fpath before compinit",
        "fish > ~/.config/fish/completions/gfm-pipeline.fish",
    ),
    "sites list": ("",),
    "sites show": ("frontier", "frontier --only scheduler.queues"),
    "sites check": ("frontier --overlay account.yaml",),
    "sites schema": ("> site.schema.json",),
    "schema": ("> workflow.schema.json", "--answer status"),
}


def with_examples(command: click.Command, name: str) -> click.Command:
    """Give a command, and those of a group, its examples as the end of its help."""
    if isinstance(command, click.Group):
        for part, inner in command.commands.items():
            with_examples(inner, f"{name} {part}")
    elif command.epilog is None and name in EXAMPLES:
        lines = (f"  gfm-pipeline {name} {arguments}".rstrip() for arguments in EXAMPLES[name])
        command.epilog = "\n".join(("\b", "Examples:", *lines))
    return command
