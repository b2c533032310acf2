"""Gaussians: where they start, what they are as a fog, what moves when they learn."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.geometry.camera import Cameras
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.object.mesh import extract_mesh
from carv_distill.text_to_3d.options import GaussianOptions, SDSOptions
from carv_distill.text_to_3d.rendering import march
from carv_distill.text_to_3d.scenes import GaussianScene, gaussians
from tests.helpers.loops import fit


def scene_of(count: int = 1) -> GaussianScene:
    return GaussianScene(0.8, GaussianOptions(count))


def test_they_start_as_a_grey_translucent_ball() -> None:
    scene = scene_of(3000)
    radius = scene.means.detach().norm(dim=1)
    assert radius.max() <= 0.5
    # Uniform in the ball: the mean of (r/0.5)³ is ½, and that of each coordinate 0.
    assert float((radius / 0.5).pow(3).mean()) == pytest.approx(0.5, abs=0.01)
    assert scene.means.mean(0).abs().max() < 0.005
    g = scene.gaussians
    assert torch.allclose(g.opacity, torch.full((3000,), 0.1))
    nearest = torch.cdist(scene.means, scene.means).fill_diagonal_(9).amin(1).mean()
    assert float(g.scales.mean() / nearest) == pytest.approx(0.6, abs=0.15)
    front = Cameras(*(torch.tensor([v]) for v in (0.0, 0.0, 1.75, math.radians(55))))
    seen = scene.render(front, 16, 1, background="white")
    assert seen.opacity[0, 0, 7:9, 7:9].min() > 0.9
    assert seen.opacity[0, 0, 0, 0] == 0
    # Each has the colour 0.5 before a background of 1.
    assert torch.allclose(seen.image, (1 - 0.5 * seen.opacity).expand(1, 3, 16, 16), atol=1e-5)


@pytest.mark.parametrize(
    "opacity", [pytest.param(0.3, marks=pytest.mark.slow), pytest.param(0.73, marks=pytest.mark.slow), 0.98]
)
def test_its_fog_looks_like_its_splat(opacity: float) -> None:
    """A round Gaussian of 12 pixels: every pixel has the opacity o exp(−Δ²/2s²) in both, but for the pixel's
    own filter of 0.3 pixel² and for the perspective within it, 1 % each."""
    scene = scene_of()
    with torch.no_grad():
        scene.means.zero_()
        scene.log_scales[:] = math.log(0.02)
        scene.opacity_logits[:] = math.log(opacity / (1 - opacity))
    camera = Cameras(*(torch.tensor([v]) for v in (0.4, 0.3, 2.0, math.radians(3.0))))
    splatted = scene.render(camera, 64, 1).opacity.detach()
    marched = march(scene, 0.2, camera, 64, 512).opacity.detach()
    assert splatted.max() == pytest.approx(opacity, rel=1e-2)
    assert splatted.min() < 0.05
    assert (marched - splatted).abs().max() < 0.02 * opacity


@pytest.mark.parametrize("azimuth", [0.0, 1.0])
def test_its_fog_takes_the_light_that_its_splat_takes(azimuth: float) -> None:
    """Through the middle of a round Gaussian of opacity o, rays lose the share o in both."""
    scene = scene_of()
    with torch.no_grad():
        scene.means.zero_()  # in the middle of every picture
        scene.log_scales[:] = math.log(0.08)
        scene.opacity_logits[:] = 1.0
    camera = Cameras(*(torch.tensor([v]) for v in (azimuth, 0.3, 2.0, math.radians(1.0))))
    share = 1 / (1 + math.exp(-1.0))
    assert float(scene.render(camera, 1, 1).opacity.detach()) == pytest.approx(share, rel=1e-2)
    assert float(march(scene, 0.8, camera, 1, 256).opacity.detach()) == pytest.approx(share, rel=1e-4)


def test_density_and_colour_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Gaussians, one turned by 90° around z: its first scale lies along y. In one piece and in many."""
    scene = scene_of(2).double()
    with torch.no_grad():
        scene.means[:] = torch.tensor([[0.0, 0, 0], [0.2, 0, 0]])
        scene.log_scales[:] = torch.tensor([[0.3, 0.1, 0.1], [0.2, 0.2, 0.2]]).double().log()
        scene.quaternions[0] = 5 * torch.tensor([math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)])
        scene.opacity_logits[:] = torch.tensor([0.0, -1.0])
        scene.colour_logits[:] = torch.tensor([[2.0, 0, 0], [0, -2.0, 0]])
    points = torch.tensor([[0.0, 0.3, 0.0], [0.1, 0.0, 0.0], [0.2, 0.0, 0.4]]).double()
    opacity = scene.opacity_logits.sigmoid()
    spread = math.sqrt(2 * math.pi) * torch.tensor([0.003 ** (1 / 3), 0.2]).double()
    exponents = torch.tensor([[1.0, 0.13 / 0.04], [1.0, 0.01 / 0.04], [4.0 + 16, 0.16 / 0.04]]).double()
    z, n = opacity * torch.exp(-exponents / 2), torch.arange(1, 60).double()
    each = (z[..., None] ** n / n.sqrt()).sum(-1) / spread
    colour = each @ scene.colour_logits.sigmoid() / each.sum(1, keepdim=True)
    for at_once in (1024, 2, 1):
        monkeypatch.setattr(gaussians, "POINTS_AT_ONCE", at_once)
        found = scene(points)
        torch.testing.assert_close(found[0], each.sum(1), rtol=5e-7, atol=0)
        torch.testing.assert_close(found[1], colour, rtol=5e-7, atol=0)


