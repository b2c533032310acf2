"""Pictures from all sides, in pieces and as a film."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import peak_bytes
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from carv_distill.text_to_3d.object.memory import GIB, SEARCH, rows_at_once
from carv_distill.text_to_3d.object.turntable import (
    frames,
    occupied_cells,
    pictures,
    turntable,
    views,
    write_turntable,
)
from carv_distill.text_to_3d.options import GaussianOptions, HashOptions, SceneOptions
from carv_distill.text_to_3d.rendering import OccupancyGrid
from carv_distill.text_to_3d.scenes import Scene, build_scene

VIEW = SceneOptions(resolution=24, size=16, samples=24)


def film_of(folder: Path) -> np.ndarray:
    """Its frames, [n, H, W, 3]."""
    with av.open(str(folder / "turntable.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"  # colours that every player shows
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_turntable_is_a_video_and_a_sheet(tmp_path: Path) -> None:
    write_turntable(tmp_path, build_scene(VIEW), VIEW, count=16, size=32)
    assert film_of(tmp_path).shape == (16, 32, 32, 3)
    with Image.open(tmp_path / "views.png") as sheet:
        assert sheet.size == (8 * 33 + 1, 4 * 33 + 1)


def test_the_sheet_has_both_elevations_on_white_and_grey() -> None:
    """As renders before these backgrounds; large ones are shown smaller."""
    scene = build_scene(VIEW)
    made = views(scene, 16, 24)
    shown = [
        pictures(scene, turntable(8, elevation), 16, 24, background)
        for background in ("white", "grey")
        for elevation in (15.0, 60.0)
    ]
    assert made.dtype == torch.uint8
    assert (made.int() - to_uint8(2 * torch.cat(shown) - 1).int()).abs().max() <= 1


def test_a_film_asks_no_field_in_empty_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search takes an eighth of a film's points at most; frames are the same to half a level."""
    scene, asked = build_scene(VIEW), 0
    with torch.no_grad():
        scene.density[1] -= 8.0  # type: ignore[index, operator]  # the blob's surroundings are empty then
    forward = scene.forward

    def counted(points: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal asked
        asked += len(points)
        density, colour = forward(points)
        assert isinstance(density, Tensor)
        return density, colour

    monkeypatch.setattr(scene, "forward", counted)
    write_turntable(tmp_path, scene, VIEW, count=16, size=48)
    samples, rays = 2 * VIEW.samples, 16 * 48**2
    assert 0 < asked < 0.3 * rays * samples
    cells = occupied_cells(scene, samples, rays, 1.0)
    assert cells is not None
    assert 8 * len(cells.occupied) ** 3 <= rays * samples / 8
    skipped, whole = (next(frames(scene, turntable(3), 48, 48, "white", 1.0, c)) for c in (cells, None))
    assert float((skipped - whole).abs().max()) <= 1 / 510


def test_no_search_where_it_would_not_pay() -> None:
    """In a few small pictures, of Gaussians, in too little memory, and where rays see more than it could."""
    assert occupied_cells(build_scene(VIEW), 48, 8 * 16**2, 1.0) is None
    assert occupied_cells(build_scene(SceneOptions(kind="gaussians")), 64, 10**8, 1.0) is None
    assert occupied_cells(build_scene(VIEW), 48, 10**5, 1e-5) is None
    assert occupied_cells(build_scene(VIEW), 48, 10**5, 1.0) is not None
    fine = build_scene(SceneOptions(kind="hash", resolution=2048, hash=HashOptions(log_size=4)))
    assert occupied_cells(fine, 512, 60 * 128**2, 1.0) is None


class Wall(Scene):
    """σ = 200 across x in a wall; it has no grid of its own."""

    point_bytes = 16  # type: ignore[assignment]

    def __init__(self, middle: float, thick: float) -> None:
        super().__init__(0.8)
        self.middle, self.thick = middle, thick
        self.scale = torch.nn.Parameter(torch.tensor(200.0))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        inside = (points[:, 0] - self.middle).abs() <= self.thick / 2
        return self.scale * inside, points.new_tensor([0.9, 0.5, 0.1]).expand(len(points), 3)


@pytest.mark.parametrize("middle", [0.0, 0.0042, 0.31, -0.795])
def test_a_wall_that_no_ray_steps_over_is_in_the_film(middle: float) -> None:
    """192 points on a ray are at most 1.6 / 192 apart across it; a lattice of 160 layers would lose it."""
    scene, samples = Wall(middle, 1.05 * 1.6 / 192), 192
    cells = occupied_cells(scene, samples, 10**6, 1.0)
    assert cells is not None
    side = turntable(3)[1:2]
    skipped, whole = (next(frames(scene, side, 24, samples, "white", 1.0, c)) for c in (cells, None))
    assert float((skipped - whole).abs().max()) <= 1 / 510
    assert float((1 - whole).max()) > 0.5
    assert float(cells.occupied.double().mean()) < 0.05


@pytest.mark.parametrize("kind", ["voxels", "hash"])
def test_a_grid_is_as_fine_as_its_field_or_its_rays(kind: str) -> None:
    """Half of a cell of the field's own, or a ray's step, whichever is larger; 80 where that is coarser."""
    for resolution, samples, wanted in ((40, 448, 80), (101, 448, 100), (300, 210, 105)):
        options = SceneOptions(kind=kind, resolution=resolution, hash=HashOptions(log_size=4))
        scene = build_scene(options).to("meta")
        seen: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OccupancyGrid, "of_finished", lambda d, e, cells, *_, seen=seen: seen.append(cells))
            occupied_cells(scene, samples, 10**8, 1.0)
        assert seen == [wanted if kind == "voxels" or wanted != 100 else 101]


