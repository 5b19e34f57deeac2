"""Entry point of the command line: handles closed streams and Ctrl-C before other imports."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with its code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the parent process made it ignored
        signal.signal(signal.SIGINT, _leave)
    _open_streams()
    from gfm_pipeline.cli.main import main as run  # after the above, because the import takes time

    run()


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End at once: no work has begun."""
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)


def _open_streams() -> None:
    """Open closed standard streams on the null device: otherwise the next file would get their number, and output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for the life of the process


if __name__ == "__main__":
    main()
