"""YAML files that remember where each key stands, and values set on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gfm_pipeline.core.errors import FileError

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlFile:
    """A mapping read from a file: plain values, and the line (from 1) of every key and list item."""

    path: Path
    data: dict[str, Any]
    lines: dict[Location, int]

    def line(self, location: Location) -> int | None:
        """Return the line of the innermost known key on the way to ``location``."""
        for length in range(len(location), 0, -1):
            if (found := self.lines.get(location[:length])) is not None:
                return found
        return None


def read_yaml(path: Path, what: str, kind: type[FileError], missing: str, example: str) -> YamlFile:
    """Read a YAML file that holds a mapping.

    Parameters
    ----------
    path
        The file.
    what
        What it is, for messages: ``workflow``, ``site``.
    kind
        The error to raise.
    missing, example
        Hints: when there is no such file, and when it holds no mapping.

    Raises
    ------
    FileError
        Of ``kind``; when the file is missing, unreadable, not YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise kind(f"There is no {what} file {path}.", hint=missing) from None
    except (OSError, UnicodeDecodeError) as error:
        raise kind(f"The {what} file {path} cannot be read ({error}).") from error
    try:
        document = YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        name = re.search(r'duplicate key "(.*?)"', error.problem or "")
        said = f" {name[1]!r}" if name else ""
        raise kind(f"There is a duplicate key{said}: one would hide the other.", path, line, "Rename one.") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = re.sub(r"\s+", " ", error.problem or "not YAML").strip()
        raise kind(f"This is not valid YAML: {problem}.", path, line, "Check indentation and colons.") from None
    except YAMLError as error:
        raise kind(f"This is not valid YAML: {str(error).splitlines()[0]}.", path) from None
    if not isinstance(document, CommentedMap):
        article = "An" if what[0] in "aeiou" else "A"
        raise kind(f"{article} {what} is a mapping of keys.", path, 1, example)
    lines: dict[Location, int] = {}
    return YamlFile(path, _plain(document, (), lines), lines)


def read_setting(text: str, example: str, kind: type[FileError]) -> tuple[tuple[str, ...], Any]:
    """Return the keys and the value of one ``a.b=value`` of the command line; the value is read as YAML.

    Raises
    ------
    FileError
        Of ``kind``; when the text is not of that form.
    """
    name, equals, value = text.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        raise kind(f"--set {text!r} is not of the form key.inner=value.", hint=f"Example: --set {example}")
    try:
        return keys, _plain(YAML(typ="rt", pure=True).load(value), (), {})
    except YAMLError:
        return keys, value


def put(plain: dict[str, Any], keys: tuple[str, ...], value: Any, text: str, kind: type[FileError]) -> None:
    """Set ``plain[a][b]`` for keys ``a, b``, making mappings on the way; ``text`` is what the user wrote.

    Raises
    ------
    FileError
        Of ``kind``; when a key on the way holds something that is not a mapping.
    """
    target = plain
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise kind(f"--set {text!r}: {key} holds a value, not keys.")
        target = inner
    target[keys[-1]] = value


def _plain(node: Any, at: Location, lines: dict[Location, int]) -> Any:
    """Return ``node`` as plain Python, noting the line of each key."""
    if isinstance(node, CommentedMap):
        for key in node:
            lines[(*at, str(key))] = node.lc.key(key)[0] + 1
        return {str(key): _plain(value, (*at, str(key)), lines) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            lines[(*at, index)] = node.lc.item(index)[0] + 1
        return [_plain(value, (*at, index), lines) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for scalar in (int, float, str):
        if isinstance(node, scalar):
            return scalar(node)
    return str(node)
