"""Empty space: what is left out, how much that costs at most, and when it is looked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.geometry.camera import CameraSampler
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import HashOptions, SceneOptions
from carv_distill.text_to_3d.rendering import OccupancyGrid, albedo
from carv_distill.text_to_3d.rendering_options import OccupancyOptions
from carv_distill.text_to_3d.scenes import Scene, VoxelScene, build_scene
from tests.helpers.analytic_fields import Ball
from tests.helpers.loops import fit
from tests.helpers.sds_modules import VIEW

Make = Callable[..., SDSModule]


def grid(n: int = 16, extent: float = 0.8, **options: float) -> OccupancyGrid:
    return OccupancyGrid(OccupancyOptions(n, **options), extent).double()


def looked(scene: Scene, occupancy: OccupancyGrid, times: int = 3) -> OccupancyGrid:
    for time in range(times):
        occupancy.update(scene.density_at, stream("look", time))
    return occupancy


def objects(kind: str) -> Scene:
    """A field with two parts far from each other, and a little haze."""
    options = SceneOptions(kind=kind, resolution=20, hash=HashOptions(levels=4, log_size=12))
    scene = build_scene(options).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if isinstance(scene, VoxelScene):
            scene.density[1] -= 14.0
            scene.density[1][..., 3:7, 3:7, 3:7] += 40.0
            scene.density[1] += 0.3 * torch.randn(scene.density[1].shape, generator=g, dtype=torch.float64)
        else:
            scene.tables += 0.3 * torch.randn(scene.tables.shape, generator=g, dtype=torch.float64)
    return scene


def test_a_cell_is_occupied_where_it_or_a_cell_around_it_is_dense() -> None:
    occupancy = grid(8, 1.0, threshold=0.5)
    assert occupancy.occupied.all()

    def density(points: Tensor) -> Tensor:
        inside = ((points > 0.25) & (points < 0.5)).all(-1)  # the cell 5, 5, 5
        return inside.double() * 0.6

    occupancy.update(density, stream("g"))
    wanted = torch.zeros(8, 8, 8, dtype=torch.bool)
    wanted[4:7, 4:7, 4:7] = True
    assert torch.equal(occupancy.occupied, wanted)
    points = torch.tensor(
        [[0.3, 0.3, 0.3], [0.1, 0.7, 0.4], [-0.1, 0.3, 0.3], [0.3, 0.8, 0.3], [1.0, 1.0, -1.0]]
    )
    assert occupancy.at(points.double()).tolist() == [True, True, False, False, False]


def test_axes_are_those_of_the_points() -> None:
    occupancy = grid(8, 1.0, threshold=0.5)
    occupancy.update(lambda p: (p[:, 0] > 0.75).double(), stream("g"))
    assert occupancy.occupied[6:].all()
    assert not occupancy.occupied[:6].any()
    assert occupancy.at(torch.tensor([[0.9, -0.9, 0.0], [-0.9, 0.9, 0.9]]).double()).tolist() == [True, False]


def test_what_was_dense_fades() -> None:
    """0.8 · 0.5^k is above 0.1 for k = 0, 1, 2, and not for 3."""
    occupancy, found = grid(4, 1.0, threshold=0.1, decay=0.5), []
    for level in (0.8, 0.0, 0.0, 0.0, 0.3):
        occupancy.update(lambda p, v=level: torch.full_like(p[:, 0], v), stream("g", level))  # type: ignore[misc]
        found.append(bool(occupancy.occupied.all()))
    assert found == [True, True, True, False, True]


@pytest.mark.parametrize("kind", ["voxels", "hash"])
@pytest.mark.parametrize("threshold", [0.01, 0.2])
def test_pictures_are_those_of_all_of_space_up_to_the_threshold(kind: str, threshold: float) -> None:
    """Opacity of every pixel is less by no more than 1 − exp(−threshold · L), L the ray's length in the
    cube, and no greater; what is skipped is a good part of space, and denser than nothing."""
    scene = objects(kind)
    occupancy = looked(scene, grid(threshold=threshold))
    cameras = CameraSampler().sample(6, torch.Generator().manual_seed(1), torch.float64)
    with torch.no_grad():
        whole = scene.render(cameras, 24, 96, background="white")
        part = scene.render(cameras, 24, 96, background="white", occupied=occupancy)
    lost = whole.opacity - part.opacity
    longest = 2 * math.sqrt(3) * 0.8
    bound = 1 - math.exp(-threshold * longest)
    assert 0.05 < float((~occupancy.occupied).double().mean()) < 0.95
    assert float(lost.min()) > -1e-12
    assert 1e-12 < float(lost.max()) <= bound
    assert float((whole.image - part.image).abs().max()) <= 2 * bound
    assert float(whole.opacity.max()) > 0.9


@pytest.mark.parametrize("kind", ["voxels", pytest.param("hash", marks=pytest.mark.slow)])
def test_pictures_of_a_finished_field_lose_less_than_half_a_level(kind: str) -> None:
    """Of a byte, in every pixel; and a good part of space is empty."""
    scene = objects(kind)
    like = next(scene.parameters())
    occupancy = OccupancyGrid.of_finished(scene.density_at, scene.extent, 24, like)
    cameras = CameraSampler().sample(6, torch.Generator().manual_seed(1), torch.float64)
    with torch.no_grad():
        whole = scene.render(cameras, 24, 96, background="white")
        part = scene.render(cameras, 24, 96, background="white", occupied=occupancy)
    assert 0.05 < float((~occupancy.occupied).double().mean()) < 0.95
    assert 0 < float((whole.image - part.image).abs().max()) <= 1 / 510


def test_a_finished_field_is_looked_into_on_a_lattice() -> None:
    """Two points along each side of a cell: what is as thick as their distance is found wherever it lies,
    what lies between them is not; cells lie as those of an update do; the threshold is that of half a
    level."""
    step = 1 / 16  # of the lattice, with 16 cells of [−1, 1]
    like = torch.zeros((), dtype=torch.float64)

    def found(middle: float, thick: float) -> Tensor:
        def wall(points: Tensor) -> Tensor:
            return ((points[:, 1] - middle).abs() <= thick / 2).double()

        return OccupancyGrid.of_finished(wall, 1.0, 16, like).occupied.nonzero()[:, 1].unique()

    for middle in (-0.42, -0.4, -0.375, 0.0, 0.91):
        cell = int((middle + 1) / 2 * 16)
        assert cell in found(middle, 1.001 * step).tolist()
    assert len(found(0.0, 0.9 * step)) == 0
    assert len(found(step / 2, 0.01 * step)) == 3
    threshold = OccupancyGrid.of_finished(lambda p: p[:, 0], 0.8, 4, like).threshold
    assert 1 - math.exp(-threshold * 2 * math.sqrt(3) * 0.8) == pytest.approx(1 / 510)


def test_a_grid_without_empty_cells_changes_no_gradient() -> None:
    scene = objects("voxels")
    occupancy = grid()
    cameras = CameraSampler().sample(2, torch.Generator().manual_seed(1), torch.float64)
    grads = []
    for occupied in (None, occupancy):
        scene.zero_grad()
        seen = scene.render(cameras, 8, 12, occupied=occupied, lights=albedo(cameras))
        assert seen.orientation is not None
        (seen.image.square().sum() + seen.orientation.sum()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in scene.parameters()]))  # type: ignore[union-attr]
    assert torch.allclose(*grads, rtol=1e-12, atol=1e-14)


def test_only_points_of_occupied_cells_are_evaluated_also_for_normals() -> None:
    class Counted(Ball):
        points = 0

        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            assert occupancy.at(points).all() or self.around
            Counted.points += len(points)
            return super().forward(points)

        around = False

    ball, occupancy = Counted(40.0, 0.3, 0.02), grid(20)
    ball.around = True
    looked(ball, occupancy, 1)
    share = float(occupancy.occupied.double().mean())
    ball.around, Counted.points = False, 0
    cameras = CameraSampler().sample(2, torch.Generator().manual_seed(1), torch.float64)
    ball.render(cameras, 10, 30, occupied=occupancy)
    assert 0 < Counted.points < 0.6 * 2 * 100 * 30
    assert share < 0.3
    asked, ball.around = Counted.points, True
    ball.render(cameras, 10, 30, occupied=occupancy, lights=albedo(cameras))
    assert Counted.points == asked + asked * 7


@pytest.mark.parametrize("kind", ["voxels", "hash"])
def test_empty_space_alone_is_the_background_with_a_gradient_of_nothing(kind: str) -> None:
    scene, occupancy = objects(kind), grid()
    occupancy.occupied.fill_(False)
    cameras = CameraSampler().sample(1, torch.Generator().manual_seed(1), torch.float64)
    seen = scene.render(cameras, 5, 6, background="white", occupied=occupancy, lights=albedo(cameras))
    assert torch.equal(seen.image, torch.ones_like(seen.image))
    seen.image.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in scene.parameters())


def test_it_is_looked_for_every_so_many_steps_and_kept_in_the_checkpoint(make_module: Make) -> None:
    view = replace(VIEW, occupancy=OccupancyOptions(6, every=2, threshold=5.0))
    module, updates = make_module(view=view), []
    occupancy = module.objective.occupancy
    assert occupancy is not None
    update = occupancy.update
    occupancy.update = lambda density_at, g: (updates.append(module.global_step), update(density_at, g))  # type: ignore[method-assign, assignment, func-returns-value]
    fit(module, 5)
    assert updates == [0, 2, 4]
    assert 0 < float(occupancy.occupied.float().mean()) < 1
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    kept = {name.removeprefix("objective.occupancy.") for name in checkpoint["state_dict"]}
    assert {"density", "occupied"} <= kept
    assert not [name for name in module.scene.state_dict() if "occup" in name]


def test_all_processes_look_at_the_same_points(make_module: Make) -> None:
    module = make_module(view=replace(VIEW, occupancy=OccupancyOptions(6)))
    points = []
    for rank in (0, 1):
        occupancy = grid(6).float()
        occupancy.update(lambda p: points.append(p) or p[:, 0], module.streams(rank, "occupancy", 3)[1])  # type: ignore[func-returns-value]
    assert torch.equal(*points)
    cells = ((points[0] / 0.8 + 1) * 3).floor()
    assert len(cells.unique(dim=0)) == 216
