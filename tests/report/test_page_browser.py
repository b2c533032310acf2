"""The page in a browser: it opens without a word on the console, its slider moves, its object turns, and
without scripts its pictures and tables are there."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from carv_distill.report.object_section import ANGLES, viewer
from carv_distill.report.page import Section, page
from carv_distill.report.write import write_report
from carv_distill.tasks import load_config
from carv_distill.text_to_3d.object.mesh_files import coloured_files, linear_bytes
from carv_distill.text_to_3d.task import SDS
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
    variances = [f"variance/{arm}/{part}" for arm in ("carv", "iid") for part in ("total", "within")]
    rows = [f"{i * 10},{i},{50 + i},{49 + i},{51 + i},{i},{2 * i},{3 * i},{4 * i}" for i in range(1, 30)]
    head = ",".join(["step,seconds,clip/score,clip/score_low,clip/score_high", *variances])
    (run / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    shutil.copy(ROOT / "results/digits/variance.json", run / "variance.json")
    for name in ("samples", "object"):
        (run / name).mkdir()
    for step, picture in ((0, "docs/solids.png"), (100, "docs/dmd_shapes.png")):
        shutil.copy(ROOT / picture, run / f"samples/{step:06d}.png")
    mesh = trimesh.creation.box((1, 0.5, 0.2))
    mesh.apply_transform(trimesh.transformations.euler_matrix(*ANGLES))  # a face is towards the first view
    glb = coloured_files(mesh, np.full((8, 3), (30, 120, 60), np.uint8))["mesh.glb"]
    (run / "object/mesh.glb").write_bytes(glb)
    write_report([run], run / "report.html", words=SDS.words)
    return run / "report.html"


def opened(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    """A page and what it says on the console, warnings of the graphics driver left out."""
    page, said = browser.new_page(**options), []
    page.on("console", lambda m: said.append(m.text) if "GL Driver" not in m.text else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_timeout(1500)
    return page, said


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1100),
        ("dark", 400),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in (("light", 400), ("dark", 1100))),
    ],
)
def test_it_opens_in_silence_and_fits_the_screen(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    page, said = opened(browser, page_file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".vega-embed").count() == 3


def test_the_slider_shows_other_samples(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file)
    shown = page.locator("figure.slider img").first
    last = shown.get_attribute("src")
    page.locator("figure.slider input").fill("0")
    assert shown.get_attribute("src") != last
    assert shown.get_attribute("alt") == "The object from around, from two heights, update 0"
    slider = page.locator("figure.slider input")
    slider.fill(slider.get_attribute("max"))
    assert shown.get_attribute("src") == last


def soon(page: Any, holds: Callable[[], bool], tries: int = 40) -> None:
    """That it holds within half a minute or so, however busy the machine is."""
    for _ in range(tries):
        page.wait_for_timeout(500)
        if holds():
            return
    pytest.fail("it never held")


def colours_of(picture: bytes) -> np.ndarray:
    """All that differ, [n, 3]."""
    with Image.open(io.BytesIO(picture)) as opened_picture:
        return np.unique(np.asarray(opened_picture.convert("RGB")).reshape(-1, 3), axis=0)


def test_the_object_turns(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, viewport={"width": 900, "height": 700})
    view = page.locator("iframe")
    view.scroll_into_view_if_needed()
    soon(page, lambda: len(colours_of(view.screenshot())) > 2)  # drawn
    before, box = view.screenshot(), view.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 150, y + 60, steps=8)
    page.mouse.up()
    soon(page, lambda: view.screenshot() != before)


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


@pytest.mark.parametrize("width", [400, 900])
def test_the_object_is_seen_whole(browser: Any, tmp_path: Path, width: int) -> None:
    """A cube, whose corners come nearest to the edge; on a telephone too, whose view of it is higher than
    wide."""
    glb = coloured_files(trimesh.creation.box((1, 1, 1)), np.full((8, 3), (30, 120, 60), np.uint8))[
        "mesh.glb"
    ]
    (tmp_path / "a.html").write_text(page("a cube", "", [Section("Object", viewer(glb))]))
    shown, _ = opened(browser, tmp_path / "a.html", viewport={"width": width, "height": 800})
    view = shown.locator("iframe")
    view.scroll_into_view_if_needed()
    soon(shown, lambda: len(colours_of(view.screenshot())) > 2)
    with Image.open(io.BytesIO(view.screenshot())) as picture:
        inside = np.asarray(picture.convert("RGB"))[4:-4, 4:-4]
    empty = (inside == 255).all(-1)
    assert (~empty).mean() > 0.1
    assert all(edge.all() for edge in (empty[0], empty[-1], empty[:, 0], empty[:, -1]))


def test_the_explorer_follows_its_sliders(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file)
    section = page.locator("section", has=page.locator("#variance"))
    plot, shown = section.locator(".plot"), section.locator("output")
    assert re.fullmatch(r"\d+(\.\d+)?, this run", shown.nth(1).text_content())
    before = plot.locator("svg").text_content()
    slider = section.locator("[data-signal=ratio]")
    slider.fill(slider.get_attribute("max"))
    page.wait_for_timeout(500)
    assert plot.locator("svg").text_content() != before
    assert shown.nth(1).text_content() == slider.get_attribute("aria-valuetext") == "100"
    cells = plot.locator("svg").text_content()
    section.locator("[data-signal=base]").select_option("R = 64")
    page.wait_for_timeout(500)
    assert plot.locator("svg").text_content() != cells


def test_legends_and_charts_are_whole_on_a_phone(browser: Any, page_file: Path) -> None:
    """Every entry of a legend and every word of a drawing lies within the screen."""
    page, _ = opened(browser, page_file, viewport={"width": 400, "height": 900})
    assert page.locator(".legend li").count() == 4 + 5
    boxes = page.evaluate(
        "[...document.querySelectorAll('.legend li, .plot svg text, .controls *')]"
        ".map(e => e.getBoundingClientRect()).filter(b => b.width).map(b => [b.left, b.right])"
    )
    assert min(left for left, _ in boxes) >= 0
    assert max(right for _, right in boxes) <= 400


def test_a_wide_table_scrolls_in_its_box_and_its_edge_says_so(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, viewport={"width": 400, "height": 900}, color_scheme="light")
    box = page.locator("section", has=page.locator("#variance")).locator(".wide").first
    assert box.evaluate("e => e.scrollWidth > e.clientWidth + 50")

    def edge() -> int:
        """Median level of a column of pixels at its right edge."""
        picture = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("L"))
        return int(np.median(picture[:, -3]))

    shaded = edge()
    box.evaluate("e => e.scrollLeft = e.scrollWidth")
    page.wait_for_timeout(200)
    assert shaded < 200 < edge()


def test_a_command_that_wraps_is_copied_as_one_line(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, viewport={"width": 400, "height": 900})
    block = page.locator("pre.commands").first
    assert block.bounding_box()["height"] > 60
    copied = block.evaluate("e => { getSelection().selectAllChildren(e); return getSelection().toString(); }")
    assert re.fullmatch(r"python train\.py --config \S+/config\.yaml --resume", copied)


@pytest.mark.slow
def test_the_wheel_and_a_finger_over_a_chart_scroll_the_page(browser: Any, page_file: Path) -> None:
    """And leave the chart as it is; with Ctrl the wheel is the chart's."""
    page, _ = opened(browser, page_file, viewport={"width": 900, "height": 600})
    assert moved(page, wheel) == (True, False)
    page.keyboard.down("Control")
    assert moved(page, wheel) == (False, True)
    page.close()
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    page, _ = opened(context, page_file)
    assert moved(page, swipe) == (True, False)
    context.close()


