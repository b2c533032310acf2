"""Perp-Neg: its weights and directions written out, and its mean over all noise levels and noises."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, average_residual, stream
from carv_distill.geometry.camera import VIEWS, Cameras
from carv_distill.teachers.condition import Condition
from carv_distill.text_to_3d.guidance.perp_neg import PerpNeg, ViewCondition, between_views, perpendicular
from carv_distill.text_to_3d.guidance.residual import guided_residual
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange, timestep_weight
from carv_distill.text_to_3d.module import SDSModule
from tests.helpers.gaussian_network import DIM, F64, SCHEDULE, PromptedNetwork, gaussian_teacher

Make = Callable[..., SDSModule]
SCALE = 7.5
FRONT, SIDE, BACK, OVERHEAD = (VIEWS.index(view) for view in ("front", "side", "back", "overhead"))
AZIMUTHS = (0.0, 30.0, -30.0, 89.0, 90.0, -90.0, 120.0, 179.0, 180.0, 270.0, 359.0, 45.0)
MEANS = torch.randn(5, DIM, generator=stream("means"), dtype=F64)
"""Of the four views, and of no prompt."""


def cameras(*azimuths: float, elevation: float = 15.0) -> Cameras:
    turned = torch.tensor(azimuths, dtype=F64).deg2rad()
    one = torch.ones_like(turned)
    return Cameras(turned, math.radians(elevation) * one, 2 * one, one)


def embedded(variances: Tensor) -> Condition:
    """Embeddings [5, 1, 2 DIM] that the exact network reads as (μ, s²)."""
    return Condition(torch.cat([MEANS, variances], 1)[:, None])


def weights_of(azimuth: float) -> tuple[tuple[int, int, float], list[tuple[int, float]]]:
    """(first, second, r) of the prompt r first + (1 − r) second, and (negative, weight) of two, as
    threestudio has them; degrees in [−180, 180]."""
    turned = abs((azimuth + 180) % 360 - 180)
    if turned < 90:
        r = 1 - turned / 90
        fs, sf = (4 * math.exp(-0.5 * share) - 2.426 for share in (r, 1 - r))
        return (FRONT, SIDE, r), [(FRONT, -fs), (SIDE, -sf)]
    r = 2 - turned / 90
    sb, fsb = math.exp(-0.5 * r) - 0.606, math.exp(-0.5 * r) + 0.967
    return (SIDE, BACK, r), [(SIDE, -sb), (FRONT, -fsb)]


def test_conditions_go_over_from_view_to_view() -> None:
    prompts = embedded(torch.rand(5, DIM, generator=stream("s"), dtype=F64))
    found = between_views(prompts, cameras(*AZIMUTHS))
    for i, azimuth in enumerate(AZIMUTHS):
        (first, second, r), negatives = weights_of(azimuth)
        exact = r * prompts.embeddings[first] + (1 - r) * prompts.embeddings[second]
        torch.testing.assert_close(found.embeddings[i], exact, rtol=1e-12, atol=1e-12)
        for j, (view, weight) in enumerate(negatives):
            assert torch.equal(found.negatives[j].embeddings[i], prompts.embeddings[view])
            assert float(found.weights[i, j]) == pytest.approx(weight, abs=1e-12)  # type: ignore[index]


def test_a_view_from_overhead_is_led_away_from_nothing() -> None:
    prompts = embedded(torch.ones(5, DIM, dtype=F64))
    found = between_views(prompts, cameras(*AZIMUTHS, elevation=70.0))
    assert found.weights is not None
    assert not found.weights.any()
    assert torch.equal(found.embeddings, prompts.embeddings[[OVERHEAD] * len(AZIMUTHS)])


def test_numbers_of_the_weights() -> None:
    """By a calculator: the front leads away from the side by 1.574, the back from the front by 1.967."""
    front, side, back = between_views(embedded(torch.ones(5, DIM, dtype=F64)), cameras(0, 90, 180)).weights  # type: ignore[misc]
    torch.testing.assert_close(front, torch.tensor([-0.0001226, -1.574], dtype=F64), rtol=0, atol=1e-6)
    torch.testing.assert_close(side, torch.tensor([-0.0005307, -1.5735307], dtype=F64), rtol=0, atol=1e-6)
    torch.testing.assert_close(back, torch.tensor([-0.394, -1.967], dtype=F64), rtol=0, atol=1e-6)


def test_what_is_perpendicular() -> None:
    g = stream("perpendicular")
    x, y = (torch.randn(5, 3, 2, 2, generator=g, dtype=F64) for _ in range(2))
    y[4] = 0
    found = perpendicular(x, y)
    assert (found * y).flatten(1).sum(1).abs().max() < 1e-12
    along = (x - found).flatten(1)
    assert (torch.linalg.matrix_rank(torch.stack([along, y.flatten(1)], 1)) <= 1).all()
    assert torch.equal(found[4], x[4])


def mean_of_gaussian(x: Tensor, sigma: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return sigma * (x - mean) / (variance + sigma.square())


def written_out(predicted: Callable[[Tensor], Tensor], means: Tensor, azimuth: float) -> Tensor:
    """ε̂_∅ + s (d + Σ w_i (d_i − ⟨d_i, d⟩/⟨d, d⟩ d)) of one row from predictions by embeddings."""
    (first, second, r), negatives = weights_of(azimuth)
    none = predicted(means[4])
    d = predicted(r * means[first] + (1 - r) * means[second]) - none
    total = d.clone()
    for view, weight in negatives:
        e = predicted(means[view]) - none
        total = total + weight * (e - torch.dot(e, d) / torch.dot(d, d) * d)
    return none + SCALE * total


def test_every_azimuth_and_timestep_has_the_formula() -> None:
    """At 12 azimuths and all 100 timesteps, with variances of their own."""
    prompts = embedded(0.2 + torch.rand(5, DIM, generator=stream("s"), dtype=F64))
    denoiser = PerpNeg(gaussian_teacher(PromptedNetwork()), SCALE, prompts[4])
    conds = between_views(prompts, cameras(*AZIMUTHS))
    x, eps = (torch.randn(100, DIM, generator=stream(i), dtype=F64) for i in range(2))
    index = torch.arange(100) % len(AZIMUTHS)
    sigma = SCHEDULE.table
    found = denoiser.predict_noise(x, sigma, eps, conds[index])
    for t in range(100):
        level, azimuth = sigma[t], AZIMUTHS[int(index[t])]

        def predicted(embedding: Tensor, t: int = t, level: Tensor = level) -> Tensor:
            mean, variance = embedding.view(-1).chunk(2)
            return mean_of_gaussian(x[t] + level * eps[t], level, mean, variance)

        exact = written_out(predicted, prompts.embeddings, azimuth)
        torch.testing.assert_close(found[t], exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("strategy", "by_weight"), [("iid", False), ("stratified", True), ("nested", True)])
def test_the_mean_is_exact(strategy: str, by_weight: bool) -> None:
    """With one variance for all prompts d and d_i hold no noise, and E ε̂ is the formula at E ε̂_i. 600 steps
    of (3, 4), timesteps 10 … 90, within 4 SE in every coordinate (18 of them: 1e-3 for a false alarm)."""
    variance = torch.linspace(0.3, 0.9, DIM, dtype=F64)
    prompts = embedded(variance.expand(5, DIM))
    denoiser = PerpNeg(gaussian_teacher(PromptedNetwork()), SCALE, prompts[4])
    azimuths = (20.0, 130.0, -75.0)
    conds = between_views(prompts, cameras(*azimuths))
    levels, g = TimestepRange.of_shares(SCHEDULE, 0.1, 0.9), stream("mean", strategy)
    x = torch.randn(3, DIM, generator=stream("x"), dtype=F64)
    sampler = NoiseLevelSampler(levels.proposal("sds" if by_weight else "uniform", 0.1), strategy)
    residual = guided_residual(denoiser, levels, "sds", conds, 0)
    draws = (sampler.draw(3, 4, (DIM,), g, dtype=F64) for _ in range(600))
    found = torch.stack([average_residual(residual, x, d) for d in draws])
    exact = torch.zeros(3, DIM, dtype=F64)
    for row, azimuth in enumerate(azimuths):
        for sigma in levels.levels:

            def predicted(embedding: Tensor, row: int = row, sigma: Tensor = sigma) -> Tensor:
                return mean_of_gaussian(x[row], sigma, embedding.view(-1).chunk(2)[0], variance)

            weight = timestep_weight(sigma, "sds") / levels.count
            exact[row] += weight * written_out(predicted, prompts.embeddings, azimuth)
    se = found.std(0) / 600**0.5
    assert ((found.mean(0) - exact).abs() < 4 * se).all()
    assert (exact.abs() > 8 * se).any()


def test_a_condition_of_views_keeps_its_rows_together() -> None:
    """Picked, moved and cast as a whole; a denoiser of no views refuses others."""
    prompts = embedded(torch.ones(5, DIM, dtype=F64))
    conds = between_views(prompts, cameras(0.0, 120.0))
    picked = conds[torch.tensor([1, 1, 0])].to(torch.float32)
    assert isinstance(picked, ViewCondition)
    assert picked.weights is not None
    assert picked.weights.dtype == picked.negatives[1].embeddings.dtype == torch.float32
    assert torch.equal(picked.negatives[0].embeddings[2], conds.negatives[0].embeddings[0].float())
    denoiser = PerpNeg(gaussian_teacher(PromptedNetwork()), SCALE, prompts[4])
    x = torch.zeros(2, DIM, dtype=F64)
    with pytest.raises(ValueError, match="needs the conditions of views"):
        denoiser.predict_noise(x, SCHEDULE.table[:2], x, prompts[:2])


def test_a_pipelines_prompts_stand_where_the_formula_has_them(make_module: Make) -> None:
    """With a tiny Stable Diffusion: the residual of the UNet's own calls, two cameras."""
    module = make_module(perp_neg=True, guidance=SCALE, negative_prompt="blue cube", coefficient="one")
    o, teacher = module.objective, module.objective.teacher
    levels, azimuths = o.levels.range_at(0), (10.0, 200.0)
    x, eps = (torch.randn(2, 4, 4, 4, generator=stream(i)) for i in range(2))
    t = torch.tensor([12, 33])
    u = (t - levels.first + 0.5) / levels.count
    views = Cameras(*(part.float() for part in vars(cameras(*azimuths)).values() if part is not None))
    found = o.residual(o.conditions(views), 0)(x, u, eps, torch.arange(2))
    kept = (1 / (1 + teacher.schedule.table[t] ** 2)).float().view(-1, 1, 1, 1)
    x_t = kept.sqrt() * x + (1 - kept).sqrt() * eps
    null = o.denoiser.null.value.embeddings  # type: ignore[union-attr]
    words = torch.stack([*o.prompts.value.embeddings, null])  # type: ignore[union-attr]
    for i, azimuth in enumerate(azimuths):

        @torch.no_grad()
        def predicted(embedding: Tensor, i: int = i) -> Tensor:
            unet = teacher.network.model
            return unet(x_t[i : i + 1], t[i], encoder_hidden_states=embedding[None]).sample.flatten()

        exact = (1 - kept[i]).flatten() * (written_out(predicted, words, azimuth) - eps[i].flatten())
        torch.testing.assert_close(found[i].flatten(), exact, rtol=2e-3, atol=2e-3)
