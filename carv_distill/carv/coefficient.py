"""The optimal multiple of ε to subtract from a prediction of ε, learned from past draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .running_sums import Learner, RunningSums


class NoiseCoefficient(Learner):
    """c(u) = E⟨ε̂, ε⟩ / E⟨ε, ε⟩ on N equal bins of u, from the draws of the steps before.

    The residual ε̂ − c ε has the same mean for every c that does not depend on its ε, as E ε = 0; this c has
    the least variance of a residual among constants. Score distillation takes c = 1. For data N(0, s² I),
    x_t = α x + σ ε, it is c = σ²/(α² s² + σ²), which removes all of the variance that ε brings.

    A c fitted on the draws it is subtracted from would bias the mean, so :meth:`at` of a step is refused once
    that step was observed. A bin without past draws has c = 1. Memory: O(N).

    Args:
        bins: N ≥ 1.
        decay: what a draw still counts one step later, in (0, 1].

    Source: control variates: Owen, Monte Carlo theory, section 8.9; with stepwise fit as in arXiv 1711.00123.
    """

    def __init__(self, bins: int = 20, decay: float = 0.99) -> None:
        super().__init__(RunningSums(bins, ("product", "square"), decay))
        self._at: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def at(self, step: int, u: Tensor) -> Tensor:
        """c at places u in [0, 1), same shape; of a step whose draws were not observed yet."""
        if self._at is None or self._at[0] != step:
            self._sums.refuse_present(step, "coefficient")
            self._at = step, self._coefficients(u)
        return self._at[1][self._sums.index(u)].to(u.dtype)

    @torch.no_grad()
    def observe(self, step: int, u: Tensor, predicted: Tensor, eps: Tensor) -> None:
        """Records draws of `step`; several calls per step add up. Take :meth:`at` of the step before.

        The same as :meth:`add` of their :meth:`rows`.

        Args:
            u: [n].
            predicted, eps: ε̂ and ε, [n, …].
        """
        self.add(step, self.rows(u, predicted, eps))

    @torch.no_grad()
    def rows(self, u: Tensor, predicted: Tensor, eps: Tensor) -> Tensor:
        """What draws teach: bin, ⟨ε̂, ε⟩ and ⟨ε, ε⟩ of each, [n, 3], float64. Args as for :meth:`observe`."""
        flat = eps.flatten(1)
        return self._sums.rows(
            self._sums.index(u),
            product=(predicted.flatten(1) * flat).sum(1, dtype=torch.float64),
            square=flat.square().sum(1, dtype=torch.float64),
        )

    def _coefficients(self, like: Tensor) -> Tensor:
        if not self._sums.seen:
            return torch.ones(self._sums.bins, dtype=torch.float64, device=like.device)
        self._sums.to(like.device)
        square = self._sums["square"]
        return torch.where(square > 0, self._sums["product"] / square.clamp(min=1e-300), 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Everything that what follows depends on."""
        return self._sums.state_dict()

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str | None = None) -> None:
        """Goes on from :meth:`state_dict`, bit for bit."""
        self._sums.load_state_dict(state, device)
        self._at = None
