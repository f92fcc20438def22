"""The fenced blocks of the Markdown pages, and the marks that say what the tests do with them.

A block of shell commands (`sh`) or Python (`python`) has a comment on the line before it:

    <!-- run -->     executed, page by page, against a server of the tests
    <!-- parse -->   too far-reaching to execute; split into words and understood as far as possible
    <!-- show -->    neither: it cannot be tried on one machine

Every block says its language; other languages need no mark.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MARKED = ("sh", "python")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\s*$")
_MARK = re.compile(r"^ *<!-- (?P<mark>run|parse|show) -->$")


class Block(NamedTuple):
    page: str  # relative to the repository
    line: int  # of the opening fence, from 1
    language: str
    mark: str  # "" when there is none
    text: str


def pages() -> list[str]:
    """Every page whose blocks are looked at.  What the READMEs of examples say is parsed; tests of their own run the scripts."""
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/**/README.md"),
        ROOT / "deploy" / "README.md",
        ROOT / "bench" / "README.md",
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order.  Raises ValueError when a fence is not closed."""
    lines = (ROOT / page).read_text().splitlines()
    found, start = [], None
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if start is None and fence:
            start = number
        elif start is not None and fence and not fence["language"]:
            opening = _FENCE.match(lines[start])
            mark = _MARK.match(lines[start - 1]) if start else None
            assert opening is not None
            body = [one.removeprefix(opening["indent"]) for one in lines[start + 1 : number]]
            text = "\n".join(body) + "\n"
            found.append(Block(page, start + 1, opening["language"], mark["mark"] if mark else "", text))
            start = None
    if start is not None:
        raise ValueError(f"{page}:{start + 1}: this block is not closed")
    return found


def counts(page: str) -> tuple[int, int, int]:
    """How many blocks of the page are run, parsed, shown."""
    of = Counter(block.mark for block in blocks(page))
    return of["run"], of["parse"], of["show"]
