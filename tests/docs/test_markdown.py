"""Markdown files outside docs/results: line lengths, links, and the index of the decisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, REPOSITORY

FILES = sorted(
    file
    for file in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "datasets").rglob("*.md"), *DOCS.rglob("*.md"))
    if not file.is_relative_to(DOCS / "results")
)
LONGEST = 119
LINK = re.compile(r"\]\(([^)\s]+)\)")

pages = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))


def prose(text: str) -> str:
    """Returns the text without fenced blocks and code spans, where brackets are not links and # is not a heading."""
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(file: Path) -> set[str]:
    """Returns the anchors of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings}


def broken_links(file: Path) -> list[str]:
    """Returns the links of a page to files or headings that do not exist."""
    broken = []
    for link in LINK.findall(prose(file.read_text())):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        path = (file.parent / target).resolve() if target else file
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    return broken


@pages
def test_lines_are_short(file: Path) -> None:
    """Rows of tables are exempt, because Markdown cannot wrap them."""
    lines = enumerate(file.read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > LONGEST and not line.startswith("|")] == []


@pages
def test_links_have_existing_targets(file: Path) -> None:
    assert broken_links(file) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n\n[a](page.md#a-heading) [b](#none) [c](none.md) `[d](code)` [e](https://example.org)\n"
    )
    assert broken_links(page) == ["#none", "none.md"]


def test_every_decision_is_in_the_index() -> None:
    folder = DOCS / "decisions"
    listed = re.findall(r"^(\d+)\. \[.*\]\((\d{3}-.*\.md)\)$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(name for _, name in listed) == sorted(file.name for file in folder.glob("0*.md"))
    assert all(int(number) == int(name[:3]) for number, name in listed)
