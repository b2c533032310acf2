"""One step of text-to-3D: the textbook's gradient, memory, annealing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from carv_distill.carv import AdaptiveProposal, Draws, average_residual, stream, surrogate
from carv_distill.engine.callbacks import StopOnNonFinite
from carv_distill.errors import UserError
from carv_distill.text_to_3d.module import SDSModule
from tests.helpers.loops import fit
from tests.helpers.sds_modules import build_module
from tests.helpers.tiny_pipelines import save_sd3, save_sdxl

Make = Callable[..., SDSModule]


def gradient(module: SDSModule) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.scene.parameters()])


def test_one_draw_gives_the_textbook_gradient(make_module: Make) -> None:
    """R = K = 1 at a given (t, ε): J(z)ᵀ (1 − ᾱ_t) (ε̂_∅ + s (ε̂_y − ε̂_∅) − ε), z_t = √ᾱ z + √(1 − ᾱ) ε."""
    module = make_module(upstream=1, draws=1, proposal="uniform", guidance=7.5)
    teacher = module.objective.teacher
    cameras = module.objective.camera_sampler.sample(1, stream("camera"))
    t, levels = 30, module.objective.levels.range_at(0)
    eps = torch.randn(1, 1, 4, 4, 4, generator=stream("noise"))
    u = torch.tensor([[(t - levels.first + 0.5) / levels.count]])

    def latents() -> torch.Tensor:
        g = stream("render")
        return module.objective.encoded(module.objective.rendered(cameras, g), g)

    x = latents()
    residual = module.objective.residual(module.objective.conditions(cameras), 0)
    surrogate(x, average_residual(residual, x, Draws(u, torch.ones(1, 1), eps))).backward()
    ours = gradient(module)
    for p in module.scene.parameters():
        p.grad = None

    kept = 1 / (1 + teacher.schedule.table[t] ** 2)  # ᾱ_t
    kept = kept.float()
    z = latents()
    z_t = (kept.sqrt() * z + (1 - kept).sqrt() * eps[:, 0]).detach()
    view = module.objective.conditions(cameras).embeddings
    with torch.no_grad():
        own, none = (
            teacher.network.model(z_t, t, encoder_hidden_states=c).sample
            for c in (view, module.objective.denoiser.null.value.embeddings[None])
        )
    grad = (1 - kept) * (none + 7.5 * (own - none) - eps[:, 0])
    z.backward(grad)
    theirs = gradient(module)
    assert theirs.norm() > 0
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_one_draw_gives_the_textbook_gradient_in_pixels(make_pixel_module: Make) -> None:
    """R = K = 1 at a given (t, ε), x the render in [−1, 1]: (∂x/∂θ)ᵀ (1 − ᾱ_t) (ε̂_∅ + s (ε̂_y − ε̂_∅) − ε),
    x_t = √ᾱ x + √(1 − ᾱ) ε, ε̂ the first half of the network's channels, ᾱ of DeepFloyd's cosine betas."""
    module = make_pixel_module(upstream=1, draws=1, proposal="uniform", guidance=20.0)
    cameras = module.objective.camera_sampler.sample(1, stream("camera"))
    t, levels = 30, module.objective.levels.range_at(0)
    eps = torch.randn(1, 1, 3, 8, 8, generator=stream("noise"))
    u = torch.tensor([[(t - levels.first + 0.5) / levels.count]])

    x = module.objective.encoded(module.objective.rendered(cameras, stream("render")), stream("encode"))
    residual = module.objective.residual(module.objective.conditions(cameras), 0)
    surrogate(x, average_residual(residual, x, Draws(u, torch.ones(1, 1), eps))).backward()
    ours = gradient(module)
    for p in module.scene.parameters():
        p.grad = None

    kept = DDPMScheduler(50, beta_schedule="squaredcos_cap_v2").alphas_cumprod[t]  # ᾱ_t
    pixels = 2 * module.objective.rendered(cameras, stream("render")).image - 1
    x_t = (kept.sqrt() * pixels + (1 - kept).sqrt() * eps[:, 0]).detach()
    view = module.objective.conditions(cameras).embeddings
    with torch.no_grad():
        own, none = (
            module.objective.teacher.network.model(x_t, t, encoder_hidden_states=c).sample.chunk(2, dim=1)[0]
            for c in (view, module.objective.denoiser.null.value.embeddings[None])
        )
    pixels.backward((1 - kept) * (none + 20.0 * (own - none) - eps[:, 0]))
    theirs = gradient(module)
    assert theirs.norm() > 0
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("t", [30, 49])
def test_one_draw_gives_the_textbook_gradient_of_a_flow(t: int, tmp_path: Path) -> None:
    """R = K = 1 at x_t = (1 − t) z + t ε, SD3 with guidance 7.5: J(z)ᵀ w (ε̂ − ε), ε̂ = x_t + (1 − t) v,
    w = 1 − ᾱ = t²/((1 − t)² + t²); the last timestep is pure noise, where ε̂ = ε."""
    module = build_module(
        save_sd3(tmp_path), 1, 1, proposal="uniform", guidance=7.5, t_max=1.0, t_max_end=1.0
    )
    teacher = module.objective.teacher
    cameras, levels = module.objective.camera_sampler.sample(1, stream("camera")), module.objective.levels
    first, count = levels.range_at(0).first, levels.range_at(0).count
    eps = torch.randn(1, 1, 4, 4, 4, generator=stream("noise"))
    u = torch.tensor([[(t - first + 0.5) / count]])

    def latents() -> torch.Tensor:
        g = stream("render")
        return module.objective.encoded(module.objective.rendered(cameras, g), g)

    cond = module.objective.conditions(cameras)
    x = latents()
    residual = module.objective.residual(cond, 0)
    surrogate(x, average_residual(residual, x, Draws(u, torch.ones(1, 1), eps))).backward()
    ours = gradient(module)
    for p in module.scene.parameters():
        p.grad = None

    scheduler = FlowMatchEulerDiscreteScheduler(50, shift=3.0)
    time, told = scheduler.sigmas[49 - t], scheduler.timesteps[49 - t]
    z, null = latents(), teacher.prompts.null()
    z_t = ((1 - time) * z + time * eps[:, 0]).detach()
    with torch.no_grad():
        own, none = (
            teacher.network.model(z_t, c.embeddings, c.pooled, told[None]).sample for c in (cond, null)
        )
    velocity = none + 7.5 * (own - none)
    weight = time**2 / ((1 - time) ** 2 + time**2)
    z.backward(weight * (z_t + (1 - time) * velocity - eps[:, 0]))
    theirs = gradient(module)
    assert (theirs.norm() > 0) == (t < 49)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()) + 1e-9)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_one_draw_gives_the_textbook_gradient_of_sdxl(guidance: float, tmp_path: Path) -> None:
    """As Stable Diffusion's, with pooled embeddings and sizes, and zeros for no prompt."""
    module = build_module(save_sdxl(tmp_path), 1, 1, proposal="uniform", guidance=guidance)
    cameras, levels = module.objective.camera_sampler.sample(1, stream("camera")), module.objective.levels
    t, first, count = 30, levels.range_at(0).first, levels.range_at(0).count
    eps = torch.randn(1, 1, 4, 4, 4, generator=stream("noise"))
    u = torch.tensor([[(t - first + 0.5) / count]])

    def latents() -> torch.Tensor:
        g = stream("render")
        return module.objective.encoded(module.objective.rendered(cameras, g), g)

    cond = module.objective.conditions(cameras)
    x = latents()
    residual = module.objective.residual(cond, 0)
    surrogate(x, average_residual(residual, x, Draws(u, torch.ones(1, 1), eps))).backward()
    ours = gradient(module)
    for p in module.scene.parameters():
        p.grad = None

    kept = DDPMScheduler(50, 0.00085, 0.012, "scaled_linear").alphas_cumprod[t]
    z = latents()
    z_t = (kept.sqrt() * z + (1 - kept).sqrt() * eps[:, 0]).detach()
    sizes = torch.tensor([[8.0, 8, 0, 0, 8, 8]])
    assert cond.pooled is not None
    rows = [(cond.embeddings, cond.pooled), (torch.zeros_like(cond.embeddings), torch.zeros(1, 8))]
    with torch.no_grad():
        own, none = (
            module.objective.teacher.network.model(
                z_t, t, words, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
            ).sample
            for words, pooled in rows
        )
    z.backward((1 - kept) * (none + guidance * (own - none) - eps[:, 0]))
    theirs = gradient(module)
    assert theirs.norm() > 0
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("save", [save_sdxl, save_sd3])
@pytest.mark.parametrize("proposal", ["uniform", "weighting"])
def test_other_teachers_train_a_field(save: Callable[[Path], Path], proposal: str, tmp_path: Path) -> None:
    """Two steps on all timesteps, a flow's pure noise among them, with a learned coefficient."""
    more = {"proposal": proposal, "coefficient": "learned", "t_max": 1.0, "t_max_end": 1.0}
    module = build_module(save(tmp_path), 2, 3, **more)
    before = [p.clone() for p in module.scene.parameters()]
    fit(module, 2)
    for old, p in zip(before, module.scene.parameters(), strict=True):
        assert p.isfinite().all()
        assert not torch.equal(old, p)


