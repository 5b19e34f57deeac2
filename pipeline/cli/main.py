"""The command line. Expected errors are one sentence and an exit code; no traceback without ``-v``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TextIO

import click

from gfm_pipeline.cli.support.lazy import Lazy, LazyGroup
from gfm_pipeline.cli.support.terminal import ReaderGone, edge
from gfm_pipeline.core.errors import ConfigError, GFMError, StorageError
from gfm_pipeline.core.interpreter import protect
from gfm_pipeline.core.version import __version__

INTERRUPTED = 130  # exit code, by the custom of shells: 128 + SIGINT
COMPLETE = "_GFM_PIPELINE_COMPLETE"  # set by the script of `completion`; Click derives it from the program's name
THREADS_SECONDS = 2.0  # wait for running threads of this process at its end
EPILOG = """
\b
Exit codes
  0  done                         4  batch system unavailable
  1  a stage or a check failed    5  a file of a campaign is damaged or was changed
  2  usage, configuration, input 75  another driver holds the campaign
  3  stopped, run again to continue      130/143  a signal ended the program

\b
First steps
  gfm-pipeline init data/*.xyz               write workflow.yaml from your files
  gfm-pipeline validate workflow.yaml        check the workflow file
  gfm-pipeline ingest workflow.yaml --preview   check keys, units, signs, splits and outliers of all sources
  gfm-pipeline plan workflow.yaml            what would run, and what is done already
  gfm-pipeline run workflow.yaml --site local
  gfm-pipeline sites show frontier           the settings of a machine, and where each comes from
  gfm-pipeline sites check frontier          compare this machine with its site file
  gfm-pipeline simulate workflow.yaml --site frontier   simulate time, occupancy and cost
  gfm-pipeline status campaigns/NAME         from any terminal
  gfm-pipeline logs campaigns/NAME --follow  the journal in words, as it grows
  gfm-pipeline list                          all campaigns below a folder
  gfm-pipeline clean campaigns/NAME          free space: what may be removed
  gfm-pipeline why workflow.yaml search      the settings that changed since the stage ran
  gfm-pipeline verify campaigns/NAME         compare every file with its published digest
  gfm-pipeline replay campaigns/NAME         derive every decision again from the journal
  gfm-pipeline export campaigns/NAME --output model.gfm    write the ensemble to one file
  gfm-pipeline predict model.gfm new.xyz --output predicted.extxyz
  gfm-pipeline select campaigns/NAME pool.xyz --n 100   what to label next, and why

Each command has examples: gfm-pipeline COMMAND --help
"""

# A command's module is imported when the command runs. Each sentence is the first one of the command's help.
COMMANDS = {
    "init": Lazy("init", "init", "Look at FILES of structures and write a commented workflow that reads them."),
    "run": Lazy("run", "run", "Run the campaign of WORKFLOW to its end, or continue it."),
    "resume": Lazy(
        "run",
        "resume",
        "Continue the campaign in folder CAMPAIGN with the workflow and the site of its last run.",
    ),
    "submit": Lazy(
        "submit", "submit", "Submit the campaign of WORKFLOW as a batch job; the driver runs inside the job."
    ),
    "unlock": Lazy("run", "unlock", "Remove the lock of a dead driver from folder CAMPAIGN."),
    "cancel": Lazy(
        "cancel",
        "cancel",
        "Stop the campaign in folder CAMPAIGN, and wait until all its processes have ended.",
    ),
    "status": Lazy("status", "status", "Show the progress of the campaign in folder CAMPAIGN."),
    "report": Lazy(
        "status",
        "report",
        "Write the report of the campaign in folder CAMPAIGN as report.html and report.md.",
    ),
    "plan": Lazy(
        "plan", "plan", "Show which tasks `run` or `submit` would start for WORKFLOW, with reasons, nodes and costs."
    ),
    "simulate": Lazy(
        "simulate",
        "simulate",
        "Simulate the campaign of WORKFLOW on a machine, and print times, occupancy and cost.",
    ),
    "why": Lazy(
        "checks", "why", "Explain why STAGE of WORKFLOW would run or not, with old and new values of changed settings."
    ),
    "verify": Lazy(
        "checks", "verify", "Compare every artefact of the campaign in folder CAMPAIGN with its published digest."
    ),
    "replay": Lazy(
        "checks",
        "replay",
        "Derive each decision of the search in folder CAMPAIGN again from the journal, and compare.",
    ),
    "validate": Lazy(
        "validate",
        "validate",
        "Check keys, types, readers, files and site of WORKFLOW, and report the first fault.",
    ),
    "ingest": Lazy(
        "ingest",
        "ingest",
        "Preview the sources of WORKFLOW without writing anything (`run` converts them).",
    ),
    "dataset": Lazy(
        "dataset", "dataset", "Inspect and export published datasets (CAMPAIGN/stages/ingest-*/datasets/NAME)."
    ),
    "export": Lazy(
        "deploy",
        "export",
        "Write the ensemble of MODEL (a campaign, an ensemble's folder, or an exported file) to one portable file.",
    ),
    "predict": Lazy(
        "deploy",
        "predict",
        "Predict the structures of FILES with MODEL (a campaign, the folder of an ensemble, or an exported file).",
    ),
    "evaluate": Lazy(
        "deploy",
        "evaluate",
        "Compare predictions of MODEL with the labels in FILES: errors by target, size, element and group.",
    ),
    "list": Lazy(
        "campaigns",
        "listing",
        "List the campaigns in FOLDER and below it: state, stage, size, and when something last happened.",
    ),
    "logs": Lazy(
        "campaigns",
        "logs",
        "Print what happened in folder CAMPAIGN, or with --task what the programs of a task printed.",
    ),
    "clean": Lazy(
        "campaigns",
        "clean",
        "Show what of folder CAMPAIGN may be removed, and how much that frees; ask, then remove it.",
    ),
    "completion": Lazy(
        "completion", "completion", "Print what makes SHELL complete commands, options and files of this program."
    ),
    "select": Lazy(
        "deploy",
        "select",
        "Choose structures of POOL to label next: uncertain ones that differ from each other and from training data.",
    ),
    "sites": Lazy(
        "sites", "sites", "List site files, show one, check this machine, or print the schema of site files."
    ),
    "schema": Lazy("validate", "schema", "Print the JSON schema of workflow files, for editors."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gfm-pipeline")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of errors.")
