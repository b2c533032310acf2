"""The loss of a sample, and what it is differentiated by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import attribution_pipeline
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, stream
from carv_distill.errors import UserError
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from tests.helpers.linear import SCHEDULE, Linear, Plain
from tests.helpers.sample_gradients import batch, draws_of, unet_gradients
from tests.helpers.tiny_pipelines import SIZES, TIMESTEPS, save_wan


def test_losses_are_those_that_are_differentiated() -> None:
    """A step against the gradient lowers the loss by step · ‖g‖² to first order."""
    gradients, (x, labels) = unet_gradients(), batch(2)
    draws = draws_of((1, 8, 8))
    arguments = (SampleBatch(x, labels), draws.row(0))
    g, before = gradients(*arguments)[0], gradients.loss.of_samples(*arguments)
    start = 0
    for p in gradients.loss.denoiser.network.parameters():
        p.data -= 1e-7 * g[start : start + p.numel()].view_as(p)
        start += p.numel()
    drop = (before - gradients.loss.of_samples(*arguments))[0]
    assert torch.isclose(drop, 1e-7 * g.square().sum(), rtol=1e-3)


def test_no_parameters_are_one_line() -> None:
    """A network without any, no pattern at all: found before a gradient, or a device, is asked for."""
    empty = NetworkDenoiser(nn.Identity(), Plain())
    with pytest.raises(UserError, match=r"^--parameters: the network has no parameters"):
        SampleLoss(empty, SCHEDULE)
    with pytest.raises(UserError, match=r"^--parameters: no pattern was given .*allowed: names as weight"):
        SampleLoss(NetworkDenoiser(Linear(torch.eye(3)), Plain()), SCHEDULE, ())


def test_a_wan_s_is_a_flow_matching_loss_written_by_hand(tmp_path: Path) -> None:
    """1/K Σ_k ω_k ‖F(x_t, T t, c) − (ε − x)‖²/D with x_t = (1 − t) x + t ε at the scheduler's shifted
    t = s i/(T + (s − 1) i), i = ⌊u T⌋ + 1, here T = 50 and s = 3; the same draws for both samples."""
    loaded = load_text_teacher(save_wan(tmp_path), SIZES["wan"])
    x, cond = torch.randn(2, *loaded.shape, generator=stream("x")), loaded.prompts(["a red torus", "a cube"])
    eps = torch.randn(3, *loaded.shape, generator=stream("eps"))
    u, weight = torch.tensor([0.11, 0.51, 0.91]), torch.tensor([1.0, 0.5, 2.0])
    gradients = BackwardGradients(SampleLoss(loaded.denoiser, loaded.schedule, ["model.blocks.*"]))
    batch, draws = SampleBatch(x, cond), Draws(u, weight, eps)
    found, losses = gradients(batch, draws), gradients.loss.of_samples(batch, draws)
    i = torch.tensor([6, 26, 46])
    t = 3 * i / (TIMESTEPS + 2 * i)
    model = loaded.network.model
    wanted = [p.requires_grad_() for p in model.blocks.parameters()]
    for n in range(2):
        total = torch.zeros(())
        for k in range(3):
            x_t = (1 - t[k]) * x[n] + t[k] * eps[k]
            words = cond.embeddings[n : n + 1]
            v = model(x_t[None], TIMESTEPS * t[k : k + 1], words, return_dict=False)[0][0]
            total = total + weight[k] * (v - (eps[k] - x[n])).square().mean() / 3
        exact = torch.cat([g.flatten() for g in torch.autograd.grad(total, wanted)])
        assert (found[n] - exact).norm() < 1e-5 * exact.norm()
        torch.testing.assert_close(losses[n], total.detach(), rtol=1e-5, atol=0)


def test_weights_of_positions_are_those_of_the_squared_error(tmp_path: Path) -> None:
    """1/K Σ_k ω_k mean w ‖F − (ε − x)‖² by hand, float64, by both back ends; w = 1 is none, bit for bit."""
    loaded = load_text_teacher(save_wan(tmp_path), SIZES["wan"]).double()
    g = stream("weights")
    x = torch.randn(2, *loaded.shape, generator=g, dtype=torch.float64)
    cond = loaded.prompts(["a red torus", "a cube"])
    weight = torch.rand(2, *loaded.shape[1:], generator=g, dtype=torch.float64)
    draws = draws_of(loaded.shape, groups=1).row(0)
    patterns = ["model.blocks.*"]
    by_hand = []
    model = loaded.network.model
    wanted = [p.requires_grad_() for p in model.blocks.parameters()]
    sigma = loaded.schedule.sigma(draws.u).view(-1, *[1] * len(loaded.shape))
    t = sigma / (1 + sigma)
    for n in range(2):
        x_t = (1 - t) * x[n] + t * draws.eps
        words = cond.embeddings[n].expand(3, -1, -1)
        v = model(x_t, TIMESTEPS * t.flatten(), words, return_dict=False)[0]
        losses = (weight[n] * (v - (draws.eps - x[n])).square()).flatten(1).mean(1)
        loss = (draws.weight * losses).mean()
        by_hand.append(torch.cat([p.flatten() for p in torch.autograd.grad(loss, wanted)]))
    exact = torch.stack(by_hand)
    loaded.requires_grad_(False)
    batch = SampleBatch(x, cond, weight)
    loss = SampleLoss(loaded.denoiser, loaded.schedule, patterns)
    for kind in (VmapGradients, BackwardGradients):
        gradients = kind(loss)
        found = gradients(batch, draws)
        assert (found - exact).norm() < 1e-6 * exact.norm()  # Wan's layers cast to float32 inside
        apart = gradients.of_draws(batch[[0, 1, 1]], draws.u, draws.eps)
        alike = replace(draws, weight=torch.ones(3))
        one = [gradients(batch[[i]], alike[k : k + 1]) for k, i in enumerate((0, 1, 1))]
        assert (apart - torch.cat(one)).norm() < 1e-6 * apart.norm()
        plain, ones = SampleBatch(x, cond), SampleBatch(x, cond, torch.ones_like(weight))
        assert torch.equal(gradients(plain, draws), gradients(ones, draws))
        assert not torch.allclose(gradients(plain, draws), found)


def test_a_pipeline_takes_each_sample_s_own_weights() -> None:
    """As the variance is measured: the residual of draw i is the gradient at its sample, with its weights."""
    gradients, (x, labels) = unet_gradients(), batch(3)
    weight = torch.rand(3, 8, 8, generator=stream("w"), dtype=torch.float64)
    weighed = SampleBatch(x, labels, weight)
    pipeline = attribution_pipeline(gradients, build_projector("none", 1), weighed)
    picked, residual = pipeline(4, stream("pick"))
    draws = draws_of((1, 8, 8), groups=1, each=4).row(0)
    found = residual(picked, draws.u, draws.eps, torch.arange(4))
    for row in range(4):
        number = int((x == picked[row]).flatten(1).all(1).nonzero()[0])
        one = replace(draws[row : row + 1], weight=torch.ones(1, dtype=torch.float64))
        torch.testing.assert_close(found[row], gradients(weighed[[number]], one)[0], rtol=1e-9, atol=1e-12)