def test_renders_one_after_the_other_give_the_same_step(make_module: Make) -> None:
    """Memory is flat in R: the same draws, two renders at once or one, give one gradient up to rounding.

    Jitter and posterior noise come in turn from one stream, which the order of renders would change: the test
    takes the middles of the rays' parts, and the posterior's mean.
    """
    grads = []
    for at_once in (1, 4):
        module = make_module(upstream=4, draws=2, renders_at_once=at_once)
        module.objective.rendered = lambda cameras, g, step, m=module: _middle(m, cameras)  # type: ignore[method-assign]
        module.objective.encoded = lambda seen, g, m=module: (
            m.objective.teacher.codec.vae.encode(2 * seen.image - 1).latent_dist.mean
        )  # type: ignore[method-assign]
        fit(module, 1)
        grads.append(gradient(module))
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-6 * float(grads[0].abs().max()))


def _middle(module: SDSModule, cameras: object) -> object:
    return module.scene.render(cameras, module.objective.view.size, module.objective.view.samples)  # type: ignore[arg-type]


def test_the_field_alone_learns_and_is_kept(make_module: Make) -> None:
    module = make_module()
    before = [p.clone() for p in module.scene.parameters()]
    networks = {n: p.clone() for n, p in module.named_parameters() if not n.startswith("objective.scene.")}
    fit(module, 2)
    assert all(not torch.equal(a, b) for a, b in zip(before, module.scene.parameters(), strict=True))
    assert all(torch.equal(p, networks[n]) for n, p in module.named_parameters() if n in networks)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert all(k.startswith("objective.scene.") for k in checkpoint["state_dict"])


