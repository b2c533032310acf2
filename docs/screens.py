"""Pictures of the pages of three runs, on a screen and on a telephone, in docs/screens/.

python docs/screens.py dmd=runs/dmd_carv sds=runs/sds_carv

Takes a Chromium of the system.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SCREENS = Path(__file__).parent / "screens"
SIZES = {"": (1100, 1750), "_phone": (400, 1750)}
OPTIONS = ["--no-sandbox", "--use-gl=swiftshader", "--enable-webgl", "--ignore-gpu-blocklist"]
LOADED = 8_000
"""Milliseconds after which charts and the object are drawn by a slow machine without a GPU."""


def main(words: list[str]) -> None:
    """The picture of each page, NAME=FOLDER, as NAME.png and NAME_phone.png."""
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for name, folder in (word.split("=", 1) for word in words):
            for ending, (width, height) in SIZES.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto((Path(folder) / "report.html").resolve().as_uri())
                page.wait_for_timeout(LOADED)
                page.screenshot(path=SCREENS / f"{name}{ending}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
