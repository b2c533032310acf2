"""Gradients of a tiny UNet with labels and attention, by vmap, with samples and draws for them."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.schedule import EDMSchedule
from tests.helpers.tiny_unet import tiny_unet

SAMPLER = NoiseLevelSampler(Proposal.from_weights(torch.tensor([1.0, 2.0, 3.0]), 0.1), "stratified")


def unet_gradients(dtype: torch.dtype = torch.float64, **options: object) -> VmapGradients:
    unet = tiny_unet(labels=5, add_attention=True, attention_head_dim=4).to(dtype).eval()
    denoiser = NetworkDenoiser(UNetNetwork(unet), EDMPreconditioning()).requires_grad_(False)
    return VmapGradients(SampleLoss(denoiser, EDMSchedule(0.05, 5.0), **options))  # type: ignore[arg-type]


def batch(n: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = stream("batch")
    return torch.randn(n, 1, 8, 8, generator=g, dtype=dtype), torch.randint(5, (n,), generator=g)


def draws_of(
    shape: tuple[int, ...], groups: int = 2, each: int = 3, dtype: torch.dtype = torch.float64
) -> Draws:
    return SAMPLER.draw(groups, each, shape, stream("draws"), dtype=dtype)