@pytest.mark.parametrize("name", ["voxels", "fine voxels", pytest.param("hash", marks=pytest.mark.slow)])
def test_a_film_is_within_its_memory(name: str) -> None:
    """Search and frame, of a field with what is empty and of one where nothing is."""
    scene, memory, found = build_scene(SCENES[name]), 24 / 1024, []
    assert peak_bytes(lambda: found.append(occupied_cells(scene, 32, 10**6, memory))) <= memory * GIB
    (cells,) = found
    assert cells is not None
    for occupied in (cells.occupied.clone(), torch.ones_like(cells.occupied)):
        cells.occupied.copy_(occupied)
        shown = frames(scene, turntable(1), 96, 32, "grey", (1 - SEARCH) * memory, cells)
        assert peak_bytes(lambda work=shown: next(work)) <= memory * GIB


@pytest.mark.parametrize(("size", "side"), [(33, 34), (35, 36), (36, 36), (31, 32), (1, 2)])
def test_a_video_of_any_size_keeps_it(size: int, side: int, tmp_path: Path) -> None:
    """To the next even number, without scaling."""
    write_turntable(tmp_path, build_scene(VIEW), VIEW, count=8, size=size)
    video = film_of(tmp_path).astype(int)
    assert video.shape == (8, side, side, 3)
    # the last row is there twice, to the error of the codec
    if size % 2:
        assert np.abs(video[:, -1] - video[:, -2]).mean() < 12


def test_an_interrupted_video_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "turntable.mp4").write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("carv_distill.data.clips.mp4.atomic_file", full)
    with pytest.raises(UserError, match=r"turntable\.mp4 could not be written \(no space left\)"):
        write_turntable(tmp_path, build_scene(VIEW), VIEW, count=8, size=16)
    assert (tmp_path / "turntable.mp4").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["turntable.mp4"]


def test_a_video_whose_encoder_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise av.error.InvalidDataError(1, "out of order")

    monkeypatch.setattr("carv_distill.data.clips.mp4.av.VideoFrame.from_ndarray", failing)
    with pytest.raises(UserError, match=r"could not be written \(the encoder failed: .*out of order"):
        write_turntable(tmp_path, build_scene(VIEW), VIEW, count=8, size=16)
    assert not list(tmp_path.iterdir())


def test_what_stands_behind_the_object_is_chosen(tmp_path: Path) -> None:
    for background, byte, rows in (("white", 255, 2), ("black", 0, 2), ("grey", 128, 2), (None, 255, 4)):
        write_turntable(tmp_path, build_scene(VIEW), VIEW, count=8, size=32, background=background)
        with Image.open(tmp_path / "views.png") as sheet:
            corner = np.asarray(sheet)[2, 2]
            assert sheet.size[1] == 33 * rows + 1
        assert np.abs(corner.astype(int) - byte).max() <= 1, background


