"""What the package says of itself: complete, and the same wherever it is said."""

from __future__ import annotations

import configparser
import re
from datetime import date
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import gfm_pipeline

ROOT = Path(__file__).parents[2]
URL = "https://github.com/gfm-pipeline/gfm-pipeline"


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


@pytest.fixture(scope="module")
def citation() -> dict[str, object]:
    return YAML(typ="safe").load(ROOT / "CITATION.cff")


def test_the_metadata_is_complete(setup):
    about = setup["metadata"]
    assert about["author"] == "gfm-pipeline developers"
    assert about["url"] == URL
    assert {line.split(" = ")[0] for line in about["project_urls"].strip().splitlines()} >= {
        "Source",
        "Issues",
        "Documentation",
        "Changelog",
    }
    assert URL in about["project_urls"]
    assert len(about["keywords"].split("\n")) > 5
    assert about["platforms"] == "Linux"


def test_the_versions_of_python_are_those_of_the_test_matrix(setup):
    text = (ROOT / "tests" / "versions.py").read_text()
    matrix = re.findall(r'"(3\.\d+)"', re.search(r"^VERSIONS = (.*)$", text, re.MULTILINE)[1])
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    assert named == matrix
    assert setup["options"]["python_requires"] == f">={named[0]}"


def test_the_citation_has_what_the_format_demands_and_the_version_of_the_package(setup, citation):
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # required by version 1.2.0 of the format
    assert citation["cff-version"] == "1.2.0"
    assert [author["name"] for author in citation["authors"]] == [setup["metadata"]["author"]]
    assert citation["version"] == setup["metadata"]["version"] == gfm_pipeline.__version__
    assert citation["license"] == setup["metadata"]["license"]
    assert citation["repository-code"] == URL
    date.fromisoformat(citation["date-released"])


def test_every_tool_of_the_site_is_pinned(setup):
    pins = (ROOT / "constraints.txt").read_text().lower()
    tools = [re.split(r"[>=<]", line)[0] for line in setup["options.extras_require"]["docs"].strip().splitlines()]
    assert tools
    assert [tool for tool in tools if f"\n{tool}==" not in pins] == []


def test_contributing_names_tests_that_exist_and_targets_that_make_knows():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`(tests/[\w/.]+\.py)`|python -m pytest (tests/.*?) *#", page)
    named = [path for found in paths for group in found for path in group.split()]
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"\bmake ([a-z-]+)", page))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert targets <= set(phony)
    pages = re.findall(r"^\| a .*?\]\((docs/[\w-]+\.md).*?`(tests/\S+)`", page, re.MULTILINE)
    for document, test in pages:
        assert Path(document).name in (ROOT / test).read_text(), f"{test} does not read {document}"
    assert len(pages) == 7
