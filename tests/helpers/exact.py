"""Denoisers in closed form, against which trained and approximate ones are held."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.teachers.denoiser import Denoiser


class GaussianMixtureDenoiser(Denoiser):
    """Data Σ_c π_c N(μ_c, s_c² I): D = Σ_c p(c | x_t) (σ² μ_c + s_c² x_t)/(s_c² + σ²).

    A condition, where given, is the component's index.

    Args:
        means: μ_c, [C, …].
        variances: s_c², [C].
        weights: π_c, [C], summing to 1; equal by default.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(self, means: Tensor, variances: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        count = means.shape[0]
        weights = means.new_full((count,), 1 / count) if weights is None else weights
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)
        self.register_buffer("log_weights", weights.log())

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        x, means = x_t.flatten(1), self.means.flatten(1)
        total = self.variances + sigma.view(-1, 1).square()
        if cond is not None:
            share = torch.nn.functional.one_hot(cond, means.shape[0]).to(x.dtype)
        else:
            square = torch.cdist(x, means, compute_mode="donot_use_mm_for_euclid_dist").square()
            logits = self.log_weights - square / (2 * total) - x.shape[1] / 2 * total.log()
            share = logits.softmax(1)
        shrink = self.variances / total
        return ((share * (1 - shrink)) @ means + (share * shrink).sum(1, keepdim=True) * x).view_as(x_t)


class EmpiricalDenoiser(Denoiser):
    """Data uniform on x_1 … x_N: D = Σ_i softmax_i(−‖x_t − x_i‖²/2σ²) x_i, over the label's own if given.

    Source: Karras et al. 2022 (EDM), appendix B.3.
    """

    data: Tensor
    labels: Tensor | None

    def __init__(self, data: Tensor, labels: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("data", data)
        self.register_buffer("labels", labels)

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        x, data = x_t.flatten(1), self.data.flatten(1)
        square = torch.cdist(x, data, compute_mode="donot_use_mm_for_euclid_dist").square()
        logits = -square / (2 * sigma.view(-1, 1).square())
        if cond is not None and self.labels is not None:
            logits = logits.masked_fill(cond.view(-1, 1) != self.labels, -torch.inf)
        return (logits.softmax(1) @ data).view_as(x_t)