@pytest.mark.parametrize("count", [1, 5, 9])
def test_a_state_of_another_count_is_taken(count: int) -> None:
    """Alone, as a part of a module, and in a copy; into the type that is there."""
    state = scene_of(count).state_dict()
    scenes = [scene_of(5), copy.deepcopy(scene_of(5)), scene_of(5).double()]
    whole = torch.nn.ModuleDict({"scene": scenes[0]})
    whole.load_state_dict({f"scene.{name}": value for name, value in state.items()})
    for scene in scenes[1:]:
        scene.load_state_dict(state)
    for scene in scenes:
        for name, p in scene.named_parameters():
            assert torch.equal(p, state[name].to(p.dtype))
            assert p.requires_grad
    assert scenes[2].means.dtype == torch.float64
    with pytest.raises(RuntimeError, match="size mismatch for quaternions"):
        scenes[0].load_state_dict({**state, "quaternions": torch.zeros(count + 1, 4)})


def test_far_from_everything_there_is_nothing_and_it_is_finite() -> None:
    density, colour = scene_of(5)(torch.full((2, 3), 0.8) * 100)
    assert (density == 0).all()
    assert torch.isfinite(colour).all()


def test_every_parameter_has_its_learning_rate() -> None:
    scene = scene_of(4)
    rates = SDSOptions(density_lr=1, colour_lr=2, position_lr=3, scale_lr=4, rotation_lr=5)
    found = {id(p): group["lr"] for group in scene.parameter_groups(rates) for p in group["params"]}
    assert {name: found[id(p)] for name, p in scene.named_parameters()} == {
        "means": 3,
        "log_scales": 4,
        "quaternions": 5,
        "opacity_logits": 1,
        "colour_logits": 2,
    }


@pytest.fixture
def module(make_module: Callable[..., SDSModule]) -> SDSModule:
    made = make_module(sparsity=0.0)
    made.objective.scene = scene_of(60)
    with torch.no_grad():  # a round one does not change when it turns
        made.scene.log_scales += 0.5 * torch.randn(60, 3, generator=stream("scales"))
    return made


def test_score_distillation_moves_all_of_them(module: SDSModule) -> None:
    before = {n: p.clone() for n, p in module.scene.named_parameters()}
    fit(module, 2)
    for name, p in module.scene.named_parameters():
        assert torch.isfinite(p).all()
        assert (p != before[name]).flatten(1 if p.dim() > 1 else 0).any(-1).float().mean() > 0.9, name


def test_regularisers_thin_out_and_decide(module: SDSModule) -> None:
    """Sparsity lowers every opacity that is seen; the entropy lowers those below ½ and raises those above."""
    cameras = module.objective.camera_sampler.sample(2, stream("c"))
    module.objective.options.sparsity, logits = 1.0, module.scene.opacity_logits
    (sparse,) = torch.autograd.grad(
        module.objective.regulariser(module.objective.rendered(cameras, stream("r")), 0), logits
    )
    assert (sparse >= 0).all()
    assert (sparse > 0).float().mean() > 0.9
    (
        module.objective.options.sparsity,
        module.objective.options.opaque,
        module.objective.options.smoothness,
    ) = 0.0, 1.0, 1.0
    for start, sign in ((-4.0, 1), (-2.0, -1)):
        with torch.no_grad():
            logits.fill_(start)
        seen = module.objective.rendered(cameras, stream("r"))
        middle = seen.opacity[:, :, 3:5, 3:5]
        assert ((middle < 0.5) if sign > 0 else (middle > 0.5)).all()
        inside = type(seen)(seen.image, middle)
        (decided,) = torch.autograd.grad(module.objective.regulariser(inside, 0), logits)
        assert (sign * decided).sum() > 0


def test_what_is_wholly_opaque_has_a_mesh_too() -> None:
    """Logits of 20 make an opacity of exactly 1 in float32; density and colour stay finite."""
    scene = GaussianScene(0.8, GaussianOptions(count=200))
    with torch.no_grad():
        scene.opacity_logits.fill_(20.0)
    density, colour = scene(torch.rand(50, 3) - 0.5)
    assert density.isfinite().all()
    assert colour.isfinite().all()
    assert extract_mesh(scene, 24) is not None
