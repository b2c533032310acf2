"""Perp-Neg: guidance towards a view that leads away from the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.geometry.camera import OVERHEAD, VIEWS, Cameras
from carv_distill.teachers.condition import Cond, Condition, interpolated, repeated
from carv_distill.teachers.denoiser import GuidedDenoiser
from carv_distill.teachers.parametrisation import Coefficients


@dataclass(frozen=True)
class ViewCondition(Condition):
    """The prompt of each row's view, with prompts of other views and how much each of them counts."""

    negatives: tuple[Condition, ...] = ()
    """Of n rows each."""
    weights: Tensor | None = None
    """≤ 0, [n, number of negatives]."""

    def map(self, change: Callable[[Tensor], Tensor]) -> ViewCondition:
        assert self.weights is not None
        own, others = super().map(change), tuple(negative.map(change) for negative in self.negatives)
        return ViewCondition(**vars(own), negatives=others, weights=change(self.weights))


def between_views(prompts: Condition, cameras: Cameras) -> ViewCondition:
    """Conditions that go over from view to view with the azimuth φ, |φ| ≤ 180°.

    Up to 90° the prompt is r front + (1 − r) side, r = 1 − |φ|/90°, with front and side as negatives of
    weights −f₁(r) and −f₁(1 − r); beyond, r side + (1 − r) back, r = 2 − |φ|/90°, with side and front, of
    −f₂(r) and −f₃(r). f₁(r) = 4 e^{−r/2} − 2.426, f₂(r) = e^{−r/2} − 0.606, f₃(r) = e^{−r/2} + 0.967. Views
    from overhead have their prompt, and weights of 0.

    Args:
        prompts: of each of :data:`VIEWS`.

    Source: the weights as in threestudio and stable-dreamfusion.
    """
    front, side, back, overhead = (VIEWS.index(view) for view in ("front", "side", "back", "overhead"))
    azimuth = cameras.azimuth
    quarters = (torch.remainder(azimuth + math.pi, 2 * math.pi) - math.pi).abs() / (math.pi / 2)
    near, above = quarters < 1, cameras.elevation > OVERHEAD
    r = torch.where(near, 1 - quarters, 2 - quarters).clamp(0, 1)

    def row(at_front: int, at_back: int) -> Tensor:
        return torch.where(near, at_front, at_back)

    first, second = row(front, side), row(side, back)
    prompt = interpolated(
        prompts[torch.where(above, overhead, second)], prompts[torch.where(above, overhead, first)], r
    )
    leading = torch.where(near, _decay(r, 4, -2.426), _decay(r, 1, -0.606))
    other = torch.where(near, _decay(1 - r, 4, -2.426), _decay(r, 1, 0.967))
    weights = -torch.stack([leading, other], 1).masked_fill(above[:, None], 0)
    negatives = prompts[first], prompts[row(side, front)]
    return ViewCondition(**vars(prompt), negatives=negatives, weights=weights)


def _decay(r: Tensor, factor: float, shift: float) -> Tensor:
    return factor * (-0.5 * r).exp() + shift


def perpendicular(x: Tensor, y: Tensor) -> Tensor:
    """x − ⟨x, y⟩/⟨y, y⟩ y of each row, [n, …]; x where y = 0."""
    shape = (-1, *[1] * (x.ndim - 1))
    along, square = (x * y).flatten(1).sum(1), y.square().flatten(1).sum(1)
    return x - torch.where(square > 0, along / square, 0).view(shape) * y


class PerpNeg(GuidedDenoiser):
    """ε̂_∅ + s (d + Σ_i w_i d_i^⊥), d = ε̂(x_t, y) − ε̂_∅ and d_i = ε̂(x_t, y_i) − ε̂_∅ of the negatives y_i,
    d_i^⊥ the part of d_i that is perpendicular to d.

    Its conditions are :class:`ViewCondition`; four predictions of the network for a draw. A prediction of
    another kind gives the same ε̂, as differences of two at one level are multiples of those of ε̂.

    Source: Perp-Neg, arXiv 2304.04968, equation 8.
    """

    def raw(self, y: Tensor, c: Coefficients, cond: Cond) -> Tensor:
        if not isinstance(cond, ViewCondition) or cond.weights is None:
            raise ValueError("Perp-Neg needs the conditions of views, with their negatives")
        null = repeated(self.null.value, len(y))
        own, none, *others = self.raw_of_rows(y, c, cond, null, *cond.negatives)
        direction, shape = own - none, (-1, *[1] * (y.ndim - 1))
        total = direction
        for other, weight in zip(others, cond.weights.to(y.dtype).unbind(1), strict=True):
            total = total + weight.view(shape) * perpendicular(other - none, direction)
        return none + self.scale * total