def rough(scene: Scene) -> Scene:
    """Of random weights, so that every point is another."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in scene.parameters():
            p += 0.3 * torch.randn_like(p)
    return scene


@pytest.mark.parametrize("kind", ["voxels", "hash"])
@pytest.mark.parametrize("rows", [1, 5, 15])
def test_rows_apart_are_the_picture(kind: str, rows: int) -> None:
    """To float32: products of matrices of other sizes may be summed in another order."""
    scene = rough(build_scene(SceneOptions(kind=kind, resolution=16)))
    camera = turntable(3)[1:2]
    with torch.no_grad():
        whole = scene.render(camera, 15, 20)
        apart = scene.render(camera, 15, 20, rows=rows)
    for a, b in ((whole.image, apart.image), (whole.opacity, apart.opacity)):
        assert (a - b).abs().max() <= 5e-7
    assert whole.image.std() > 0.01


def test_rows_apart_have_the_gradient_of_the_picture() -> None:
    scene = rough(build_scene(SceneOptions(kind="hash", resolution=16))).double()
    camera = turntable(3)[1:2].to(torch.zeros(1, dtype=torch.float64))

    def gradient(rows: int | None) -> Tensor:
        image = scene.render(camera, 9, 8, rows=rows).image
        parts = torch.autograd.grad(image.square().sum(), list(scene.parameters()))
        return torch.cat([part.flatten() for part in parts])

    assert torch.allclose(gradient(2), gradient(None), rtol=1e-12, atol=1e-14)


SCENES = {
    "hash": SceneOptions(kind="hash", resolution=32, hash=HashOptions(log_size=10)),
    "wide": SceneOptions(kind="hash", resolution=32, hash=HashOptions(4, 10, 8, 8, 128)),
    "deep": SceneOptions(kind="hash", resolution=64, hash=HashOptions(16, 10, 2, 8, 64)),
    "one level": SceneOptions(kind="hash", resolution=16, hash=HashOptions(1, 10, 1, 8, 8)),
    "few levels": SceneOptions(kind="hash", resolution=32, hash=HashOptions(log_size=10, active_levels=6)),
    "voxels": SceneOptions(resolution=20),
    "fine voxels": SceneOptions(resolution=48),
}


@pytest.mark.parametrize("kind", ["voxels", "hash"])
def test_memory_holds_in_float64(kind: str) -> None:
    scene = build_scene(SceneOptions(kind=kind, resolution=16, hash=HashOptions(log_size=8))).double()
    memory = 8 / 1024
    assert peak_bytes(lambda: next(frames(scene, turntable(1), 96, 16, "grey", memory))) <= memory * GIB


@pytest.mark.parametrize("name", SCENES)
def test_a_picture_takes_what_its_scene_says(name: str) -> None:
    """Counted at every allocation; the estimate is above it, and by less than a half."""
    scene, size, samples = build_scene(SCENES[name]), 48, 32
    held, row = scene.picture_bytes(size, samples)
    with torch.no_grad():
        for rows in (24, 48):
            taken = peak_bytes(lambda r=rows: scene.render(turntable(1), size, samples, rows=r))
            assert taken <= held + rows * row + 160 * size**2
            assert taken >= (held + rows * row) / 1.5


@pytest.mark.slow
def test_memory_is_flat_in_size() -> None:
    """A frame of 64, 128 and 192 pixels within the same 24 MiB; in one piece the last takes 10 times that."""
    scene, memory, samples = build_scene(SCENES["hash"]), 24 / 1024, 16

    def taken(size: int) -> int:
        return peak_bytes(lambda: next(frames(scene, turntable(1), size, samples, "grey", memory)))

    assert all(taken(size) <= memory * GIB for size in (64, 128, 192))
    assert taken(192) >= 0.6 * memory * GIB  # it is used
    held, row = scene.picture_bytes(192, samples)
    assert held + 192 * row > 10 * memory * GIB


def test_a_row_is_the_least_that_is_rendered() -> None:
    scene = build_scene(SCENES["hash"])
    assert rows_at_once(scene, 64, 40, 1e-9) == 1
    assert rows_at_once(scene, 16, 40, 100.0) == 16
    assert (
        rows_at_once(build_scene(SceneOptions(kind="gaussians", gaussians=GaussianOptions(9))), 64, 1, 1.0)
        == 64
    )
    assert pictures(scene, turntable(2), 8, 4, memory=1e-9).shape == (2, 3, 8, 8)


def test_cameras_go_once_around() -> None:
    cameras = turntable(4)
    assert cameras.views() == ["front", "side", "back", "side"]
    assert torch.allclose(cameras.position.norm(dim=1), torch.full((4,), 1.75))
