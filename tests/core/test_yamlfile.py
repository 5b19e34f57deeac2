"""YAML as people write it is read, or refused in one sentence with its line; none of it takes the machine."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.core.yamlfile import MAX_BYTES, YamlFile, put, read_setting, read_yaml


def read(folder: Path, text: str | bytes) -> YamlFile:
    path = folder / "w.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return read_yaml(path, "workflow", WorkflowError, "Give its path.", "Begin with the example.")


READ = {
    "merge key": (
        "a: &base {x: 1, y: 2}\nb:\n  <<: *base\n  y: 3\n",
        {"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}},
    ),
    "several merged": ("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n", {"x": 1, "y": 2}),
    "merged of merged": ("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, y: 3}\n", {"y": 3, "x": 1}),
    "date": ("c: 2026-11-30\n", "2026-11-30"),
    "time": ("c: 12:30:45\n", "12:30:45"),
    "numbers": ("c: [0x1F, 0o17, 1e-3, 1_000, -.inf]\n", [31, 15, 0.001, 1000, float("-inf")]),
    "byte order mark": ("\ufeffc: 3\n", 3),
    "forced text": ("c: !!str 3\n", "3"),
    "alias": ("a: &a [1, 2]\nc: *a\n", [1, 2]),
}


@pytest.mark.parametrize("name", READ)
def test_it_is_read(name: str, tmp_path: Path) -> None:
    text, wanted = READ[name]
    found = read(tmp_path, text).data
    assert found == wanted if isinstance(wanted, dict) and "a" in wanted else found["c"] == wanted


def test_a_merged_key_has_the_line_where_it_is_written(tmp_path: Path) -> None:
    found = read(tmp_path, "a: &base\n  x: 1\nb:\n  <<: *base\n  y: 3\n")
    assert (found.line(("b", "x")), found.line(("b", "y"))) == (2, 5)


REFUSED = {
    "no whole number": ("a: 1\nb: !!int abc\n", 2, "'abc' is not a whole number"),
    "a tag of somebody's": ("a: !foo 3\n", 1, "The tag !foo is not known here. Remove it."),
    "a tag that would run": ("a: !!python/object/apply:os.system [ls]\n", 1, "!!python/object/apply:os.system"),
    "binary": ("a: !!binary aGk=\n", 1, "!!binary"),
    "nested without end": ("a: " + "[" * 10_000, 1, "nested"),
    "nested mappings": ("a: " + "{a: " * 1000, 1, "nested"),
    "tab": ("a:\n\t- 3\n", 2, "Indent with spaces."),
    "twice": ("a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a'"),
    "in itself": ("a: &x [*x]\n", 1, "contains itself"),
    "merged with itself": ("a: &x\n  <<: *x\n", 1, "contains itself"),
    "merge of a number": ("a: {<<: 3}\n", 1, "Write <<: *name."),
    "key that is a list": ("? [a, b]\n: c\n", 1, "before the colon"),
    "half a character": ('a: "\\ud800"\n', 1, "half of a character"),
    "beyond unicode": ('a: "\\UFFFFFFFF"\n', None, "not valid YAML"),
    "control character": ("a: 1\nb: \x00\n", 2, "control character"),
    "digits without end": (f"a: {'9' * 5000}\n", 1, "is not a whole number"),
    "unknown alias": ("a: *nope\n", 1, "undefined alias 'nope'"),
    "two documents": ("a: 1\n--- \nb: 2\n", 2, "another document"),
    "not UTF-8": (b"a: \xff\n", None, "not text in UTF-8"),
    "no mapping": ("- 3\n", 1, "is a mapping of keys"),
    "too large": ("# " + "x" * MAX_BYTES, None, "larger than 4 MB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence_with_its_line(name: str, tmp_path: Path) -> None:
    text, line, words = REFUSED[name]
    with pytest.raises(WorkflowError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert caught.value.hint
    assert caught.value.line == line
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "used", ["[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]", "{{<<: [*{0}, *{0}, *{0}, *{0}]}}"]
)
def test_what_expands_without_end_is_refused_before_it_costs_anything(used: str, tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {used.format(f'a{n - 1}')}" for n in range(1, 30)]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(WorkflowError, match="more than 100,000 values"):
        read(tmp_path, "\n".join(lines) + "\n")
    assert time.process_time() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_what_is_no_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(WorkflowError, match="is not a file"):
            read_yaml(path, "workflow", WorkflowError, "", "")
    with pytest.raises(WorkflowError, match="cannot be read"):
        read_yaml(tmp_path / "a\0b", "workflow", WorkflowError, "", "")


PIECES = st.sampled_from(
    [
        *"abxy01.:-,[]{}&*!|>'\"%@`#?~ \n\t",
        "\n  ",
        ": ",
        "- ",
        "<<: ",
        "&a ",
        "*a",
        "!!int ",
        "!!x ",
        "\\u",
        "2026-11-30",
        ".nan",
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
@example("a: &a {<<: *a}")
@example('"\\U')
def test_no_text_ends_otherwise(tmp_path_factory, text: str) -> None:
    folder = tmp_path_factory.mktemp("yaml")
    try:
        found = read(folder, text)
    except WorkflowError as error:
        assert error.hint  # noqa: PT017 - both ends are right
    else:
        assert all(isinstance(key, str) for key in found.data)
    keys, value = read_setting(f"a.b={text}", "a=1", WorkflowError)
    put({}, keys, value, text, WorkflowError)
