"""A point of the world is at one place in the picture, by viser's convention and by ours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.text_to_3d.viewer.cameras import BrowserCamera, frusta

F64 = torch.float64


def in_picture(
    points: Tensor, rotation: Tensor, position: Tensor, fov: float, aspect: float, height: int
) -> Tensor:
    """Column and row by viser's convention: p_world = R p_camera + t, x right, y down, z forward, the angle
    of view over the height; [n, 3] → [n, 2]."""
    x, y, z = ((points - position) @ rotation).unbind(-1)
    reach = math.tan(fov / 2)
    column = (x / z / (reach * aspect) + 1) / 2 * height * aspect
    return torch.stack([column, (y / z / reach + 1) / 2 * height], -1)


def some_cameras(count: int, **noises: float) -> Cameras:
    return CameraSampler(**noises).sample(count, torch.Generator().manual_seed(3), F64)  # type: ignore[arg-type]


@pytest.mark.parametrize("aspect", [1.0, 1.5, 0.5])
def test_rays_go_through_the_pixels_that_points_on_them_are_in(aspect: float) -> None:
    g = np.random.default_rng(0)
    for _ in range(8):
        wxyz, position, height = g.normal(size=4), g.normal(size=3), 8
        camera = BrowserCamera.of(wxyz, position, 1.1, aspect)
        origins, directions = camera.rays(height)
        width = camera.width(height)
        assert directions.shape == (height, width, 3)
        points = origins + torch.from_numpy(g.uniform(0.5, 3, (height, width, 1))) * directions
        turn = torch.from_numpy(matrix(wxyz))
        place = in_picture(points, turn, torch.from_numpy(position), 1.1, aspect, height)
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        expected = torch.stack([column, row], -1) + 0.5
        torch.testing.assert_close(place, expected.double(), rtol=0, atol=1e-12)


def matrix(wxyz: np.ndarray) -> np.ndarray:
    """Of a quaternion of any length, by v ↦ q v q*."""
    w, u = wxyz[0], wxyz[1:]
    cross = np.cross(np.eye(3), u)  # rows e_i × u, and so the transpose of u ×
    turn = (w * w - u @ u) * np.eye(3) + 2 * np.outer(u, u) + 2 * w * cross.T * -1
    return np.asarray(turn / (wxyz @ wxyz))


@pytest.mark.parametrize(
    "noises", [{}, {"position_noise": 0.3, "centre_noise": 0.2, "up_noise": 0.1}], ids=["sphere", "noises"]
)
def test_our_cameras_as_frusta_see_points_where_ours_do(noises: dict[str, float]) -> None:
    size, cameras = 16, some_cameras(5, **noises)
    points = 0.5 * torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    view, inner = cameras.view_matrices(), cameras.intrinsics(size)
    for i, frustum in enumerate(frusta(cameras)):
        camera = BrowserCamera.of(frustum.wxyz, frustum.position, frustum.fov, aspect=1.0)
        theirs = in_picture(points, camera.rotation, camera.position, camera.fov, 1.0, size)
        seen = (points @ view[i, :3, :3].T + view[i, :3, 3]) @ inner[i].T
        torch.testing.assert_close(theirs, seen[:, :2] / seen[:, 2:], rtol=0, atol=1e-12)


def test_rays_of_a_square_picture_are_ours() -> None:
    cameras = some_cameras(3, up_noise=0.1)
    origins, directions = cameras.rays(8)
    for i, frustum in enumerate(frusta(cameras)):
        camera = BrowserCamera.of(frustum.wxyz, frustum.position, frustum.fov, aspect=1.0)
        rays = camera.rays(8)
        torch.testing.assert_close(rays[0], origins[i], rtol=0, atol=1e-13)
        torch.testing.assert_close(rays[1], directions[i], rtol=0, atol=1e-13)
        rows = slice(2, 5)
        assert torch.equal(camera.rays(8, rows)[1], rays[1][rows])


def test_viser_reads_our_quaternions_as_we_do() -> None:
    transforms = pytest.importorskip("viser.transforms")
    for frustum in frusta(some_cameras(4, centre_noise=0.2)):
        ours = BrowserCamera.of(frustum.wxyz, frustum.position, frustum.fov, 1.0).rotation
        np.testing.assert_allclose(transforms.SO3(frustum.wxyz).as_matrix(), ours.numpy(), atol=1e-14)


def test_depth_is_along_the_axis() -> None:
    camera = BrowserCamera.of((1, 0, 0, 0), (0, 0, -2), 1.0, 1.0)
    depth = camera.depth(torch.tensor([[0.3, -0.7, 0.5]], dtype=F64))
    torch.testing.assert_close(depth, torch.tensor([2.5], dtype=F64))
