"""What of a network's output is differentiated: the denoising loss, or a function without the data in it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Output = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Raw output F and its ideal, [n, C, …], and weights of positions or None → [n]."""


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Of each row, positions weighed."""
    return (values if weight is None else values * weight.unsqueeze(1)).flatten(1).mean(1)


def _loss(raw: Tensor, ideal: Tensor, weight: Tensor | None) -> Tensor:
    return _mean((raw - ideal).square(), weight)


def _square(raw: Tensor, ideal: Tensor, weight: Tensor | None) -> Tensor:
    return _mean(raw.square(), weight)


def _l1(raw: Tensor, ideal: Tensor, weight: Tensor | None) -> Tensor:
    return _mean(raw.abs(), weight)


def _l2(raw: Tensor, ideal: Tensor, weight: Tensor | None) -> Tensor:
    return _mean(raw.square(), weight).sqrt()


def _linf(raw: Tensor, ideal: Tensor, weight: Tensor | None) -> Tensor:
    return torch.linalg.vector_norm(raw.flatten(1), torch.inf, dim=1)


OUTPUTS: dict[str, Output] = {"loss": _loss, "square": _square, "l1": _l1, "l2": _l2, "linf": _linf}
"""Means over the entries, but for linf, the largest of them, which has no weights.

Source: arXiv 2311.00500 (D-TRAK), section 3.2: L_Simple, L_Square, L_1-norm, L_2-norm, L_∞-norm.
"""
