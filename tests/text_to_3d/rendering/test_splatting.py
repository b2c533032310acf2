"""Splatting against a loop over pixels, closed forms, and the pictures that fields give."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from carv_distill.errors import UserError
from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.text_to_3d.rendering import (
    Gaussians,
    choose_backend,
    gsplat_fault,
    project,
    splat,
    splatting,
)
from carv_distill.text_to_3d.rendering.rendered import Rendered
from carv_distill.text_to_3d.scenes import VoxelScene

F64 = torch.float64


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    eps2d: float = 0.3,
    packed: bool = True,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What gsplat documents of its function of this name, pixel by pixel, with numpy and in float64."""
    assert (render_mode, rasterize_mode) == ("RGB", "classic")
    turn = Rotation.from_quat(quats.detach().double()[:, [1, 2, 3, 0]].numpy()).as_matrix()
    root = turn * scales.detach().double().numpy()[:, None, :]
    images, alphas = np.zeros((len(viewmats), height, width, 3)), np.zeros((len(viewmats), height, width, 1))
    means2d = torch.zeros(len(viewmats), len(means), 2, dtype=F64)
    radii = torch.zeros(len(viewmats), len(means), 2, dtype=torch.int32)
    for number, (image, alpha_out, view, k, behind) in enumerate(
        zip(images, alphas, viewmats.double().numpy(), Ks.double().numpy(), backgrounds, strict=True)
    ):
        centres = means.detach().double().numpy() @ view[:3, :3].T + view[:3, 3]
        inside = {}
        for i, (x, y, z) in enumerate(centres):
            if z < near_plane:
                continue
            rim_x, rim_y = 1.3 * width / 2 / k[0, 0], 1.3 * height / 2 / k[1, 1]
            u, v = np.clip(x / z, -rim_x, rim_x), np.clip(y / z, -rim_y, rim_y)
            jacobian = np.array([[k[0, 0] / z, 0, -k[0, 0] * u / z], [0, k[1, 1] / z, -k[1, 1] * v / z]])
            half = jacobian @ view[:3, :3] @ root[i]
            place = np.array([k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]])
            covariance = half @ half.T + eps2d * np.eye(2)
            inside[i] = place, np.linalg.inv(covariance)
            spread = math.sqrt(2 * math.log(max(1.0, 255 * float(opacities[i]))))
            reach = np.ceil(min(3.33, spread) * np.sqrt(np.diag(covariance)))
            if (place + reach > 0).all() and (place - reach < (width, height)).all():
                radii[number, i] = torch.from_numpy(reach)
            means2d[number, i] = torch.from_numpy(place)
        for row in range(height):
            for column in range(width):
                passed = 1.0
                for i in sorted(inside, key=lambda i: centres[i][2]):
                    delta = inside[i][0] - [column + 0.5, row + 0.5]
                    alpha = min(0.999, float(opacities[i]) * math.exp(-delta @ inside[i][1] @ delta / 2))
                    if alpha < 1 / 255:
                        continue
                    image[row, column] += passed * alpha * colors[i].detach().double().numpy()
                    passed *= 1 - alpha
                image[row, column] += passed * behind.double().numpy()
                alpha_out[row, column] = 1 - passed
    about = {"means2d": means2d, "radii": radii}
    return torch.from_numpy(images), torch.from_numpy(alphas), about


def some(count: int = 7, seed: int = 0, dtype: torch.dtype = F64) -> Gaussians:
    """Overlapping, stretched, turned; the first stands behind most cameras, the second fills the view."""
    g = torch.Generator().manual_seed(seed)
    means = 0.4 * torch.randn(count, 3, generator=g, dtype=F64)
    means[0] *= 8 / means[0].norm()
    scales = (torch.randn(count, 3, generator=g, dtype=F64) * 0.6 - 2).exp()
    scales[1] *= 6
    return Gaussians(
        means.to(dtype),
        (3 * torch.randn(count, 4, generator=g, dtype=F64)).to(dtype),
        scales.to(dtype),
        torch.linspace(0.3, 0.99, count, dtype=dtype),
        torch.rand(count, 3, generator=g, dtype=F64).to(dtype),
    )


def views(count: int = 3, dtype: torch.dtype = F64) -> Cameras:
    return CameraSampler().sample(count, torch.Generator().manual_seed(1), dtype)


def behind(count: int = 3, dtype: torch.dtype = F64) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(2), dtype=dtype)


def along_z(distance: float = 2.0, fov: float = 40.0, azimuth: float = 0.0) -> Cameras:
    values = (math.radians(azimuth), 0.0, distance, math.radians(fov))
    return Cameras(*(torch.tensor([v], dtype=F64) for v in values))


