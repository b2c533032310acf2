"""The loss of a sample, and what it is differentiated by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from carv_distill.attribution.backward import BackwardGradients
from carv_distill.attribution.loss import SampleLoss
from carv_distill.carv import stream
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
    arguments = (x, labels, draws.u[0], draws.weight[0], draws.eps[0])
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
    gradients = BackwardGradients(loaded.denoiser, loaded.schedule, ["model.blocks.*"])
    found = gradients(x, cond, u, weight, eps)
    losses = gradients.loss.of_samples(x, cond, u, weight, eps)
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