def moved(page: Any, how: Callable[[Any, float, float], None]) -> tuple[bool, bool]:
    """Whether the page has, and whether the first chart has, by what is done at a point of the chart."""
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box, drawn, place = plot.bounding_box(), plot.locator("svg").text_content(), page.evaluate("scrollY")
    how(page, box["x"] + 150, box["y"] + 120)
    page.wait_for_timeout(500)
    return page.evaluate("scrollY") != place, plot.locator("svg").text_content() != drawn


def wheel(page: Any, x: float, y: float) -> None:
    """A turn of it."""
    page.mouse.move(x, y)
    page.mouse.wheel(0, 200)


def swipe(page: Any, x: float, y: float) -> None:
    """A finger upwards."""
    finger = page.context.new_cdp_session(page)
    for move in range(11):
        at = {"type": "touchMove" if move else "touchStart", "touchPoints": [{"x": x, "y": y - 20 * move}]}
        finger.send("Input.dispatchTouchEvent", at)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_without_scripts_pictures_and_tables_are_there(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("figure.slider img").first.is_visible()
    assert page.locator("table").first.is_visible()
    assert page.locator(".plot svg").count() == 3
    assert page.locator(".legend li").first.is_visible()
    assert page.locator(".controls").first.is_hidden()
    assert page.locator("figure.slider input").first.is_hidden()
    context.close()


def test_axe_finds_nothing_serious(browser: Any, page_file: Path) -> None:
    """Accessibility by axe-core, where its package is installed."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, _ = opened(browser, page_file)
    found = axe.Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps([(v["id"], v["nodes"][0]["html"]) for v in serious])
