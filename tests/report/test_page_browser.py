"""The page in a browser: it opens without a word on the console, its slider moves, its object turns, and
without scripts its pictures and tables are there."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from carv_distill.report.write import write_report
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.mesh_files import coloured_files, linear_bytes
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        options = ["--no-sandbox", "--use-gl=swiftshader", "--enable-webgl", "--ignore-gpu-blocklist"]
        opened = p.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object's run with curves, grids and an analysis of its variance."""
    folder = tmp_path_factory.mktemp("runs")
    run = as_run(load_config(ROOT / "configs/sds_carv.yaml", [f"folder={folder}"]))
    rows = [f"{i * 10},{i},{50 + i},{49 + i},{51 + i}" for i in range(1, 30)]
    head = "step,seconds,clip/score,clip/score_low,clip/score_high"
    (run / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    shutil.copy(ROOT / "results/digits/variance.json", run / "variance.json")
    for name in ("samples", "object"):
        (run / name).mkdir()
    for step, picture in ((0, "docs/solids.png"), (100, "docs/dmd_shapes.png")):
        shutil.copy(ROOT / picture, run / f"samples/{step:06d}.png")
    mesh = trimesh.creation.box((1, 0.5, 0.2))
    glb = coloured_files(mesh, np.full((8, 3), (30, 120, 60), np.uint8))["mesh.glb"]
    (run / "object/mesh.glb").write_bytes(glb)
    write_report([run], run / "report.html")
    return run / "report.html"


def opened(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    """A page and what it says on the console, warnings of the graphics driver left out."""
    page, said = browser.new_page(**options), []
    page.on("console", lambda m: said.append(m.text) if "GL Driver" not in m.text else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_timeout(1500)
    return page, said


@pytest.mark.parametrize("width", [1100, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_silence_and_fits_the_screen(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    page, said = opened(browser, page_file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".vega-embed").count() == 2


def test_the_slider_shows_other_samples(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file)
    shown = page.locator("figure.slider img").first
    last = shown.get_attribute("src")
    page.locator("figure.slider input").fill("0")
    assert shown.get_attribute("src") != last
    assert shown.get_attribute("alt") == "Samples from the same noise, update 0"


def test_the_object_turns(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, viewport={"width": 900, "height": 700})
    view = page.locator("iframe")
    view.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    before, box = view.screenshot(), view.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 150, y + 60, steps=8)
    page.mouse.up()
    page.wait_for_timeout(800)
    assert view.screenshot() != before


def test_a_face_in_front_has_its_own_colour(browser: Any, page_file: Path) -> None:
    """sRGB of c + 0.65 · 0.04 · π D V, D = 1/π and V = 1/4: what a dielectric of roughness 1 reflects of the
    light in front of it (glTF 2.0, B.3), on top of its colour c of linear light."""
    page, _ = opened(browser, page_file, viewport={"width": 900, "height": 700})
    view = page.locator("iframe")
    view.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    with Image.open(io.BytesIO(view.screenshot())) as picture:
        seen = np.asarray(picture.convert("RGB"))
    light = linear_bytes(np.array([[30, 120, 60, 255]], np.uint8))[0, :3] / 255 + 0.65 * 0.04 / 4
    expected = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(seen[seen.shape[0] // 2, seen.shape[1] // 2] - expected).max() < 2.5


def test_the_explorer_follows_its_sliders(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file)
    plot = page.locator("section", has=page.locator("#variance")).locator(".plot")
    before = plot.locator("svg").text_content()
    plot.locator("input[type=range]").nth(1).fill("2")
    page.wait_for_timeout(500)
    assert plot.locator("svg").text_content() != before


def test_without_scripts_pictures_and_tables_are_there(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("figure.slider img").first.is_visible()
    assert page.locator("table").first.is_visible()
    assert page.locator(".plot svg").count() == 2
    assert page.locator("figure.slider input").first.is_hidden()
    context.close()


def test_axe_finds_nothing_serious(browser: Any, page_file: Path) -> None:
    """Accessibility by axe-core, where its package is installed."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _ = opened(browser, page_file)
    found = axe.Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps([(v["id"], v["nodes"][0]["html"]) for v in serious])
