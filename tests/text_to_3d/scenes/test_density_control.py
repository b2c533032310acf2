"""Adaptive density control by hand: what is counted, cloned, split, removed and lowered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adam

from carv_distill.carv import stream
from carv_distill.errors import UserError
from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import DensifyOptions, GaussianOptions, SDSOptions
from carv_distill.text_to_3d.rendering import Rendered, rotations
from carv_distill.text_to_3d.scenes import DensityControl, GaussianScene, VoxelScene
from carv_distill.text_to_3d.scenes.density_control import densified
from tests.helpers.loops import fit

EXTENT = 1.0
OPTIONS = DensifyOptions(
    every=1,
    start=1,
    stop=10,
    gradient=1.0,
    split_size=0.1,
    prune_opacity=0.02,
    prune_size=0.5,
    reset_every=0,
    most=1000,
)
SOUND = torch.zeros(())


def some(count: int = 6, scale: float = 0.05, opacity: float = 0.5) -> dict[str, Tensor]:
    """Gaussians that are all different, float64."""
    g = stream("some")
    log_scales = math.log(scale) - 0.5 * torch.rand(count, 3, generator=g, dtype=torch.float64)
    log_scales[:, 0] = math.log(scale)
    return {
        "means": 0.3 * torch.randn(count, 3, generator=g, dtype=torch.float64),
        "log_scales": log_scales,
        "quaternions": torch.randn(count, 4, generator=g, dtype=torch.float64),
        "opacity_logits": torch.full((count,), opacity, dtype=torch.float64).logit(),
        "colour_logits": torch.randn(count, 3, generator=g, dtype=torch.float64),
    }


def scene_of(values: dict[str, Tensor]) -> GaussianScene:
    scene = GaussianScene(EXTENT, GaussianOptions(len(values["means"]))).double()
    scene.replace(values)
    return scene


def gradients(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def changed(values: dict[str, Tensor], gradient: Tensor, **options: Any) -> tuple[dict[str, Tensor], Tensor]:
    return densified(values, gradient, replace(OPTIONS, **options), EXTENT, stream("noise"))


def test_small_ones_with_large_gradients_are_cloned_as_they_are() -> None:
    values = some()
    new, origin = changed(values, gradients(0, 2, 0, 1, 0.99, 0))
    assert origin.tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    for name, value in values.items():
        assert torch.equal(new[name], value[[0, 1, 2, 3, 4, 5, 1, 3]])


def test_large_ones_with_large_gradients_give_way_to_two_smaller_ones() -> None:
    values = some()
    values["log_scales"][[1, 4]] += math.log(4)
    new, origin = changed(values, gradients(0, 2, 0, 0, 0.5, 0))
    assert origin.tolist() == [0, 2, 3, 4, 5, -1, -1]
    for name in ("quaternions", "opacity_logits", "colour_logits"):
        assert torch.equal(new[name], values[name][[0, 2, 3, 4, 5, 1, 1]])
    torch.testing.assert_close(
        new["log_scales"][5:].exp(), (values["log_scales"][1].exp() / 1.6).expand(2, 3), rtol=1e-12, atol=0
    )
    assert (new["means"][5] != new["means"][6]).all()


def test_children_are_drawn_from_their_parent() -> None:
    """Whitened by the parent's R S, 2 × 4,000 places have mean 0 and covariance I, at 4 standard errors:
    1/√n of a mean, √(2/n) of a variance, 1/√n of a covariance."""
    one = some(1, scale=0.3)
    values = {name: value.repeat(4000, *[1] * (value.ndim - 1)) for name, value in one.items()}
    new, origin = changed(values, torch.full((4000,), 2.0).double(), most=8000)
    assert origin.tolist() == [-1] * 8000
    turn = rotations(one["quaternions"])[0]
    white = ((new["means"] - one["means"]) @ turn) / one["log_scales"].exp()
    n = len(white)
    assert white.mean(0).abs().max() < 4 / math.sqrt(n)
    away = white.T @ white / n - torch.eye(3, dtype=torch.float64)
    assert away.diagonal().abs().max() < 4 * math.sqrt(2 / n)
    assert (away - away.diagonal().diag()).abs().max() < 4 / math.sqrt(n)


def test_what_is_transparent_or_vast_is_removed() -> None:
    values = some()
    values["opacity_logits"][[0, 3]] = torch.tensor([0.0199, 0.0201]).double().logit()
    values["log_scales"][[1, 2]] += torch.tensor([[math.log(10.01)], [math.log(9.99)]])
    new, origin = changed(values, gradients(*[0.0] * 6))
    assert origin.tolist() == [2, 3, 4, 5]
    assert torch.equal(new["means"], values["means"][2:])
    assert changed(values, gradients(*[0.0] * 6), prune_size=None)[1].tolist() == [1, 2, 3, 4, 5]
    # a vast one that is split has children which fit, and stays in them
    assert changed(values, gradients(9, 9, 0, 0, 0, 0))[1].tolist() == [2, 3, 4, 5, -1, -1]


@pytest.mark.parametrize(("most", "cloned"), [(6, []), (7, [3]), (8, [1, 3]), (3, []), (100, [1, 2, 3])])
def test_of_too_many_candidates_the_greatest_gradients_are_taken(most: int, cloned: list[int]) -> None:
    values = some()
    new, _ = changed(values, gradients(0, 2, 1, 3, 0, 0), most=most)
    assert torch.equal(new["means"], torch.cat([values["means"], values["means"][cloned]]))


def test_room_is_left_by_what_is_removed() -> None:
    values = some()
    values["opacity_logits"][0] = -9.0
    assert len(changed(values, gradients(5, 2, 1, 3, 0, 0), most=6)[1]) == 6


def test_a_clone_lets_less_light_through_as_documented() -> None:
    """Two of one place and opacity α let (1 − α)² pass: the picture is that of one with 1 − (1 − α)²."""
    values = {name: value[:1] for name, value in some(1, opacity=0.3).items()}
    camera = CameraSampler().sample(1, stream("camera"), torch.float64)
    before = scene_of(values).render(camera, 8, 1, background="black")
    after = scene_of(changed(values, gradients(2))[0]).render(camera, 8, 1, background="black")
    large = before.opacity > 1e-2
    assert large.any()
    torch.testing.assert_close(after.opacity[large], 1 - (1 - before.opacity[large]) ** 2)


# ---------------------------------------------------------------- what is counted


def views(count: int = 3) -> Cameras:
    return CameraSampler().sample(count, stream("views"), torch.float64)


def seen_by(scene: GaussianScene, cameras: Cameras) -> Rendered:
    return scene.render(cameras, 8, 1, background="black")


def loss_of(seen: Rendered) -> Tensor:
    """Of one view, by its pictures alone."""
    weight = torch.linspace(-1, 1, seen.image[0].numel(), dtype=torch.float64).view_as(seen.image[0])
    return (seen.image * weight).sum()


def by_hand(scene: GaussianScene, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Norms of the gradients by places in normalised device coordinates, one view after the other, and how
    often each Gaussian is visible."""
    norms, visible = torch.zeros(len(scene.means)).double(), torch.zeros(len(scene.means)).double()
    for i in range(len(cameras)):
        seen = seen_by(scene, cameras[i : i + 1])
        assert seen.splats is not None
        (pixels,) = torch.autograd.grad(loss_of(seen), seen.splats.place)
        # 8 pixels are 2 wide: a step of 1 is 4 pixels
        norms += 4 * pixels[0].norm(dim=1) * seen.splats.visible[0]
        visible += seen.splats.visible[0]
    return norms, visible


