"""Interval score matching: the inversion written out, and the mean over all noise levels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import DDIMInverseScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, average_residual, stream
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser
from carv_distill.text_to_3d.guidance.ism import IntervalScore
from carv_distill.text_to_3d.guidance.options import ISMOptions
from carv_distill.text_to_3d.guidance.residual import guided_residual
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange, timestep_weight
from carv_distill.text_to_3d.module import SDSModule
from tests.helpers.gaussian_network import DIM, F64, NEGATIVE, NONE, OWN, SCHEDULE, gaussian_teacher
from tests.helpers.gaussian_network import mean_prediction as prediction
from tests.helpers.sds_modules import build_module
from tests.helpers.tiny_pipelines import save_sd3

Make = Callable[..., SDSModule]
SCALE = 7.5
SETTINGS = [ISMOptions(0.05, 0.2), ISMOptions(0.08, 0.07), ISMOptions(0.3, 1.0), ISMOptions(0.001, 0.001)]


def denoiser(options: ISMOptions) -> IntervalScore:
    guided = GuidedDenoiser(gaussian_teacher(), SCALE, torch.tensor(NEGATIVE))
    return IntervalScore(guided, torch.tensor(NONE), SCHEDULE, options)


def written_out(x: Tensor, t: int, eps: Tensor, options: ISMOptions) -> Tensor:
    """Algorithm 1 of one x, in x_a = x + σ_a ε: x_b = x_a + (σ_b − σ_a) ε̂(x_a, a, ∅)."""
    sigma = SCHEDULE.table
    interval, stride = max(1, round(100 * options.interval)), max(1, round(100 * options.stride))
    s = max(t - interval, 0)
    grid = [*range(0, s, stride), s]
    at = x + sigma[0] * eps
    for a, b in pairwise(grid):
        at = at + (sigma[b] - sigma[a]) * prediction(at, sigma[a], NONE)
    none = prediction(at, sigma[s], NONE)
    at = at + (sigma[t] - sigma[s]) * none
    own, away = (prediction(at, sigma[t], label) for label in (OWN, NEGATIVE))
    return away + SCALE * (own - away) - none


@pytest.mark.parametrize("options", SETTINGS)
def test_every_timestep_has_the_formula(options: ISMOptions) -> None:
    """All 100 at once, in any order: each row has its grid. A negative prompt is guidance's alone."""
    g = stream("ism")
    t = torch.randperm(100, generator=g)
    x, eps = (torch.randn(100, DIM, generator=g, dtype=F64) for _ in range(2))
    found = denoiser(options).predict_noise(x, SCHEDULE.table[t], eps, torch.full((100,), OWN))
    exact = torch.stack([written_out(x[i], int(t[i]), eps[i], options) for i in range(100)])
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_float32_is_close() -> None:
    t = torch.arange(100)
    x, eps = (torch.randn(100, DIM, generator=stream(i), dtype=F64) for i in range(2))
    cond, options = torch.full((100,), OWN), SETTINGS[0]
    exact = denoiser(options).predict_noise(x, SCHEDULE.table[t], eps, cond)
    found = denoiser(options).predict_noise(x.float(), SCHEDULE.table[t].float(), eps.float(), cond)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("by_weight", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "strategy", [*(pytest.param(s, marks=pytest.mark.slow) for s in ("iid", "stratified")), "nested"]
)
def test_the_mean_is_exact(strategy: str, by_weight: bool) -> None:
    """The exact network is affine in x_0 = x + σ_0 ε, so the mean over ε is the term of ε = 0: 1/M Σ_t w(t)
    e(t). 300 steps of (3, 4), t of 10 … 90, within 4 SE in every coordinate (18 of them: 1e-3 for a false
    alarm)."""
    steps, options, levels = 300, SETTINGS[0], TimestepRange.of_shares(SCHEDULE, 0.1, 0.9)
    q = levels.proposal("sds", 0.1) if by_weight else Proposal.uniform(levels.count)
    sampler, g = NoiseLevelSampler(q, strategy), stream("mean", strategy)
    x = torch.randn(3, DIM, generator=stream("x"), dtype=F64)
    residual = guided_residual(denoiser(options), levels, "sds", torch.full((3,), OWN), 0, constant=0.0)  # type: ignore[arg-type]
    draws = (sampler.draw(3, 4, (DIM,), g, dtype=F64) for _ in range(steps))
    found = torch.stack([average_residual(residual, x, d) for d in draws])
    exact = torch.zeros(3, DIM, dtype=F64)
    for t in range(levels.first, levels.last + 1):
        weight = timestep_weight(SCHEDULE.table[t], "sds") / levels.count
        exact += weight * written_out(x, t, torch.zeros(3, DIM, dtype=F64), options)
    se = found.std(0) / steps**0.5
    assert ((found.mean(0) - exact).abs() < 4 * se).all()
    assert (exact.abs() > 8 * se).any()


def test_a_chunk_does_not_change_the_mean_over_draws() -> None:
    """Rows are sorted by their steps inside a call, and come back to their places."""
    levels = TimestepRange.of_shares(SCHEDULE, 0.02, 0.98)
    x = torch.randn(2, DIM, generator=stream("x"), dtype=F64)
    residual = guided_residual(denoiser(SETTINGS[1]), levels, "sds", torch.full((2,), OWN), 0, constant=0.0)  # type: ignore[arg-type]
    draws = NoiseLevelSampler(Proposal.uniform(levels.count)).draw(2, 8, (DIM,), stream("d"), dtype=F64)
    whole, parts = (average_residual(residual, x, draws, chunk) for chunk in (None, 3))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)


