"""The example on a model's page, as someone copies it, and the words of a run's page."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from carv_distill.report.page import Section


def run_page(folder: Path) -> dict[str, Any]:
    """Runs the block of Python on a folder's page, with the folder's path put in and nothing else; the names
    it has made."""
    page = (folder / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    placeholder = '"path/to/this/folder"'
    assert block.count(placeholder) == 1
    scope: dict[str, Any] = {}
    exec(block.replace(placeholder, repr(str(folder.resolve()))), scope)
    return scope


def words_of(section: Section | None) -> str:
    """Of a section, without markup, charts and what keeps words together."""
    assert section is not None
    return plain_words("".join(section.blocks))


def plain_words(page: str) -> str:
    """Likewise, of HTML."""
    seen = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", seen)).split())
