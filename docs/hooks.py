"""For mkdocs: what pages show from outside of docs/ goes into the site too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Adds results/ and configs/."""
    for folder, ending in (("results", "png"), ("results", "json"), ("configs", "yaml")):
        for path in sorted((ROOT / folder).rglob(f"*.{ending}")):
            name = str(path.relative_to(ROOT))
            files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """On GitHub results/ and configs/ lie beside docs/, in the site within it."""
    return re.sub(r"\]\(\.\./((?:\.\./)*)(results|configs)/", r"](\1\2/", markdown)
