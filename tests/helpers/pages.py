"""The example on a model's page, as someone copies it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


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
