"""For mkdocs: what pages show from outside of docs/ goes into the site too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from carv_distill.report import page as pages
from carv_distill.report.explorer import explorer

ROOT = Path(__file__).parents[1]
SHOWN = (
    ("results", "png"),
    ("results", "json"),
    ("configs", "yaml"),
    ("examples", "py"),
    ("examples", "ipynb"),
    ("examples", "md"),
)
FOLDERS = "|".join(dict.fromkeys(folder for folder, _ in SHOWN))
EXPLORER = "explorer.html"
MARK = "<!-- explorer -->"
FRAME = (
    f'<iframe class="explorer" src="{EXPLORER}" '
    'title="What draws are worth at every R and K, with sliders"></iframe>'
)


def on_files(files: Files, config: Any) -> Files:
    """Adds results/, configs/, examples/ and the explorer, at the costs of the paper's text-to-3D."""
    for folder, ending in SHOWN:
        for path in sorted((ROOT / folder).rglob(f"*.{ending}")):
            name = str(path.relative_to(ROOT))
            files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    costs = explorer(kappa=4, ratio=24, other=0, base=1, upstream="render", whose="text-to-3D")
    sliders = pages.Section("Where reuse pays", [costs])
    files.append(File.generated(config, EXPLORER, content=pages.page("Explorer", "", [sliders])))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """On GitHub these folders lie beside docs/, in the site within it; tests are not in it."""
    up = "../" * page.file.src_uri.count("/")
    markdown = re.sub(rf"\]\({up}\.\./({FOLDERS})/", rf"]({up}\1/", markdown)
    markdown = markdown.replace(f"]({up}docs/", f"]({up}")
    markdown = re.sub(rf"\[([^]]*)\]\({up}(tests/[^)]*)\)", r"\1 (`\2`)", markdown)
    return markdown.replace(MARK, FRAME)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name functions in the roles of Sphinx, which Markdown would show as they are."""
    return re.sub(r":(?:meth|func|class|data|attr|mod):(?=<code>)", "", html)
