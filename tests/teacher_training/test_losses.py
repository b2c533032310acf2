"""The term that ties an encoder to its decoder, on linear ones; and the pictures beyond the data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from carv_distill.teacher_training.losses import jacobian_loss, mixed


class Linear:
    """z = E x, x = D z on pictures of 3×2×2 = 12 numbers and latents of 1×2×2 = 4."""

    def __init__(self, encoder: Tensor, decoder: Tensor) -> None:
        self.encoder, self.decoder = encoder, decoder

    def encode(self, images: Tensor) -> Any:
        mean = (images.flatten(1) @ self.encoder.T).view(-1, 1, 2, 2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))

    def decode(self, latents: Tensor, return_dict: bool) -> tuple[Tensor]:
        return ((latents.flatten(1) @ self.decoder.T).view(-1, 3, 2, 2),)


def loss(encoder: Tensor, decoder: Tensor) -> float:
    g = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 2, 2, generator=g, dtype=torch.float64)
    noise = torch.randn(6, 1, 2, 2, generator=g, dtype=torch.float64)
    return float(jacobian_loss(Linear(encoder, decoder), images, noise, g))  # type: ignore[arg-type]


def test_transposed_jacobians_cost_nothing_whatever_their_scale() -> None:
    decoder = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert loss(2 * decoder.T, decoder) == pytest.approx(0, abs=1e-9)


def test_an_encoder_that_looks_at_other_pixels_costs_one() -> None:
    """J_encᵀ d ⟂ J_dec d for every d."""
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    assert loss(basis[:, 4:8].T.contiguous(), basis[:, :4].contiguous()) == pytest.approx(1)


def test_half_of_the_pixels_wrong_costs_its_cosine() -> None:
    """Encoder rows = (decoder column + an orthogonal direction)/√2: cos = 1/√2."""
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    encoder = ((basis[:, :4] + basis[:, 4:8]) / 2**0.5).T.contiguous()
    assert loss(encoder, basis[:, :4].contiguous()) == pytest.approx(1 - 0.5**0.5)


def test_two_thirds_stay_data_and_the_rest_are_smooth_pictures_in_range() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.zeros(9, 3, 32, 32)
    found = mixed(images, g)
    changed = (found != images).flatten(1).any(1)
    assert changed.tolist() == [True, False, False] * 3
    assert found.abs().max() <= 1
    steps = found.diff(dim=-1).abs().max()
    assert 0 < steps < 0.5  # no texture where the data have none
    again = mixed(images, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
