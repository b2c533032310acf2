"""What is descended: who is told which prompt, what is let go, and renders in the light."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.carv import Draws, NoiseLevelSampler, average_residual, stream, surrogate
from carv_distill.engine.options import EstimatorOptions
from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.teachers.denoiser import GaussianDenoiser
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.text_to_3d.guidance.options import ViewPrompts
from carv_distill.text_to_3d.guidance.residual import sds_residual
from carv_distill.text_to_3d.guidance.timesteps import AnnealedSampler, TimestepRange, timestep_weight
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.objective import SDSObjective
from carv_distill.text_to_3d.options import SDSOptions
from carv_distill.text_to_3d.rendering import Lights
from carv_distill.text_to_3d.rendering_options import ShadingOptions
from carv_distill.text_to_3d.scenes import build_scene
from tests.helpers.analytic_fields import Ball, cameras
from tests.helpers.gaussian_network import DIM, SCHEDULE
from tests.helpers.loops import fit
from tests.helpers.sds_modules import VIEW

Make = Callable[..., SDSModule]
LIT = replace(VIEW, shading=ShadingOptions(lambertian=0.5, textureless=0.5))


def around(degrees: float, elevation: float = 0.0) -> Cameras:
    one = torch.ones(1)
    return Cameras(math.radians(degrees) * one, math.radians(elevation) * one, 2 * one, one)


def test_words_of_ones_own_reach_the_cameras_that_see_the_view(make_module: Make) -> None:
    own = ViewPrompts(side="a blue cube", overhead="a blue ball")
    objective = make_module(prompts_by_view=own).objective
    plain = make_module(view_prompts=False, prompt="a blue cube").objective
    made = make_module().objective
    assert torch.equal(objective.conditions(around(90)).embeddings, plain.conditions(around(0)).embeddings)
    for degrees in (0, 180):
        found, exact = (o.conditions(around(degrees)).embeddings for o in (objective, made))
        assert torch.equal(found, exact)
    found, exact = (o.conditions(around(90, 80)).embeddings for o in (objective, made))
    assert not torch.equal(found, exact)


@pytest.mark.parametrize("objective", ["sds", "nfsd", "vsd", "ism"])
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float16])
def test_the_text_model_is_gone_from_memory(
    if_pipeline_folder: Path, objective: str, dtype: torch.dtype
) -> None:
    """A T5 of DeepFloyd has 4.8 billion parameters: nothing may hold it after the prompts are encoded."""
    teacher = load_text_teacher(if_pipeline_folder, dtype=dtype)
    assert teacher.prompts.text_models is not None
    models = [weakref.ref(model) for model in teacher.prompts.text_models.values()]
    weights = [weakref.ref(p) for p in teacher.prompts.text_models.parameters()]
    options = SDSOptions("a red torus", objective=objective, negative_prompt="blue")
    built = SDSObjective(
        teacher=teacher,
        scene=build_scene(VIEW),
        cameras=CameraSampler(),
        view=VIEW,
        options=options,
        levels=AnnealedSampler(teacher.schedule, EstimatorOptions(), options, 10),
    )
    gc.collect()
    assert models
    assert weights
    assert all(reference() is None for reference in (*models, *weights))
    assert built.teacher.prompts.text_models is None


def gradient(module: SDSModule) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.scene.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize(("textureless", "guidance"), [(0.0, 7.5), (1.0, 7.5), (0.0, 1.0)])
def test_one_draw_of_a_lit_render_gives_the_textbook_gradient(
    make_pixel_module: Make, textureless: float, guidance: float
) -> None:
    """(∂x/∂θ)ᵀ (1 − ᾱ_t) (ε̂_∅ + s (ε̂_y − ε̂_∅) − ε) in float64, with x = 2 Σ_i w_i c_i (a + (1 − a)
    max(n_i · l_i, 0)) + 2 T_end/2 − 1 put together here from densities, colours and differences."""
    shading = ShadingOptions(lambertian=1 - textureless, textureless=textureless)
    module = make_pixel_module(
        1, 1, view=replace(VIEW, shading=shading), proposal="uniform", guidance=guidance
    ).double()
    o, t = module.objective, 30
    camera, levels = o.cameras(1, stream("camera")), o.levels.range_at(0)
    eps = torch.randn(1, 1, 3, 8, 8, generator=stream("noise"), dtype=torch.float64)
    u = torch.tensor([[(t - levels.first + 0.5) / levels.count]], dtype=torch.float64)
    upstream, _ = o.upstream(camera, stream("render"), 0)
    direction = average_residual(upstream.residual, upstream.x, Draws(u, torch.ones(1, 1).double(), eps))
    surrogate(upstream.x, direction).backward()
    ours = gradient(module)
    for p in module.scene.parameters():
        p.grad = None

    g = stream("render")
    lights = o.lights(camera, g, 0)
    assert lights is not None
    x = 2 * lit_by_hand(module, camera, lights, g) - 1
    kept = 1 / (1 + o.teacher.schedule.table[t].double() ** 2)  # ᾱ_t
    x_t = (kept.sqrt() * x + (1 - kept).sqrt() * eps[:, 0]).detach()
    with torch.no_grad():
        own, none = (
            o.teacher.network.model(x_t, t, encoder_hidden_states=c).sample.chunk(2, dim=1)[0]
            for c in (o.conditions(camera).embeddings, null_of(module))
        )
    x.backward((1 - kept) * (none + guidance * (own - none) - eps[:, 0]))
    theirs = gradient(module)
    assert theirs.norm() > 0
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8 * float(theirs.abs().max()))


def null_of(module: SDSModule) -> Tensor:
    null = getattr(module.objective.denoiser, "null", None)
    value = module.objective.prompts.value if null is None else null.value
    rows: Tensor = value.embeddings
    return rows[None] if null is not None else rows[:1]


def lit_by_hand(module: SDSModule, camera: object, lights: Lights, g: torch.Generator) -> Tensor:
    """[1, 3, S, S] on grey, with the points of the same stream."""
    scene, extent = module.scene, module.scene.extent
    origins, directions = camera.rays(VIEW.size)  # type: ignore[attr-defined]
    ends = torch.stack([(side - origins) / directions for side in (-extent, extent)])
    near = ends.amin(0).amax(-1).clamp(min=0)
    far = torch.maximum(ends.amax(0).amin(-1), near)
    n = VIEW.samples
    jitter = torch.rand((*near.shape, n), generator=g, dtype=near.dtype)
    step = ((far - near) / n)[..., None]
    points = (
        origins[..., None, :]
        + (near[..., None] + step * (torch.arange(n) + jitter))[..., None] * (directions[..., None, :])
    )
    flat = points.reshape(-1, 3)
    density, colour = scene(flat)
    h = scene.normal_step
    slope = torch.stack(
        [(scene(flat + h * e)[0] - scene(flat - h * e)[0]) / (2 * h) for e in torch.eye(3).double()], -1
    )
    normal = -slope / (slope.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    to_light = F.normalize(lights.place[0] - flat, dim=-1)
    shade = 0.1 + 0.9 * (normal * to_light).sum(-1, keepdim=True).clamp(min=0)
    colour = shade * (colour if float(lights.texture[0]) else torch.ones_like(colour))
    light = torch.exp(-(density.view(*step.shape[:-1], n) * step).cumsum(-1))
    before = torch.cat([torch.ones_like(light[..., :1]), light[..., :-1]], -1)
    image = ((before - light)[..., None] * colour.view(*light.shape, 3)).sum(-2) + 0.5 * light[..., -1:]
    return image.movedim(-1, 1)


def test_the_mean_over_all_timesteps_is_exact_for_a_lit_render() -> None:
    """The scene's gradient for one camera and one light, over 400 replicates of 4 strata each, against
    Jᵀ of the closed form, within 4 SE (two coordinates: 1e-4 for a false alarm)."""
    levels = TimestepRange.of_shares(SCHEDULE, 0.1, 0.9)
    sampler = NoiseLevelSampler(levels.proposal("sds", 0.1), "stratified")
    ball, camera = Ball(20.0, 0.5, 0.1), cameras()
    lights = Lights(
        *(v.double() for v in (torch.tensor([[0.9, 1.0, 0.4]]), *torch.tensor([[0.1], [0.9], [1.0]])))
    )
    mean, variance = torch.linspace(-1, 1, DIM).double(), torch.linspace(0.2, 1.5, DIM).double()
    teacher = GaussianDenoiser(mean, variance)

    def render() -> Tensor:
        image = ball.render(camera, 6, 30, background="white", lights=lights).image
        return (2 * image - 1).flatten()[40 : 40 + DIM][None]

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        return sds_residual(teacher, x, levels.sigma(u), eps, None, "sds")[0]

    x, g = render(), torch.Generator().manual_seed(3)
    parameters = list(ball.parameters())
    rows = [torch.autograd.grad(v, parameters, retain_graph=True) for v in x[0]]
    jacobian = torch.stack([torch.stack(row) for row in rows])
    fixed = x.detach()
    found = torch.stack(
        [
            average_residual(residual, fixed, sampler.draw(1, 4, (DIM,), g, dtype=x.dtype))[0] @ jacobian
            for _ in range(400)
        ]
    )
    sigma = levels.levels[:, None]
    slopes = timestep_weight(sigma, "sds") * sigma * (fixed - mean) / (variance + sigma.square())
    exact = slopes.mean(0) @ jacobian
    assert exact.abs().min() > 1e-6
    assert ((found.mean(0) - exact).abs() < 4 * found.std(0) / 20).all()


def test_a_render_and_its_light_are_the_same_for_all_draws(make_module: Make) -> None:
    """x comes from the streams alone: of one step twice the same, of another stream or step another."""
    module = make_module(view=LIT)
    o = module.objective
    camera = o.cameras(2, stream("camera"))
    one, again, other = (o.upstream(camera, stream(name), 0)[0].x for name in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    lights = [o.lights(camera, stream(name), 0) for name in ("a", "b")]
    assert not torch.equal(lights[0].place, lights[1].place)  # type: ignore[union-attr]


def test_ranks_have_lights_of_their_own(make_module: Make) -> None:
    module = make_module(view=LIT)
    cameras = [module.objective.cameras(2, module.streams(rank, "sds", 3)[0]) for rank in (0, 1)]
    lights = [module.objective.lights(cameras[0], module.streams(rank, "sds", 3)[0], 3) for rank in (0, 0, 1)]
    assert all(light is not None for light in lights)
    places = [light.place for light in lights if light is not None]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


def test_before_its_step_nothing_is_lit_and_all_is_as_without(make_module: Make) -> None:
    late = replace(VIEW, shading=ShadingOptions(lambertian=1.0, from_step=2))
    states = []
    for view in (VIEW, late):
        for steps in (2, 3):
            module = fit(make_module(view=view), steps)
            states.append(torch.cat([p.detach().flatten() for p in module.scene.parameters()]))
    assert torch.equal(states[0], states[2])
    assert not torch.equal(states[1], states[3])


def test_orientation_counts_as_scheduled_with_and_without_light(make_module: Make) -> None:
    module = make_module(orientation=[0, 0.0, 10.0, 10], sparsity=0.0)
    o, camera = module.objective, module.objective.cameras(1, stream("c"))
    assert o.lights(camera, stream("r"), 0) is None
    seen = o.rendered(camera, stream("r"), 5)
    assert seen.orientation is not None
    assert torch.allclose(o.regulariser(seen, 5), 5 * seen.orientation.mean())
    assert torch.equal(seen.image, o.rendered(camera, stream("r"), 0).image)
    assert float(o.regulariser(o.rendered(camera, stream("r"), 0), 0)) == 0
    o.regulariser(seen, 5).backward()
    assert float(module.scene.density[1].grad.norm()) > 0  # type: ignore[union-attr]
    assert not module.scene.colour[1].grad.any()  # type: ignore[union-attr]