@click.pass_context
def cli(context: click.Context, verbose: bool) -> None:
    """Train a calibrated ensemble of graph foundation models from atomistic structures.

    One workflow file describes a campaign of four stages: ingest converts structures to ADIOS2
    datasets; search trains candidates in waves and stops bad ones early; converge trains the best
    candidates further; calibrate calibrates and evaluates their ensemble. Every stage can resume.
    """
    context.obj = {"verbose": verbose}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Threads of a Parsl with a dead interchange wait for it forever, and Python waits for these threads: the process
    would never end, nor release its nodes. All lasting files have been closed by now.
    """
    protect(os.environ)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = invoke(arguments)
        _wait_for_threads(code)
    except KeyboardInterrupt:  # outside any command
        code = INTERRUPTED
    for stream in (sys.stdout, sys.stderr):
        _flush_or_drop(stream)
    sys.exit(code)


def _flush_or_drop(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError):  # no reader: Python would report it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _wait_for_threads(code: int) -> None:
    give_up = time.monotonic() + THREADS_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, give_up - time.monotonic()))
            if thread.is_alive():
                for stream in (sys.stdout, sys.stderr):
                    with suppress(OSError, ValueError):  # closed, or without a reader
                        stream.flush()
                os._exit(code)


def invoke(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    logging.raiseExceptions = False  # a log that cannot be written (full disk) must print no tracebacks
    verbose = bool({"-v", "--verbose"} & set((arguments if arguments is not None else sys.argv[1:])[:1]))
    with nullcontext() if COMPLETE in os.environ else edge():  # Click answers shells in bytes
        try:
            return _invoke(arguments)
        except (BrokenPipeError, ReaderGone):
            return 0
        except (KeyboardInterrupt, click.Abort):
            _notify("Interrupted.")
            return INTERRUPTED
        except click.ClickException as error:
            _notify(_one_sentence(error))
            return ConfigError.exit_code
        except UnicodeEncodeError as error:  # bytes in a name that are not valid in this locale
            name = ascii(error.object[max(0, error.start - 20) : error.end + 20])
            _notify(f"Error: A name holds bytes that are not UTF-8: {name}. Rename it, or set LC_ALL=C.UTF-8.")
            return ConfigError.exit_code
        except (GFMError, OSError) as error:
            if verbose:
                with suppress(OSError, GFMError):
                    traceback.print_exc()
            if isinstance(error, GFMError):
                _notify("\n".join([f"Error: {error}", *(error.table or "").splitlines()]))
                return error.exit_code
            return _refused(error)


def _one_sentence(error: click.ClickException) -> str:
    """Return what Click says, and where help is, in one line; Click itself prints three lines of usage before it."""
    message = error.format_message()
    if message.startswith("Usage:"):  # nothing was asked for: the message is the whole help
        return message
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"Error: {message} Try `{error.ctx.command_path} --help`."
    return f"Error: {message}"


def _invoke(arguments: list[str] | None) -> int:
    try:
        code = cli.main(args=arguments, prog_name="gfm-pipeline", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    sys.stdout.flush()  # here, where a missing reader is handled
    return code if isinstance(code, int) else 0  # a command that ended early with its own code


def _notify(text: str) -> None:
    """Print to standard error, if it can be written."""
    with suppress(OSError, GFMError, ReaderGone):
        click.echo(text, err=True)
        sys.stderr.flush()


def _refused(error: OSError) -> int:
    """Show the operating system's refusal, and return the exit code."""
    from gfm_pipeline.core.publish import storage_errors

    try:
        with storage_errors(Path(error.filename or ".")):
            raise error
    except StorageError as known:
        _notify(f"Error: {known}")
        return known.exit_code
    except OSError:
        where = f"{error.filename}: " if error.filename else ""
        _notify(f"Error: {where}{error.strerror or error}.")
        return ConfigError.exit_code


if __name__ == "__main__":
    main()
