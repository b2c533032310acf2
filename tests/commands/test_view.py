"""A run in the browser: what is refused, and what arrives there."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from carv_distill.commands.view import main, page
from carv_distill.engine.lock import LOCK
from carv_distill.tasks import load_config, open_run
from carv_distill.text_to_3d.object.turntable import turntable
from carv_distill.text_to_3d.scenes import VoxelScene, build_scene
from carv_distill.text_to_3d.viewer.cameras import BrowserCamera, frusta
from carv_distill.text_to_3d.viewer.pictures import FieldPainter
from tests.helpers.runs import as_run
from tests.helpers.small import ROOT

HOLD = """
import sys
from pathlib import Path
from carv_distill.engine.lock import owned
with owned(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""
ROWS = 400


def a_run(folder: Path, name: str = "sds_carv", checkpoint: bool = True) -> Path:
    return as_run(load_config(name, [f"folder={folder}"]), checkpoint)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_only_runs_of_text_to_3d_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path, "dmd_carv")
    said = refused(["--run", str(run)], capsys)
    assert said == f"error: {run}: view is for runs of task sds, this run's is dmd"
    assert "holds no run of task sds; make one" in refused(["--runs", str(tmp_path)], capsys)
    assert "is not a run's folder" in refused(["--run", str(tmp_path)], capsys)


def test_a_run_that_ended_without_a_checkpoint_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path, checkpoint=False)
    for lock in (False, True):
        if lock:
            (run / LOCK).touch()
        said = refused(["--run", str(run)], capsys)
        assert said.startswith(f"error: {run} ended before its first checkpoint and has nothing to show; ")
        assert said.endswith(f"python train.py --config {run}/config.yaml --requeue starts it again")


def test_addresses_that_cannot_be_listened_on_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(["--run", str(run), "--port", str(port)], capsys)
    assert said == (
        f"error: --port: {port} is taken by another program, perhaps by another view; give another, as "
        f"--port {port + 1 if port < 65535 else 8080}"
    )
    assert "--host: 192.0.2.1 is no address of this machine" in refused(
        ["--run", str(run), "--host", "192.0.2.1"], capsys
    )
    assert "--host: no.such.host.invalid is no address" in refused(
        ["--run", str(run), "--host", "no.such.host.invalid"], capsys
    )


@pytest.mark.parametrize(
    ("host", "opened"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("0.0.0.0", f"http://{socket.gethostname()}:8080"),
    ],
)
def test_the_address_to_open(host: str, opened: str) -> None:
    assert page(host, 8080) == opened


def test_without_the_package_its_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    said = refused(["--run", str(a_run(tmp_path)), "--port", str(free_port())], capsys)
    assert said == "error: the package viser is not installed; pip install 'carv-distill[view]' brings it"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "0"], "argument --port: '0' is not a whole number from 1 to 65535"),
        (["--size", "8"], "argument --size: '8' is not a whole number from 32 to 2048"),
    ],
)
def test_values_that_are_not_allowed_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert (end.value.code, capsys.readouterr().err) == (2, f"error: {said}\n")


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
    return port


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("viser")
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as p:
        options = ["--no-sandbox", "--use-gl=swiftshader", "--enable-webgl", "--ignore-gpu-blocklist"]
        opened = p.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()


def four_colours() -> VoxelScene:
    """A ball, as opaque as it gets: red to the right (+x), green above (+y)."""
    config = load_config("sds_carv", ["scene.resolution=16"])
    scene = build_scene(config.scene)  # type: ignore[attr-defined]
    assert isinstance(scene, VoxelScene)
    line = torch.linspace(-1, 1, 16)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    with torch.no_grad():
        scene.density[1].copy_(torch.where(x**2 + y**2 + z**2 < 0.3, 200.0, -200.0))
        scene.colour[1].copy_(8 * torch.stack([x.sign(), y.sign(), torch.full_like(x, -1)]))
    return scene


def checkpoint_of(scene: VoxelScene, config: Any) -> dict[str, Any]:
    """As much of one as is looked at."""
    from carv_distill.engine.folder import kept_values

    return {
        "state_dict": {f"objective.scene.{name}": value for name, value in scene.state_dict().items()},
        "optimizer_states": [{}],
        "lr_schedulers": [],
        "loops": {},
        "callbacks": {"checkpoints": {"values": kept_values(config)}},
        "global_step": 300,
    }


