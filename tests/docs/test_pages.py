"""The pages hold together: every link leads somewhere, and the contents of the decisions name every record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
RECORD = re.compile(r"^### (.+)\n\n\*(\d{4}-\d\d-\d\d)\.\*", re.MULTILINE)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|``.*?``|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading; mkdocs gives the same to headings of plain words."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\- ]", "", title.strip().lower()))


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {anchor(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def broken(page: Path, text: str) -> list[str]:
    """Return the links of a page's text that lead to no file, or to no heading of one."""
    found = []
    for target in LINK.findall(without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (part and path.suffix == ".md" and part not in anchors(path)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_pages_leads_somewhere(page):
    assert broken(ROOT / page, (ROOT / page).read_text()) == []


def test_a_dead_link_is_found():
    page = ROOT / "docs" / "decisions.md"
    text = "[a](no-such-page.md) [b](data.md#no-such-heading) [c](#nowhere) [d](data.md) `[e](code.md)`"
    assert broken(page, text) == ["no-such-page.md", "data.md#no-such-heading", "#nowhere"]


def test_the_contents_of_the_decisions_name_every_record_once_in_order():
    text = (ROOT / "docs" / "decisions.md").read_text()
    contents, records = text.split("## Contents\n", 1)[1].split("\n## ", 1)
    records = f"\n## {records}"
    listed = re.findall(r"^(?:  )?- \[(.+)\]\(#(.+)\)$", contents, re.MULTILINE)
    titles = re.findall(r"^###? (.+)$", records, re.MULTILINE)
    assert [title for title, _ in listed] == titles
    assert len(titles) == len(set(titles))
    assert [part for _, part in listed] == [anchor(title) for title in titles]


def test_every_decision_is_a_dated_record_with_decision_and_consequence():
    text = (ROOT / "docs" / "decisions.md").read_text()
    records = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(records) > 80
    assert [title for title, _ in records] == [title for title, _ in RECORD.findall(text)]
    for title, body in records:
        assert re.search(r"\*\*Decision\.\*\* .*\*\*Consequence\.\*\* ", body, re.DOTALL), title