def test_two_trainings_are_equal_to_the_bit(make_module: Make) -> None:
    one, two = (fit(make_module(coefficient="learned"), 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.scene.parameters(), two.scene.parameters(), strict=True))


def test_annealing_lowers_the_greatest_level_and_makes_the_proposal_anew(make_module: Make) -> None:
    module = make_module(t_max=0.98, t_max_end=0.5)
    first, last = module.objective.levels.range_at(0), module.objective.levels.range_at(9)
    assert (first.last, last.last) == (49, 25)
    for step, levels in ((0, first), (9, last)):
        q = module.objective.levels.sampler_at(step).proposal
        assert q.bins == levels.count
        assert torch.allclose(q.mass, levels.proposal("sds", 0.0).mass)
    assert module.objective.levels.sampler_at(9) is module.objective.levels.sampler_at(
        9
    )  # kept while the range stays


def test_an_adaptive_proposal_learns_from_past_steps(make_module: Make) -> None:
    module = make_module(adaptive=AdaptiveProposal(4, 0.1, refresh=1), proposal="uniform")
    fit(module, 3)
    mass = module.objective.levels.sampler_at(3).proposal.mass
    assert mass.numel() == module.objective.levels.range_at(3).count
    assert mass.unique().numel() == 4
    assert mass.max() - mass.min() > 1e-3