@pytest.mark.parametrize("at_once", [3, 2, 1])
def test_the_mean_gradient_is_that_of_each_view_alone(at_once: int) -> None:
    """However many renders go through together, and though the step's loss is their mean."""
    values = some()
    values["means"][5] = 50.0  # out of sight
    scene, cameras, control = scene_of(values), views(), DensityControl(replace(OPTIONS, start=9))
    for start in range(0, 3, at_once):
        seen = seen_by(scene, cameras[start : start + at_once])
        control.watch(seen, 3)
        (loss_of(seen) / 3).backward()
    control.after_step(1, scene, Adam(scene.parameters()), SOUND, stream("g"))
    norms, visible = by_hand(scene, cameras)
    assert visible.tolist()[5] == 0
    torch.testing.assert_close(control.sums, torch.stack([norms, visible]), rtol=1e-10, atol=1e-12)


def test_steps_add_up_and_one_that_is_left_out_does_not() -> None:
    scene, cameras, control = scene_of(some()), views(), DensityControl(replace(OPTIONS, start=9))
    for step, (factor, skipped) in enumerate(((1.0, 0), (math.nan, 1), (2.0, 0)), 1):
        seen = seen_by(scene, cameras)
        control.watch(seen, 1)
        (factor * loss_of(seen)).backward()
        control.after_step(step, scene, Adam(scene.parameters()), torch.tensor(float(skipped)), stream("g"))
    norms, visible = by_hand(scene, cameras)
    torch.testing.assert_close(control.sums, torch.stack([3 * norms, 2 * visible]), rtol=1e-10, atol=1e-12)


def backward(scene: GaussianScene, control: DensityControl) -> Adam:
    """One step of an optimiser as the module has it."""
    optimizer = Adam(scene.parameter_groups(SDSOptions()), betas=(0.9, 0.99), fused=True)
    seen = seen_by(scene, views())
    control.watch(seen, 1)
    loss_of(seen).backward()
    optimizer.step()
    return optimizer


