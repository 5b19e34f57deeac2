"""Commands of a batch system, each with a time limit.

A slow batch system is not an error here: a command that hangs, fails or gives an invalid answer raises
`SchedulerTrouble`, and the caller tries again later (`gfm_pipeline.execution.retry` decides when).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from gfm_pipeline.core.errors import ConfigError, SchedulerUnavailable


class SchedulerTrouble(SchedulerUnavailable):
    """A command of the batch system was too slow, failed, or gave an unknown answer; the trouble may pass."""


class SubmissionRefused(ConfigError):
    """The batch system understood a job and refused it: account, queue, size or wall time."""


@dataclass(frozen=True)
class CommandOutput:
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The error message, in one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Commands:
    """Runs commands of a batch system, each with a time limit.

    Parameters
    ----------
    environment
        The whole environment of the commands.
    seconds
        A command that takes longer is killed with all processes that it started.
    fix
        What to do when a command does not exist.
    """

    environment: Mapping[str, str]
    seconds: float
    fix: str

    def has(self, program: str) -> bool:
        """Return whether a command exists."""
        return shutil.which(program, path=self.environment.get("PATH")) is not None

    def run(self, *words: str) -> CommandOutput:
        """Run a command to its end.

        Raises
        ------
        SchedulerUnavailable
            The command does not exist.
        SchedulerTrouble
            The command took too long, or could not start at the moment.
        """
        program = shutil.which(words[0], path=self.environment.get("PATH"))
        if program is None:
            raise SchedulerUnavailable(f"The command {words[0]} does not exist on this machine.", hint=self.fix)
        try:
            process = subprocess.Popen(
                [program, *words[1:]],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C at the driver must not reach it, and its whole group can be killed
            )
        except OSError as error:
            raise SchedulerTrouble(f"{words[0]} could not be started ({error.strerror}).") from error
        with process:
            try:
                out, err = process.communicate(timeout=self.seconds)
            except BaseException as error:  # no command may continue, even after Ctrl-C
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise SchedulerTrouble(f"{words[0]} did not answer within {self.seconds:g} s.") from error
                raise
        return CommandOutput(process.returncode, out, err)
