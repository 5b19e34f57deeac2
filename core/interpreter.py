"""How our programs start Python: never with the current folder on the path of imports.

``python -m`` and ``python -c`` put the current folder first on ``sys.path``; a ``numpy.py`` in that folder, among a
stranger's data, would run. An empty entry of PYTHONPATH means the same folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# Python 3.10 knows no -P: the current folder is taken off the path before anything else is imported.
_WITHOUT_P = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; import runpy; del sys.argv[0]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str, python: str | None = None) -> list[str]:
    """Return the command line of a module run as a program.

    Parameters
    ----------
    module
        Its full name.
    arguments
        Of the program.
    python
        Interpreter of this one's version; None: this one.
    """
    how = ["-P", "-m"] if sys.version_info >= (3, 11) else ["-c", _WITHOUT_P]
    return [python or sys.executable, *how, module, *arguments]


def script_command(code: str) -> list[str]:
    """Return the command line that runs a few lines of Python."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-c", code]
    return [sys.executable, "-c", f"import sys; sys.path[:] = [p for p in sys.path if p]\n{code}"]


def without_current_folder(path: str) -> str:
    """Return a PYTHONPATH without its empty entries."""
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if entry)


def protect(environ: MutableMapping[str, str]) -> None:
    """Change an environment so that no Python started with it imports from its current folder."""
    environ["PYTHONSAFEPATH"] = "1"  # Python 3.11 and later, including interpreters that libraries start
    if "PYTHONPATH" in environ:
        environ["PYTHONPATH"] = without_current_folder(environ["PYTHONPATH"])