def test_moments_follow_their_gaussians() -> None:
    scene, control = scene_of(some()), DensityControl(replace(OPTIONS, gradient=1e-9))
    scene.opacity_logits.data[2] = -9.0
    optimizer = backward(scene, control)
    before = {name: dict(optimizer.state[p]) for name, p in scene.named_parameters()}
    values = scene.values
    control.after_step(1, scene, optimizer, SOUND, stream("g"))
    assert len(scene.means) == 10  # five of six stay, and are cloned
    assert [p for group in optimizer.param_groups for p in group["params"]] == [
        scene.means,
        scene.log_scales,
        scene.quaternions,
        scene.opacity_logits,
        scene.colour_logits,
    ]
    assert len(optimizer.state) == 5
    rest = [0, 1, 3, 4, 5]
    for name, p in scene.named_parameters():
        state = optimizer.state[p]
        assert torch.equal(p[:5], values[name][rest])
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[moment][:5], before[name][moment][rest])
            assert state[moment][:5].any()
            assert not state[moment][5:].any()
        assert torch.equal(state["step"], before[name]["step"])
    assert control.sums.shape == (2, 0)
    again = backward_on(scene, control, optimizer)
    assert all((p != value).any() for p, value in zip(scene.parameters(), again, strict=True))


def backward_on(scene: GaussianScene, control: DensityControl, optimizer: Adam) -> list[Tensor]:
    """A further step; the parameters before it."""
    before = [p.detach().clone() for p in scene.parameters()]
    seen = seen_by(scene, views())
    control.watch(seen, 1)
    loss_of(seen).backward()
    optimizer.step()
    return before


def test_a_reset_lowers_opacities_and_forgets_their_moments_alone() -> None:
    scene = scene_of(some())
    scene.opacity_logits.data = torch.tensor([0.9, 0.5, 0.041, 0.039, 0.03, 0.021]).double().logit()
    control = DensityControl(replace(OPTIONS, gradient=1e9, reset_every=2, every=1000))
    optimizer = backward(scene, control)
    values = scene.values
    values = {name: value.clone() for name, value in values.items()}
    control.after_step(1, scene, optimizer, SOUND, stream("g"))
    assert torch.equal(scene.opacity_logits, values["opacity_logits"])
    backward_on(scene, control, optimizer)
    values = {name: value.clone() for name, value in scene.values.items()}
    control.after_step(2, scene, optimizer, SOUND, stream("g"))
    expected = values["opacity_logits"].sigmoid().clamp(max=0.04)
    torch.testing.assert_close(scene.opacity_logits.detach().sigmoid(), expected, rtol=1e-12, atol=0)
    for name, p in scene.named_parameters():
        state = optimizer.state[p]
        lowered = name == "opacity_logits"
        assert lowered or torch.equal(p, values[name])
        assert bool(state["exp_avg"].any()) is not lowered
        assert bool(state["exp_avg_sq"].any()) is not lowered
        assert float(state["step"]) == 2


@pytest.mark.parametrize(("every", "start", "stop", "steps"), [(2, 3, 7, [4, 6]), (3, 0, 9, [3, 6, 9])])
def test_it_acts_when_it_is_told_to(every: int, start: int, stop: int, steps: list[int]) -> None:
    scene = scene_of(some(2))
    control = DensityControl(replace(OPTIONS, every=every, start=start, stop=stop, gradient=1e-9))
    optimizer = Adam(scene.parameters())
    counts = [len(scene.means)]
    for step in range(1, 11):
        seen = seen_by(scene, views())
        control.watch(seen, 1)
        loss_of(seen).backward()
        control.after_step(step, scene, optimizer, SOUND, stream("g"))
        counts.append(len(scene.means))
    assert [i for i in range(1, 11) if counts[i] != counts[i - 1]] == steps


def test_an_empty_scene_is_refused() -> None:
    scene, control = scene_of(some(opacity=0.01)), DensityControl(OPTIONS)
    optimizer = backward(scene, control)
    with pytest.raises(UserError, match=r"densify: no Gaussian would be left after step 1; .* lower prune_"):
        control.after_step(1, scene, optimizer, SOUND, stream("g"))
    assert len(scene.means) == 6


def test_fields_and_fixed_counts_have_none() -> None:
    assert DensityControl.of(VoxelScene(8, 1.0), OPTIONS) is None
    assert DensityControl.of(scene_of(some()), DensifyOptions()) is None
    assert DensityControl.of(scene_of(some()), OPTIONS) is not None


@pytest.fixture
def module(make_module: Callable[..., SDSModule]) -> SDSModule:
    """Two renders, one at a time."""
    made = make_module(sparsity=0.0, renders_at_once=1)
    made.objective.scene = GaussianScene(0.8, GaussianOptions(40))
    made.density_control = DensityControl(replace(OPTIONS, every=2, gradient=1e-9, prune_size=None, most=60))
    return made


def test_score_distillation_goes_on_with_another_count(module: SDSModule) -> None:
    fit(module, 2)
    assert len(module.scene.means) == 60
    assert float(module.metrics()["scene/gaussians"]) == 60
    assert float(module.metrics()["scene/grad_norm"]) > 0  # of the step before the change
    fit(module, 1)
    assert all(p.grad is not None and len(p.grad) == 60 for p in module.scene.parameters())


def test_voxels_say_nothing_of_gaussians(make_module: Callable[..., SDSModule]) -> None:
    assert "scene/gaussians" not in fit(make_module(), 1).metrics()
