r"""The filter for terminals: all output for users passes here.

Names, groups, errors and file names come from other people's data. Characters that would control a terminal are written
as ``\u001b``, which JSON decodes; characters that the stream cannot encode are written in the same way.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from gfm_pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from rich.console import Console

# Control characters except tab and newline; marks that change the direction of text; foreign line ends.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """Return ``text`` with an escape for every character that controls a terminal."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class ReaderGone(Exception):
    """The reader of the output has closed the pipe.

    It is no `BrokenPipeError`, for which Click and rich end the program with exit code 1 themselves.
    """


class Edge(io.TextIOBase):
    """A text stream on top of another one.

    Parameters
    ----------
    raw
        The stream below.
    name
        Name in messages: ``standard output``.
    filtered
        Whether to escape characters that control a terminal; False for a writer that does this itself.
    """

    def __init__(self, raw: TextIO, name: str, *, filtered: bool = True) -> None:
        super().__init__()
        self.raw, self.label, self.filtered = raw, name, filtered
        self.may_vanish = False  # whether to drop output without a reader silently

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream below."""
        return getattr(self.raw, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write text; raises `StorageError` when the stream accepts no more, `ReaderGone` when nobody reads it."""
        shown = visible(text) if self.filtered else text
        with self._errors():
            try:
                self.raw.write(shown)
            except UnicodeEncodeError:
                self.raw.write(shown.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream below; raises `StorageError` when it accepts no more, `ReaderGone` when nobody reads it."""
        with self._errors():
            self.raw.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if self.may_vanish:
                return
            if isinstance(error, BrokenPipeError):
                raise ReaderGone from error
            why = getattr(error, "strerror", None) or "it is closed"
            raise StorageError(
                f"{self.label.capitalize()} cannot be written: {why}.", "Make room, or send it somewhere else."
            ) from error

    def isatty(self) -> bool:
        """Return whether the stream below is a terminal."""
        return self.raw.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream below."""
        return self.raw.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True


@contextmanager
def edge() -> Iterator[None]:
    """Filter all output within the ``with`` block."""
    before = sys.stdout, sys.stderr
    for name, label in (("stdout", "standard output"), ("stderr", "standard error")):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Edge):
            setattr(sys, name, Edge(stream, label))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def outlive() -> None:
    """From now on, continue without a reader of the output: a campaign must not end because its reader did."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Edge):
            stream.may_vanish = True


def console(*, stderr: bool = False) -> Console:
    """Return a rich console on standard output or error: it passes its own colours, but escapes those in texts."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class EdgeConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    stream: Any = sys.stderr if stderr else sys.stdout
    if isinstance(stream, Edge):
        stream = Edge(stream.raw, stream.label, filtered=False)
    return EdgeConsole(file=stream)
