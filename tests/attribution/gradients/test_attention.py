"""Attention by plain products against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.attribution.gradients.attention import PlainAttention, plain_attention


def inputs(heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = (2, 4, 5, 8), (2, heads, 7, 8), (2, heads, 7, 6)
    q, k, v = (torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)
    return q, k, v


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.linspace(-3, 3, 35, dtype=torch.float64).view(5, 7)},
        {"attn_mask": (torch.arange(35) % 3 > 0).view(5, 7)},
    ],
    ids=["plain", "scale", "causal", "added", "truth"],
)
def test_it_is_torchs_definition(options: dict[str, Any]) -> None:
    expected = F.scaled_dot_product_attention(*inputs(), **options)
    torch.testing.assert_close(plain_attention(*inputs(), **options), expected, rtol=1e-12, atol=1e-12)


def test_grouped_heads_are_repeated() -> None:
    expected = F.scaled_dot_product_attention(*inputs(heads=2), enable_gqa=True)
    found = plain_attention(*inputs(heads=2), enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dropout_p must be 0; found 0\.1"):
        plain_attention(*inputs(), dropout_p=0.1)


def test_within_the_block_calls_are_plain_and_outside_they_are_not() -> None:
    with PlainAttention(), pytest.raises(ValueError, match="dropout_p"):
        F.scaled_dot_product_attention(*inputs(), dropout_p=0.5)
    F.scaled_dot_product_attention(*inputs(), dropout_p=0.5)


def test_gradients_by_sample_are_those_of_a_loop() -> None:
    q, k, v = inputs()

    def value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v).square().sum()

    with PlainAttention():
        together = torch.func.vmap(torch.func.grad(value))(q, k, v)
    for i in range(2):
        apart = torch.func.grad(value)(q[i], k[i], v[i])
        torch.testing.assert_close(together[i], apart, rtol=1e-12, atol=1e-12)