def one(mean: tuple[float, float, float], scale: float, opacity: float) -> Gaussians:
    return Gaussians(
        torch.tensor([mean], dtype=F64),
        torch.tensor([[1.0, 0, 0, 0]], dtype=F64),
        torch.full((1, 3), scale, dtype=F64),
        torch.tensor([opacity], dtype=F64),
        torch.tensor([[0.9, 0.2, 0.4]], dtype=F64),
    )


def test_a_round_gaussian_has_the_footprint_of_its_formula() -> None:
    """In the middle of the picture Σ' = ((f s/d)² + 0.3) I: α = o exp(−r²/2Σ'), and nothing below 1/255."""
    size, distance, scale = 24, 2.0, 0.15
    seen = splat(one((0, 0, 0), scale, 0.8), along_z(distance), size, torch.zeros(1, 3, dtype=F64))
    focal = size / 2 / math.tan(math.radians(20))
    variance = (focal * scale / distance) ** 2 + 0.3
    off = torch.arange(size).double() + 0.5 - size / 2
    alpha = 0.8 * torch.exp(-(off[:, None] ** 2 + off**2) / (2 * variance))
    alpha = torch.where(alpha < 1 / 255, 0, alpha)
    assert 0 < int((alpha == 0).sum()) < alpha.numel()
    torch.testing.assert_close(seen.opacity[0, 0], alpha)
    torch.testing.assert_close(seen.image[0, 1], 0.2 * alpha)