def test_predictions_of_a_draw_are_as_many_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """⌈s/δ_S⌉ + 1 without a prompt, and two of guidance: 3 to 8 at the published settings."""
    rows: list[int] = []
    original = NetworkDenoiser.raw

    def raw(self: NetworkDenoiser, y: Tensor, *given: object) -> Tensor:
        rows.append(len(y))
        return original(self, y, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(NetworkDenoiser, "raw", raw)
    for t, calls in ((2, 3), (5, 3), (6, 4), (25, 4), (26, 5), (99, 8)):
        rows.clear()
        x = torch.zeros(1, DIM, dtype=F64)
        denoiser(SETTINGS[0]).predict_noise(x, SCHEDULE.table[t : t + 1], x, torch.tensor([OWN]))
        assert sum(rows) == calls
    rows.clear()
    x, t = torch.zeros(2, DIM, dtype=F64), torch.tensor([6, 99])
    denoiser(SETTINGS[0]).predict_noise(x, SCHEDULE.table[t], x, torch.full((2,), OWN))
    assert sum(rows) == 4 + 8  # rows that are there cost nothing


def test_an_inversion_is_that_of_diffusers(make_module: Make) -> None:
    """x_s of a tiny Stable Diffusion, s a multiple of δ_S, by DDIMInverseScheduler's steps over the same
    timesteps; and the residual by the UNet's own calls."""
    module = make_module(
        objective="ism", guidance=SCALE, negative_prompt="blue cube", ism=ISMOptions(0.1, 0.2)
    )
    o, teacher = module.objective, module.objective.teacher
    unet, score = teacher.network.model, o.denoiser
    assert isinstance(score, IntervalScore)
    none = make_module(guidance=SCALE).objective.denoiser.null.value.embeddings[None]
    away = score.null.value.embeddings[None]  # type: ignore[union-attr]
    assert not torch.equal(none, away)
    x, eps = (torch.randn(1, 4, 4, 4, generator=stream(i)) for i in range(2))
    kept = (1 / (1 + teacher.schedule.table**2)).float()
    scheduler = DDIMInverseScheduler(50, 0.00085, 0.012, "scaled_linear", clip_sample=False)
    torch.testing.assert_close(scheduler.alphas_cumprod, kept, rtol=1e-5, atol=1e-6)
    scheduler.set_timesteps(5)  # strides of 10
    y = kept[0].sqrt() * x + (1 - kept[0]).sqrt() * eps
    for after in (10, 20, 30):
        with torch.no_grad():
            noise = unet(y, after - 10, encoder_hidden_states=none).sample
        y = scheduler.step(noise, after, y).prev_sample
    found = score.inverted(x, torch.tensor([30]), eps)
    torch.testing.assert_close(found, y, rtol=1e-3, atol=1e-4)

    cond, levels, t = o.prompts.value, o.levels.range_at(0), 35
    u = torch.tensor([(t - levels.first + 0.5) / levels.count])
    residual = o.residual(cond, 0)(x, u, eps, torch.tensor([2]))  # type: ignore[arg-type]
    with torch.no_grad():
        noise = unet(y, 30, encoder_hidden_states=none).sample
        clean = (y - (1 - kept[30]).sqrt() * noise) / kept[30].sqrt()
        y = kept[t].sqrt() * clean + (1 - kept[t]).sqrt() * noise
        own, led = (
            unet(y, t, encoder_hidden_states=words).sample
            for words in (cond.embeddings[2:3], away)  # type: ignore[union-attr]
        )
    exact = (1 - kept[t]) * (led + SCALE * (own - led) - noise)
    torch.testing.assert_close(residual, exact, rtol=2e-3, atol=2e-4)


def test_a_flow_is_inverted_along_its_straight_path(tmp_path: Path) -> None:
    """x_b = x_a + (t_b − t_a) v(x_a), up to its last timestep, which is pure noise: finite there."""
    module = build_module(save_sd3(tmp_path), objective="ism", guidance=SCALE, ism=ISMOptions(0.1, 0.3))
    o, teacher = module.objective, module.objective.teacher
    score = o.denoiser
    assert isinstance(score, IntervalScore)
    x, eps = (torch.randn(1, 4, 4, 4, generator=stream(i)) for i in range(2))
    scheduler = FlowMatchEulerDiscreteScheduler(50, shift=3.0)
    time = scheduler.sigmas.flip(0)
    null = score.none.value
    y, grid = (1 - time[0]) * x + time[0] * eps, [0, 15, 30, 38]
    for a, b in pairwise(grid):
        with torch.no_grad():
            v = teacher.network.model(y, null.embeddings[None], null.pooled[None], 50 * time[a][None]).sample  # type: ignore[union-attr]
        y = y + (time[b] - time[a]) * v
    torch.testing.assert_close(score.inverted(x, torch.tensor([38]), eps), y, rtol=1e-3, atol=1e-4)
    last = teacher.schedule.table[-1:].float()
    assert last.isinf()
    assert score.predict_noise(x, last, eps, o.prompts.value[:1]).isfinite().all()  # type: ignore[index]
