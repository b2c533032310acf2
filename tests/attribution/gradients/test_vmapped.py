"""Gradients by vmap against loops of backward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, stream
from carv_distill.errors import UserError
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.schedule import EDMSchedule
from tests.helpers.sample_gradients import batch, draws_of, unet_gradients
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_unet import tiny_unet


def loop(gradients: VmapGradients, x: Tensor, cond: Tensor | None, draws: Draws, group: int) -> Tensor:
    """One backward() for each sample and draw, then the weighted mean over draws."""
    denoiser = gradients.loss.denoiser
    parameters = dict(denoiser.network.named_parameters())
    wanted = [parameters[n] for n in gradients.loss.chosen]
    for p in wanted:
        p.requires_grad_(True)
    rows = []
    for i in range(len(x)):
        total: Tensor | float = 0.0
        for u, weight, eps in zip(draws.u[group], draws.weight[group], draws.eps[group], strict=True):
            sigma = gradients.loss.schedule.sigma(u[None])
            c = denoiser.precondition(sigma)
            x_t = x[i] + sigma * eps
            label = None if cond is None else cond[i : i + 1]
            error = denoiser(x_t[None], sigma, label)[0] - x[i]
            loss = weight * (error / c.out).square().mean()
            for p in wanted:
                p.grad = None
            loss.backward()
            flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
            total = total + torch.cat([g.flatten() for g in flat]) / len(draws.u[group])
        assert isinstance(total, Tensor)
        rows.append(total)
    denoiser.requires_grad_(False)
    return torch.stack(rows)


def test_equal_to_a_loop_of_backward() -> None:
    """With attention, labels and importance weights; float64: to rounding, float32: to 1e-5 of the norm."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        gradients, (x, labels) = unet_gradients(dtype), batch(dtype=dtype)
        draws = draws_of((1, 8, 8), dtype=dtype)
        found = gradients(SampleBatch(x, labels), draws.row(0))
        expected = loop(gradients, x, labels, draws, 0)
        assert found.dtype == dtype
        assert ((found - expected).norm(dim=1) < tolerance * expected.norm(dim=1)).all()
        apart = gradients.of_draws(SampleBatch(x, labels), draws.u[0], draws.eps[0])
        unweighted = replace(draws.row(0), weight=torch.ones(3, dtype=dtype))
        each = SampleBatch(x, labels)
        one = [gradients(each[i : i + 1], unweighted[i : i + 1]) for i in range(3)]
        assert (apart - torch.cat(one)).norm() < tolerance * apart.norm()


def test_a_text_to_image_teacher_and_one_without_conditions(tmp_path: Path) -> None:
    teacher = load_text_teacher(save_tiny_pipeline(tmp_path)).double()
    gradients = VmapGradients(SampleLoss(teacher.denoiser, teacher.schedule))
    x = torch.randn(2, 4, 4, 4, generator=stream("latents"), dtype=torch.float64)
    cond = teacher.prompts(["a red torus", "a blue cube"]).to(torch.float64)
    draws = draws_of((4, 4, 4))
    found = gradients(SampleBatch(x, cond), draws.row(0))
    assert torch.allclose(found, loop(gradients, x, cond, draws, 0), rtol=1e-9, atol=1e-12)

    unet = tiny_unet().double().eval()
    denoiser = NetworkDenoiser(UNetNetwork(unet), EDMPreconditioning()).requires_grad_(False)
    gradients = VmapGradients(SampleLoss(denoiser, EDMSchedule(0.05, 5.0)))
    images, _ = batch()
    draws = draws_of((1, 8, 8))
    found = gradients(SampleBatch(images), draws.row(1))
    assert torch.allclose(found, loop(gradients, images, None, draws, 1), rtol=1e-9, atol=1e-12)


class Video(nn.Module):
    """A convolution over time and space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3, padding=1).double()

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        return self.conv(x) * c_noise.view(-1, 1, 1, 1, 1)


def test_latents_of_a_video() -> None:
    loss = SampleLoss(NetworkDenoiser(Video(), EDMPreconditioning()), EDMSchedule(0.05, 5.0))
    gradients = VmapGradients(loss)
    x = torch.randn(2, 2, 3, 4, 5, generator=stream("video"), dtype=torch.float64)
    draws = draws_of((2, 3, 4, 5))
    found = gradients(SampleBatch(x), draws.row(0))
    assert torch.allclose(found, loop(gradients, x, None, draws, 0), rtol=1e-10, atol=1e-13)


def test_some_parameters_by_pattern() -> None:
    everything, some = unet_gradients(), unet_gradients(patterns=["*conv_in*", "*mid_block*"])
    assert 0 < some.loss.layout.dimension < everything.loss.layout.dimension
    assert all("conv_in" in n or "mid_block" in n for n in some.loss.chosen)
    x, labels = batch()
    draws = draws_of((1, 8, 8))
    arguments = (SampleBatch(x, labels), draws.row(0))
    sizes = dict(everything.loss.denoiser.network.named_parameters())
    parts = dict(
        zip(
            everything.loss.chosen,
            everything(*arguments).split([sizes[n].numel() for n in everything.loss.chosen], 1),
            strict=True,
        )
    )
    assert torch.allclose(some(*arguments), torch.cat([parts[n] for n in some.loss.chosen], 1), rtol=1e-10)
    with pytest.raises(UserError, match=r"--parameters: '\*conv_inn\*' matches none of the \d+ parameters"):
        unet_gradients(patterns=["*conv_inn*"])


def test_bf16_is_near_and_gradients_stay_float32() -> None:
    x, labels = batch(dtype=torch.float32)
    draws = draws_of((1, 8, 8), dtype=torch.float32)
    arguments = (SampleBatch(x, labels), draws.row(0))
    exact, near = (
        unet_gradients(torch.float32)(*arguments),
        unet_gradients(torch.float32, precision="bf16")(*arguments),
    )
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert (torch.cosine_similarity(near, exact) > 0.995).all()
