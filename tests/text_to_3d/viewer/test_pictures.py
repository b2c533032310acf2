"""Pictures of a field for a browser's camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from carv_distill.data.sets import to_uint8
from carv_distill.text_to_3d.object.turntable import pictures, turntable
from carv_distill.text_to_3d.options import MEMORY, SceneOptions
from carv_distill.text_to_3d.scenes import Scene, build_scene
from carv_distill.text_to_3d.viewer.cameras import BrowserCamera, frusta
from carv_distill.text_to_3d.viewer.pictures import FAR, LEAST, FieldPainter
from tests.helpers.solid_scenes import SolidScene, ball_at

VIEW = SceneOptions(resolution=24, samples=24)


def front(aspect: float) -> BrowserCamera:
    (frustum,) = frusta(turntable(1))
    return BrowserCamera.of(frustum.wxyz, frustum.position, frustum.fov, aspect)


def spotted() -> Scene:
    """A field with a colour of its own at each place."""
    torch.manual_seed(0)
    scene = build_scene(VIEW)
    with torch.no_grad():
        for grid in scene.parameters():
            grid.normal_(std=2)
    return scene


@pytest.mark.parametrize("aspect", [1.0, 2.0])
def test_a_picture_is_that_of_an_export_and_more_to_the_sides(aspect: float) -> None:
    scene, size = spotted(), 32
    seen = FieldPainter(scene, VIEW, 0.5, MEMORY).paint(front(aspect), size)
    assert seen is not None
    assert seen.pixels.shape == (size, int(aspect * size), 3)
    exported = pictures(scene, turntable(1), size, 2 * VIEW.samples, "grey")[0]
    middle = seen.pixels[:, (seen.pixels.shape[1] - size) // 2 :][:, :size]
    expected = to_uint8(2 * exported - 1).movedim(0, -1).numpy()
    # empty space is left out here, which no pixel shows by more than half a level
    assert np.abs(middle.astype(int) - expected).max() <= 1
    assert np.ptp(expected) > 50


def test_depths_end_at_the_surface_and_the_rest_is_far() -> None:
    scene = SolidScene(ball_at((0.0, 0.0, 0.0), 0.4))
    scene.forward = dense(scene)  # type: ignore[method-assign]
    camera = BrowserCamera.of((1, 0, 0, 0), (0, 0, -2), 0.9, 1.0)
    seen = FieldPainter(scene, SceneOptions(samples=100), 0.5, MEMORY).paint(camera, 33)
    assert seen is not None
    assert seen.depth[16, 16] == pytest.approx(1.6, abs=0.01)
    assert seen.depth[0, 0] == FAR
    assert (seen.pixels[0, 0] == 128).all()


def dense(scene: SolidScene):  # type: ignore[no-untyped-def]
    """A wall that no light enters, from the ball's surface inwards."""

    def field(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1e4 * (scene.solid(points) < 0).float(), torch.ones_like(points)

    return field


def test_it_is_given_up_between_two_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    painter, asked = FieldPainter(build_scene(VIEW), VIEW, 0.5, MEMORY), 0
    monkeypatch.setattr("carv_distill.text_to_3d.viewer.pictures.rows_at_once", lambda *_: 4)

    def given_up() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    assert painter.paint(front(1.0), 32, given_up) is None
    assert asked == 3
    assert painter.paint(front(1.0), 32) is not None


def test_the_size_follows_the_time_that_a_ray_takes() -> None:
    painter = FieldPainter(build_scene(VIEW), VIEW, 0.5, MEMORY)
    assert painter.height_within(0.1, 1.5, 512) == LEAST  # no time is known yet
    painter.seconds_per_ray = 1e-5
    assert painter.height_within(0.1, 1.0, 512) == 100
    assert painter.height_within(0.1, 4.0, 512) == 50
    assert painter.height_within(0.1, 1.0, 64) == 64
    assert painter.height_within(1e-6, 1.0, 512) == LEAST
