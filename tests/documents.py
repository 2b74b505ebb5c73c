"""The documents and their fenced blocks, for the tests that read, parse and run them.

A block's first line has its language and, where a reader is to do something with it beyond reading, a title: a file's name, or the
terminal that it is typed in. A comment on the line before says why a block is not run: `<!-- not run: needs root -->`, or which
test does: `<!-- run by tests/e2e/test_demo.py -->`. Neither is seen by who reads the page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

REPOSITORY = Path(__file__).parent.parent
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("deploy/**/*.md")])
_FENCE = re.compile(
    r"(?:^ *<!-- (?P<marker>(?:not run: |run by )[^\n]+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[\w-]*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """`line`: of its first line in the document. `marker`: the comment before it."""

    document: Path
    line: int
    language: str
    title: str
    marker: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(REPOSITORY)}:{self.line}"


def blocks(document: Path, section: str = "") -> list[Block]:
    """All of a document, or those of a section, which ends where the next of its level begins."""
    text = document.read_text(encoding="utf-8")
    found = list(_blocks(document, text))
    if not section:
        return found
    begin = re.search(rf"^(#+) {re.escape(section)}$", text, re.MULTILINE)
    assert begin, f"{document.name} has no section {section}"
    end = re.compile(rf"^{begin[1]} ", re.MULTILINE).search(text, begin.end())
    first, last = (text.count("\n", 0, place) for place in (begin.end(), end.start() if end else len(text)))
    return [block for block in found if first < block.line <= last]


def _blocks(document: Path, text: str) -> Iterator[Block]:
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("indent")) + 1
        named = (found["language"], found["title"] or "", found["marker"] or "")
        yield Block(document, line, *named, dedent(found["text"]))