def shot(page: Any) -> np.ndarray:
    """The viewer's canvas, [H, W, 3]."""
    box = page.locator("canvas").first.bounding_box()
    with Image.open(io.BytesIO(page.screenshot(clip=box))) as picture:
        return np.asarray(picture.convert("RGB")).astype(float)


def until(page: Any, condition: Callable[[np.ndarray], bool], seconds: int = 60) -> np.ndarray:
    """The canvas, once it is so."""
    for _ in range(2 * seconds):
        page.wait_for_timeout(500)
        if condition(picture := shot(page)):
            return picture
    raise AssertionError("the picture did not come")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_run_is_waited_for_seen_the_right_way_up_and_turned(browser: Any, tmp_path: Path) -> None:
    words = [f"folder={tmp_path}", "scene.resolution=16", "export.background=white", "checkpoint.every=300"]
    run = as_run(load_config("sds_carv", words), checkpoint=False)
    _, config = open_run(run)
    port, environment = free_port(), {**os.environ, "OMP_NUM_THREADS": "1"}
    trainer = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"owned\n"
    view = subprocess.Popen(
        [sys.executable, "-m", "carv_distill", "view", "--run", str(run), "--port", str(port)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert view.stdout is not None
        assert view.stdout.readline() == f"open http://127.0.0.1:{port} to see {run}; Ctrl-C ends it\n"
        tab = browser.new_page(viewport={"width": 1100, "height": ROWS})
        tab.goto(f"http://127.0.0.1:{port}")
        tab.locator('input[value="seen from 300 on"]').wait_for()
        until(tab, lambda picture: bool((picture[ROWS // 2, 100:-100] == 255).all()))

        scene = four_colours()
        torch.save(checkpoint_of(scene, config), run / "checkpoints/.newest.tmp")
        os.replace(run / "checkpoints/.newest.tmp", run / "checkpoints/newest-step=300.ckpt")
        expected = as_it_should_be(scene, config, shot(tab).shape)
        middle = slice(expected.shape[1] // 2 - 120, expected.shape[1] // 2 + 120)
        front = until(tab, lambda p: np.abs(p - expected)[:, middle].mean() < 2)
        assert tab.locator('input[value="300 of 400"]').count() == 1
        (right, left), row = (expected.shape[1] // 2 + s * 40 for s in (1, -1)), ROWS // 2
        for column, red in ((right, True), (left, False)):
            for place, green in ((row - 50, True), (row + 50, False)):
                r, g, b = front[place, column]
                assert ((r > 200, g > 200), b < 50) == ((red, green), True)

        tab.mouse.move(expected.shape[1] // 2, row)
        tab.mouse.down()
        tab.mouse.move(expected.shape[1] // 2 + 150, row, steps=5)
        tab.mouse.up()
        turned = until(tab, lambda p: np.abs(p - front)[:, middle].mean() > 5)
        # to the right: what was on the left comes to the front
        assert (turned[row + 50, middle, 0] > 200).sum() < (front[row + 50, middle, 0] > 200).sum()
        view.send_signal(signal.SIGINT)
        out, errors = view.communicate(timeout=30)
        assert (view.returncode, out) == (0, "ended\n")
        assert "there is no checkpoint yet; the first comes at update 300" in errors
        assert "update 300 of 400" in errors
        assert "Traceback" not in errors
    finally:
        for process in (view, trainer):
            process.kill()
            process.communicate()


def as_it_should_be(scene: VoxelScene, config: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The picture by the camera that one begins with."""
    from carv_distill.text_to_3d.viewer.window import DISTANCE, ELEVATION

    (front,) = frusta(turntable(1, ELEVATION, DISTANCE))
    camera = BrowserCamera.of(front.wxyz, front.position, front.fov, shape[1] / shape[0])
    picture = FieldPainter(scene, config.scene, 1.0, 1.0).paint(camera, shape[0])
    assert picture is not None
    return picture.pixels.astype(float)