@pytest.mark.parametrize("size", [8, 13])
def test_pictures_are_those_of_a_loop_over_pixels(size: int) -> None:
    g, cameras = some(), views()
    seen = splat(g, cameras, size, behind())
    image, opacity, _ = rasterization(
        g.means,
        g.quaternions,
        g.scales,
        g.opacity,
        g.colour,
        cameras.view_matrices(),
        cameras.intrinsics(size),
        size,
        size,
        backgrounds=behind(),
    )
    assert seen.opacity.shape == (3, 1, size, size)
    assert seen.opacity.min() < 0.6 < seen.opacity.max()
    torch.testing.assert_close(seen.image, image.movedim(-1, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.opacity, opacity.movedim(-1, 1), rtol=0, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    g = some(3)
    parameters = [t.requires_grad_() for t in (g.means, g.quaternions, g.scales, g.opacity, g.colour)]

    def pictures(*values: Tensor) -> tuple[Tensor, Tensor]:
        seen = splat(Gaussians(*values), views(2), 6, behind(2))
        return seen.image, seen.opacity

    assert torch.autograd.gradcheck(pictures, parameters)


@pytest.mark.parametrize(("azimuth", "front"), [(0.0, 0), (180.0, 1)])
def test_what_is_nearer_hides_what_is_behind_it(azimuth: float, front: int) -> None:
    """The first stands on +z: from there it hides the second, from behind the second hides it."""
    pair = [one((0, 0, 0.3), 0.2, 0.999), one((0, 0, -0.3), 0.2, 0.999)]
    both = Gaussians(
        *(torch.cat([getattr(g, n) for g in pair]) for n in ("means", "quaternions", "scales", "opacity")),
        torch.eye(3, dtype=F64)[:2],
    )
    seen = splat(both, along_z(azimuth=azimuth), 9, torch.ones(1, 3, dtype=F64))
    wanted = 0.001**2 + torch.eye(3, dtype=F64)[front] * 0.999
    wanted[1 - front] += 0.001 * 0.999
    torch.testing.assert_close(seen.image[0, :, 4, 4], wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_gaussian_is_seen_where_a_voxel_at_its_place_is(axis: int) -> None:
    """Centres of opacity, of five cameras, within a third of a pixel."""
    field = VoxelScene(17, 0.8).double()
    place, low = [0.0] * 3, [7] * 3
    place[axis], low[2 - axis] = 0.5, 12  # the grid's axes are z, y, x
    z, y, x = (slice(i, i + 3) for i in low)
    with torch.no_grad():
        field.density[1] -= 40.0
        field.density[1][0, 0, z, y, x] = 5.0
    cameras = CameraSampler(distance=(3, 3)).sample(5, torch.Generator().manual_seed(3), F64)
    zeros = torch.zeros(5, 3, dtype=F64)
    marched = field.render(cameras, 32, 128, background="black").opacity[:, 0]
    splatted = splat(one((place[0], place[1], place[2]), 0.04, 0.9), cameras, 32, zeros).opacity[:, 0]
    pixel = torch.arange(32).double()

    def centres(opacity: Tensor) -> Tensor:
        weight = opacity / opacity.sum((1, 2), keepdim=True)
        return torch.stack([(weight.sum(1) * pixel).sum(1), (weight.sum(2) * pixel).sum(1)], 1)

    found = centres(splatted)
    assert (found - 15.5).norm(dim=1).max() > 3
    assert (found - centres(marched)).abs().max() < 1 / 3


def test_what_cannot_be_seen_has_finite_gradients() -> None:
    """Behind the camera, in its plane, beside the picture, or as transparent as float32 can say."""
    means = torch.tensor([[0, 0, 5.0], [0.3, 0, 2], [40, 0, 0], [0, 0, 0]], requires_grad=True)
    logits = torch.tensor([1.0, 1, 1, -200], requires_grad=True)
    scales = torch.full((4, 3), 0.1, requires_grad=True)
    quaternions = torch.randn(4, 4, requires_grad=True)
    g = Gaussians(means, quaternions, scales, logits.sigmoid(), torch.rand(4, 3))
    camera = along_z()
    camera = Cameras(*(t.float() for t in (camera.azimuth, camera.elevation, camera.distance, camera.fov)))
    seen = splat(g, camera, 8, torch.ones(1, 3))
    assert (seen.opacity == 0).all()
    assert (seen.image == 1).all()
    seen.image.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in (means, logits, scales, quaternions))


def test_half_precision_around_it_changes_nothing() -> None:
    g, cameras, colour = some(dtype=torch.float32), views(dtype=torch.float32), behind(dtype=torch.float32)
    plain = splat(g, cameras, 8, colour)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = splat(g, cameras, 8, colour)
    assert torch.equal(plain.image, mixed.image)


def test_half_precision_around_gsplat_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what it is told of cameras, whose places are a product of matrices where they stand off the
    sphere."""

    def instead(g: Gaussians, cameras: Cameras, size: int, behind: Tensor) -> Rendered:
        return Rendered(cameras.view_matrices(), torch.zeros(1), None)

    monkeypatch.setattr(splatting, "choose_backend", lambda *_: "gsplat")
    monkeypatch.setattr(splatting, "_by_gsplat", instead)
    g, colour = some(dtype=torch.float32), behind(dtype=torch.float32)
    cameras = replace(views(dtype=torch.float32), offset=torch.full((len(colour), 3), 0.123))
    plain = splat(g, cameras, 8, colour)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = splat(g, cameras, 8, colour)
    assert torch.equal(plain.image, mixed.image)


def test_what_reaches_a_picture_is_visible_in_it() -> None:
    """Beside the picture by less than its reach, by more, behind the camera, and too transparent."""
    size, distance, scale = 16, 2.0, 0.05
    focal = size / 2 / math.tan(math.radians(20))
    reach = math.sqrt(((focal * scale / distance) ** 2 + 0.3) * 2 * math.log(255 * 0.8))
    column = [size + 0.9 * reach, size + 1.1 * reach, size / 2, size / 2, size / 2]
    depth, opacity = [distance, distance, -1.0, distance, distance], [0.8, 0.8, 0.8, 0.003, 0.8]
    means = [[(c - size / 2) * d / focal, 0, distance - d] for c, d in zip(column, depth, strict=True)]
    gaussians = Gaussians(
        torch.tensor(means, dtype=F64),
        torch.tensor([1.0, 0, 0, 0], dtype=F64).repeat(5, 1),
        torch.full((5, 3), scale, dtype=F64),
        torch.tensor(opacity, dtype=F64),
        torch.zeros(5, 3, dtype=F64),
    )
    seen = splat(gaussians, along_z(distance), size, torch.zeros(1, 3, dtype=F64))
    assert seen.splats is not None
    # an eccentric one is a little wider: its slope enters the footprint
    assert seen.splats.visible.tolist() == [[True, False, False, False, True]]


# ---------------------------------------------------------------- backends


def test_gsplat_is_called_as_its_documentation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a function of its arguments and conventions in its place, the pictures are those of torch."""
    package = ModuleType("gsplat")
    package.rasterization = rasterization  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gsplat", package)
    monkeypatch.setattr(splatting, "choose_backend", lambda *_: "gsplat")
    theirs = splat(some(), views(), 9, behind(), "gsplat")
    monkeypatch.undo()
    ours = splat(some(), views(), 9, behind(), "torch")
    torch.testing.assert_close(theirs.image, ours.image)
    torch.testing.assert_close(theirs.opacity, ours.opacity)
    assert ours.splats is not None
    assert theirs.splats is not None
    seen = ours.splats.visible
    assert 0 < int(seen.sum()) < seen.numel()
    torch.testing.assert_close(theirs.splats.place[seen], ours.splats.place[seen])
    assert torch.equal(theirs.splats.visible, seen)


def test_gsplat_by_name_without_a_cuda_device_is_refused() -> None:
    assert choose_backend("auto", "cpu") == choose_backend("torch", "cpu") == "torch"
    with pytest.raises(
        UserError, match=r"^scene\.gaussians\.backend: gsplat cannot run: it needs a CUDA device"
    ):
        splat(some(), views(), 8, behind(), "gsplat")


def test_gsplat_is_taken_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels are of float32: in double precision ours splats, or the name is refused."""
    monkeypatch.setattr(splatting, "gsplat_fault", lambda: None)
    assert [choose_backend(b, "cuda") for b in ("auto", "gsplat", "torch")] == ["gsplat", "gsplat", "torch"]
    assert choose_backend("auto", "cuda", torch.float64) == "torch"
    with pytest.raises(UserError, match=r"its kernels are of float32, and trainer\.precision is 64-true"):
        choose_backend("gsplat", "cuda", torch.float64)
    monkeypatch.setattr(splatting, "gsplat_fault", lambda: "it is not installed")
    assert choose_backend("auto", "cuda") == "torch"
    with pytest.raises(UserError, match=r"it is not installed; allowed here: auto, torch$"):
        choose_backend("gsplat", "cuda")


@pytest.mark.skipif(importlib.util.find_spec("gsplat") is not None, reason="gsplat is installed here")
def test_a_missing_gsplat_names_its_extra() -> None:
    assert gsplat_fault.__wrapped__() == "it is not installed (pip install 'carv-distill[gsplat]')"


def test_a_gsplat_without_its_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat imports where there is no compiler for it, with None for its kernels."""
    for name in ("gsplat", "gsplat.cuda", "gsplat.cuda._backend"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    backend = sys.modules["gsplat.cuda._backend"]
    monkeypatch.setattr(sys.modules["gsplat.cuda"], "_backend", backend, raising=False)
    monkeypatch.setattr(backend, "_C", None, raising=False)
    assert "nvcc" in str(gsplat_fault.__wrapped__())
    monkeypatch.setattr(backend, "_C", object())
    assert gsplat_fault.__wrapped__() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gsplat_gives_the_pictures_and_gradients_of_torch() -> None:
    """Float32 on both sides. Rounding may take a Gaussian over the cut at α = 1/255, in few pixels.
    gsplat ends a pixel when less than 1e-4 of its light is left."""
    pytest.importorskip("gsplat")
    if fault := gsplat_fault():
        pytest.skip(f"gsplat: {fault}")
    g = some(200, dtype=torch.float32)
    cameras, colour = views(dtype=torch.float32).to("cuda"), behind(dtype=torch.float32).cuda()
    weight = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(4)).cuda()
    found = []
    for backend in ("torch", "gsplat"):
        names = ("means", "quaternions", "scales", "opacity", "colour")
        leaves = [getattr(g, n).cuda().requires_grad_() for n in names]
        seen = splat(Gaussians(*leaves), cameras, 64, colour, backend)
        ((weight * seen.image).sum() + seen.opacity.square().sum()).backward()
        found.append((seen.image, seen.opacity, *(p.grad for p in leaves)))
    for ours, theirs in zip(*(pictures[:2] for pictures in found), strict=True):
        assert float((ours - theirs).abs().mean()) < 1e-4
        assert float((ours - theirs).abs().max()) < 2 / 255
    for ours, theirs in zip(*(gradients[2:] for gradients in found), strict=True):
        assert float((ours - theirs).norm()) < 1e-2 * float(ours.norm()) > 0


@pytest.mark.parametrize("elevation", [(-10.0, 45.0), (85.0, 90.0)])
def test_cameras_with_noise_splat_where_their_rays_go(elevation: tuple[float, float]) -> None:
    """A Gaussian on a pixel's ray has that pixel's centre for its place, and its depth along the axis."""
    sampler = CameraSampler(elevation=elevation, position_noise=0.1, centre_noise=0.1, up_noise=0.1)
    cameras = sampler.sample(3, torch.Generator().manual_seed(2), F64)
    origins, directions = cameras.rays(4)
    for i in range(3):
        means = (origins[i] + 1.3 * directions[i]).view(-1, 3)
        n = len(means)
        gaussians = Gaussians(
            means,
            torch.tensor([1.0, 0, 0, 0], dtype=F64).repeat(n, 1),
            torch.full((n, 3), 0.01, dtype=F64),
            torch.full((n,), 0.5, dtype=F64),
            torch.zeros(n, 3, dtype=F64),
        )
        seen = project(gaussians, cameras[i : i + 1], 4)
        middle = torch.arange(4).double() + 0.5
        rows, columns = torch.meshgrid(middle, middle, indexing="ij")
        torch.testing.assert_close(seen.place[0].view(4, 4, 2), torch.stack([columns, rows], -1))
        along = -((means - cameras.position[i]) * cameras.axes[2][i]).sum(-1)
        torch.testing.assert_close(seen.depth[0], along)
