"""YAML files with the line of each key, and values set on the command line."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from gfm_pipeline.core.errors import FileError

MAX_BYTES = 4_000_000  # of a file
MAX_DEPTH = 40  # of keys within keys
MAX_VALUES = 100_000  # of a file; a value used again counts again
_TAG = "tag:yaml.org,2002:"
_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false"}

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
        Noun for messages: ``workflow``, ``site``.
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
        text = _text(path, what, kind)
    except FileNotFoundError:
        raise kind(f"There is no {what} file {path}.", hint=missing) from None
    except (OSError, ValueError) as error:
        why = f"it is not text in UTF-8, from byte {error.start} on" if isinstance(error, UnicodeDecodeError) else error
        why = getattr(error, "strerror", None) or why
        raise kind(
            f"The {what} file {path} cannot be read: {why}.", hint="Check its name and what it holds."
        ) from error
    try:
        document, lines = _read(text)
    except _YamlError as fault:
        raise kind(fault.message, path, fault.line, fault.hint) from None
    if not isinstance(document, dict):
        article = "An" if what[0] in "aeiou" else "A"
        raise kind(f"{article} {what} is a mapping of keys.", path, 1, example)
    return YamlFile(path, document, lines)


def _text(path: Path, what: str, kind: type[FileError]) -> str:
    """Return the text of a file; refuses other paths and files too large for settings."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise kind(f"{path} is not a file.", hint=f"Give the path of a {what} file.")
    with open(path, "rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise kind(f"{path} is larger than {MAX_BYTES // 10**6} MB.", hint=f"Is this the {what} file?")
    return data.decode("utf-8-sig")


class _YamlError(Exception):
    """A fault in the text of a file, at a line from 1."""

    def __init__(self, message: str, line: int | None, hint: str) -> None:
        super().__init__(message)
        self.message, self.line, self.hint = message, line, hint


def _line(node: Any) -> int | None:
    mark = getattr(node, "start_mark", None)
    return None if mark is None else mark.line + 1


class _BoundedComposer(Composer):
    """A composer that refuses endless nesting, because composing and reading recurse."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node."""
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:
            event = self.parser.peek_event()
            raise _YamlError(f"More than {MAX_DEPTH} keys or lists are nested here.", _line(event), "Nest fewer.")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _read(text: str) -> tuple[Any, dict[Location, int]]:
    """Parse YAML text to plain values, and the line of every key and list item.

    Raises
    ------
    _Fault
        When the text is not YAML, or uses features that no file of settings needs.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _BoundedComposer
    try:
        node = yaml.compose(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise _YamlError("This is not valid YAML: it holds a control character.", line, "Remove it.") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = re.sub(r"\s+", " ", error.problem or "not YAML").strip()
        if problem.startswith("but ") and error.context:
            problem = f"{error.context.rstrip(', ')}, {problem}"
        hint = "Indent with spaces." if "\\t" in problem else "Check indentation and colons."
        raise _YamlError(f"This is not valid YAML: {problem}.", line, hint) from None
    except YAMLError as error:
        first = str(error).splitlines()[0]
        raise _YamlError(f"This is not valid YAML: {first}.", None, "Check indentation and colons.") from None
    except _YamlError:
        raise
    except Exception as error:  # ruamel lets Python errors through for unforeseen escapes and directives
        raise _YamlError("This is not valid YAML.", None, "Check directives, escapes and brackets.") from error
    reader = _YamlReader(yaml)
    return reader.value(node, ()), reader.lines


@dataclass
class _YamlReader:
    """Turns nodes into plain values: mappings, lists, text, numbers, booleans and null."""

    yaml: YAML
    lines: dict[Location, int] = field(default_factory=dict)
    _values: int = 0
    _open: list[int] = field(default_factory=list)  # nodes on the way to the current one

    def value(self, node: Node | None, at: Location) -> Any:
        """Return the value of a node at a location."""
        self._count(node)
        if node is None:
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if id(node) in self._open or len(self._open) >= MAX_DEPTH:
            what = "This contains itself" if id(node) in self._open else f"More than {MAX_DEPTH} keys are nested here"
            raise _YamlError(f"{what}.", _line(node), "Write the values out.")
        self._open.append(id(node))
        try:
            if isinstance(node, MappingNode):
                self._known(node, "map")
                return {key: self.value(inner, (*at, key)) for key, inner in self._entries(node, at)}
            self._known(node, "seq")
            for index, inner in enumerate(node.value):
                self.lines[(*at, index)] = _line(inner) or 0
            return [self.value(inner, (*at, index)) for index, inner in enumerate(node.value)]
        finally:
            self._open.pop()

    def _count(self, node: Any) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            hint = "Are aliases (*name) used within aliases?"
            raise _YamlError(f"This holds more than {MAX_VALUES:,} values.", _line(node), hint)

    @staticmethod
    def _known(node: Any, kind: str) -> None:
        tag = str(node.tag)
        if tag != f"{_TAG}{kind}":
            raise _YamlError(f"The tag {_tag(tag)} is not known here.", _line(node), "Remove it.")

    def _entries(self, node: MappingNode, at: Location) -> Iterator[tuple[str, Node]]:
        """Yield key and value; merged ones (``<<: *base``) come after those written here, which take precedence."""
        own: dict[str, Node] = {}
        merged: list[MappingNode] = []
        for key_node, inner in node.value:
            self._count(key_node)
            if str(key_node.tag) == f"{_TAG}merge" or (_plain_text(key_node) == "<<"):
                merged += self._merged(inner)
                continue
            key = self._key(key_node)
            if key in own:
                message = f"There is a duplicate key {key!r}: one would hide the other."
                raise _YamlError(message, _line(key_node), "Rename one.")
            own[key] = inner
            self.lines[(*at, key)] = _line(key_node) or 0
        yield from own.items()
        for base in merged:
            if id(base) in self._open:
                raise _YamlError("This contains itself.", _line(base), "Write the values out.")
            self._open.append(id(base))
            inherited: dict[Location, int] = {}
            held, self.lines = self.lines, inherited
            try:
                entries = list(self._entries(base, at))
            finally:
                self.lines = held
                self._open.pop()
            for key, inner in entries:
                if key not in own:
                    own[key] = inner
                    self.lines[(*at, key)] = inherited.get((*at, key), 0)
                    yield key, inner

    @staticmethod
    def _merged(node: Node) -> list[MappingNode]:
        bases = node.value if isinstance(node, SequenceNode) else [node]
        for base in bases:
            if not isinstance(base, MappingNode):
                raise _YamlError("<< merges the keys of a mapping, and this is none.", _line(base), "Write <<: *name.")
        return list(bases)

    def _key(self, node: Node) -> str:
        if not isinstance(node, ScalarNode):
            raise _YamlError("A key is a list or a mapping.", _line(node), "Write a word before the colon.")
        self._scalar(node)
        return str(node.value)

    def _scalar(self, node: ScalarNode) -> Any:
        tag, text, make = str(node.tag), str(node.value), self.yaml.constructor
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise _YamlError("This text holds half of a character.", _line(node), "Remove the escape.")
        try:
            match tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return bool(make.construct_yaml_bool(node))
                case "int":
                    return int(make.construct_yaml_int(node))
                case "float":
                    return float(make.construct_yaml_float(node))
                case "str" | "timestamp" | "merge" | "value":
                    return text
        except (ValueError, LookupError, OverflowError, YAMLError):
            shown = text if len(text) < 40 else f"{text[:37]}..."
            raise _YamlError(
                f"{shown!r} is not {_NAMES[tag.removeprefix(_TAG)]}.", _line(node), "Correct the value."
            ) from None
        raise _YamlError(f"The tag {_tag(tag)} is not known here.", _line(node), "Remove it.")


def _plain_text(node: Any) -> str | None:
    return str(node.value) if isinstance(node, ScalarNode) and not node.style else None


def _tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag


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
        return keys, _read(value)[0]
    except _YamlError:
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
