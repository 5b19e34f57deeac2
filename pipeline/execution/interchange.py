"""Parsl's interchange, which finds its keys in a folder of any name.

    python -m gfm_pipeline.execution.interchange       as of Parsl's interchange.py

ZeroMQ's Python binding looks for the keys of clients with a pattern made of the folder's name. In a folder with ``[``,
``*`` or ``?`` in its path it finds none, every worker is refused, and nothing is said.
"""

from __future__ import annotations

import glob
import runpy
from pathlib import Path
from types import SimpleNamespace

INTERCHANGE = "parsl.executors.high_throughput.interchange"


def in_folder(pattern: str) -> list[str]:
    """Return the files that match ``pattern``, whose folder stands for itself whatever its name."""
    path = Path(pattern)
    return glob.glob(str(Path(glob.escape(str(path.parent))) / path.name))  # noqa: PTH207 - as zmq wants it


def main() -> None:
    """Be Parsl's interchange.

    Raises
    ------
    ImportError
        If this pyzmq looks for keys in another way.
    """
    from zmq.auth import certs

    if not hasattr(certs, "glob"):
        raise ImportError("this pyzmq looks for keys in another way than those up to 27 that are known")
    certs.glob = SimpleNamespace(glob=in_folder)
    runpy.run_module(INTERCHANGE, run_name="__main__")


if __name__ == "__main__":
    main()