def test_a_clipped_direction_is_the_average_shortened(make_module: Make) -> None:
    free, clipped = make_module(upstream=1), make_module(upstream=1, clip_direction=1e-3)
    fit(free, 1)
    fit(clipped, 1)
    assert float(clipped.latest_losses["scene"]) == pytest.approx(1e-3, rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(gradient(free), gradient(clipped), dim=0)
    assert float(cosine) > 0.9999


def test_prompts_follow_the_view_and_the_text_model_is_let_go(make_module: Make) -> None:
    module = make_module()
    assert module.objective.teacher.prompts.text_models is None
    prompts = module.objective.prompts.value.embeddings
    assert prompts.shape[0] == 4
    assert not torch.equal(prompts[0], prompts[1])
    plain = make_module(view_prompts=False).objective.prompts.value.embeddings
    assert torch.equal(plain[0], plain[1])


def test_regularisers_are_their_formulas(make_module: Make) -> None:
    module = make_module(sparsity=2.0, opaque=3.0, smoothness=5.0, colour_smoothness=0.5)
    with torch.no_grad():
        module.scene.density[1][..., 1::2] = 1.0
        module.scene.colour[1][..., 1::2] = 2.0
    seen = module.objective.rendered(module.objective.camera_sampler.sample(1, stream("c")), stream("r"))
    o = seen.opacity
    inside = o.clamp(1e-3, 1 - 1e-3)
    entropy = -(inside * inside.log() + (1 - inside) * (1 - inside).log())
    wanted = 2 * (o.square() + 0.01).sqrt().mean() + 3 * entropy.mean() + 5 * 1.0 + 0.5 * 4.0
    assert torch.allclose(module.objective.regulariser(seen, 0), wanted)


def spoil(module: SDSModule, bad: Callable[[int, torch.Tensor], torch.Tensor], value: float) -> None:
    """Replaces one entry of ε̂ of some draws of a step; `bad`: (step, index of the render) → bool."""
    original = module.objective.denoiser.predict_noise

    def predict_noise(x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor, cond: object) -> torch.Tensor:
        predicted = original(x, sigma, eps, cond).clone()
        predicted[bad(module.global_step, torch.arange(len(x))), 0, 0, 0] = value
        return predicted

    module.objective.denoiser.predict_noise = predict_noise  # type: ignore[method-assign]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_draw_that_is_not_finite_does_not_spoil_the_field(make_module: Make, value: float) -> None:
    """It spoils the field in one step where it is kept. Adaptive proposal and coefficient learn on."""
    module = make_module(
        adaptive=AdaptiveProposal(4, 0.1, refresh=1), proposal="uniform", coefficient="learned"
    )
    spoil(module, lambda step, row: (row == 1) & (step < 2), value)
    fit(module, 3)
    assert all(p.isfinite().all() for p in module.scene.parameters())
    assert float(module.metrics()["nonfinite/draws"]) == 2
    assert float(module.metrics()["nonfinite/skipped_steps"]) == 0
    kept = make_module()
    spoil(kept, lambda step, row: row == 1, value)
    kept.objective.finite = None  # type: ignore[assignment]
    kept.skips.skip = lambda *_: torch.zeros(())  # type: ignore[method-assign]
    fit(kept, 1)
    assert sum(int(p.isnan().sum()) for p in kept.scene.parameters()) > 100


def test_a_step_without_a_finite_draw_is_left_out(make_module: Make) -> None:
    """The field after good, spoiled, good is that of the good steps alone; moments, too."""
    module, before = make_module(sparsity=1.0), []
    spoil(module, lambda step, row: (row >= 0) & (step == 1), float("nan"))
    original = module.training_step

    def training_step(batch: object, batch_idx: int) -> None:
        before.append([p.detach().clone() for p in module.scene.parameters()])
        original(batch, batch_idx)

    module.training_step = training_step  # type: ignore[method-assign]
    fit(module, 3)
    assert all(map(torch.equal, before[1], before[2]))
    assert not all(map(torch.equal, before[0], before[1]))
    assert not all(map(torch.equal, before[2], module.scene.parameters()))
    assert [float(v) for v in module.skips.counts.values()] == [6, 1, 0, 1]
    module.check()


def test_a_row_of_steps_without_a_finite_draw_ends_the_run_with_advice(make_module: Make) -> None:
    module = make_module(max_skips=2)
    spoil(module, lambda step, row: row >= 0, float("nan"))
    fit(module, 1)
    module.check()
    fit(module, 2)
    with pytest.raises(
        UserError, match=r"^3 steps in a row .*use teacher.precision=float32, a lower sds.guid"
    ):
        module.check()
    checkpoint = {"state_dict": {}}
    module.on_save_checkpoint(checkpoint)
    assert float(checkpoint["skips"]["longest"]) == 3


def test_a_run_stops_at_the_step_that_is_one_too_many(make_module: Make) -> None:
    """Where the host looks: after every step on a CPU, so at the third of three, and not before."""
    module = make_module(max_skips=3)
    spoil(module, lambda step, row: (row >= 0) & (step >= 1), float("inf"))
    with pytest.raises(UserError, match=r"^3 steps in a row"):
        fit(module, 9, StopOnNonFinite(5))
    assert module.global_step == 4


def test_renders_that_are_not_finite_are_left_out(make_module: Make) -> None:
    """A NaN in x itself reaches the field through the backward, whatever the direction: no step."""
    module = make_module()
    original = module.objective.encoded
    module.objective.encoded = lambda seen, g: original(seen, g) * torch.nan  # type: ignore[method-assign]
    before = [p.detach().clone() for p in module.scene.parameters()]
    fit(module, 2)
    assert all(map(torch.equal, before, module.scene.parameters()))
    assert float(module.skips.counts["longest"]) == 2
