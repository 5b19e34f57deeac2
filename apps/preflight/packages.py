"""The importable packages and their versions."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Sequence
from importlib import metadata

from gfm_pipeline.core.interpreter import script_command

MPI_SECONDS = 60.0
# Run in a separate process: some MPI libraries end their process when another launcher started it.
_MPI = """\
import json, mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(json.dumps(" ".join(MPI.Get_library_version().split())[:120]))
"""


def import_packages(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of importable packages, and why the others cannot be imported."""
    versions, missing = {}, {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001, PERF203 - a broken package may raise anything
            lines = str(error).splitlines() or [""]
            missing[name] = f"{type(error).__name__}: {lines[0]}"
        else:
            versions[name] = str(getattr(module, "__version__", None) or _installed(name))
    return versions, missing


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def mpi_library() -> tuple[str, str]:
    """Return the MPI library of mpi4py, or '' and the reason why there is none."""
    try:
        done = subprocess.run(
            script_command(_MPI),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MPI_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"mpi4py could not be loaded: {error}"
    if done.returncode == 0:
        try:
            return str(json.loads(done.stdout.strip().splitlines()[-1])), ""
        except (ValueError, IndexError):
            return "", "mpi4py gave an answer nobody understands"
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return "", "mpi4py is not installed" if "No module named 'mpi4py'" in last else last
