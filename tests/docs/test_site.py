"""The documentation as a site: it builds without a warning, fetches nothing, and reads well for all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.small import ROOT

pytest.importorskip("mkdocs")
pytest.importorskip("material")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

LINK = re.compile(r"<(?:a|img|iframe)[^>]+(?:src|href)=\"([^\"#?:]+)[\"#?]")
FETCHED = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(https?:[^\" >]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: a link to a page, a heading or a file that is not there ends it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_page_is_in_the_contents() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"[\w/]+\.md", text.split("nav:")[1]))
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert named == there


def test_roles_of_docstrings_do_not_show(site: Path) -> None:
    page = (site / "api.html").read_text()
    assert "<code>STRATEGIES</code>" in page
    assert not re.search(r":(meth|func|class|data|attr|mod):", page)


def test_nothing_is_fetched(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert FETCHED.findall(page.read_text()) == [], page


def test_links_lead_somewhere(site: Path) -> None:
    """Those to files beside the pages, which mkdocs itself does not follow."""
    for page in sorted(site.rglob("*.html")):
        text = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
        for link in LINK.findall(text):
            if not link.startswith("/"):
                assert (page.parent / link).exists(), (page, link)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("name", ["index", "start/text_to_3d", "will_carv_help", "explorer", "results/index"])
def test_axe_finds_nothing_serious(site: Path, browser: Any, name: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_timeout(500)
    found = axe.Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps([(v["id"], v["nodes"][0]["html"]) for v in serious])
    page.close()
