"""Classifier score distillation: guidance alone."""

from __future__ import annotations

from torch import Tensor

from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import GuidedDenoiser


class ClassifierScore(GuidedDenoiser):
    """What takes the place of ε̂ in the residual w(t) (ε̂ − c ε), here with c = 0:

        s (ε̂(x_t, y) − ε̂(x_t, ∅)),

    the score of an implicit classifier of the prompt. SDS has the same term beside ε̂(x_t, ∅) − ε. A negative
    prompt may stand in the place of ∅. s changes the gradient's size alone, against the regularisers.

    Source: Text-to-3D with classifier score distillation, arXiv 2310.19415.
    """

    def predict_noise(self, x: Tensor, sigma: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
        """The term at x_t = x + σ ε; arguments and shape as of every denoiser."""
        c = self.coefficients(x, sigma)
        conditional, unconditional = self.raw_of_each(c.noised(x, eps), c, cond, self.null.value)
        return self.scale * c.eps_out * (conditional - unconditional)
