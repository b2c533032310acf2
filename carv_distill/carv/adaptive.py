"""A proposal that follows the residuals of past draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .proposal import Proposal

STATISTICS = ("second_moment", "neyman")
_LEAST_SHARE = 1 / 3


class AdaptiveProposal:
    """q of each step from the draws of the steps before it, on N equal bins of u.

    With the running means over past draws that fell into a bin, of the unweighted residual r(x, u, ε),

        second_moment    q ∝ √ mean ‖r‖²                           for iid draws
        neyman           q ∝ √ (mean ‖r‖² − ‖mean r‖²) n/(n − 1)   tr Cov(r | bin), for strata
                                                                   (n the effective number of draws)

    mixed with the prior, which bounds the weights by 1/α. Inside a bin u is uniform whatever q was, so
    nothing is to be undone. ``neyman`` counts the spread of r over upstream samples as well, which strata do
    not remove either. A bin without enough draws (none; fewer than two for ``neyman``) gets the mean of the
    others.

    A step's draws must not shape the q that weighs them: large residuals would shrink their own weights,
    which biases the estimate like a self-normalised one. So :meth:`proposal` of a step is refused
    once that step was observed. Take it once per step, draw all of the step's parts from it, then observe.

    Memory: O(N), with ``neyman`` N vectors of the residual's size. Every process learns from its own draws.

    Args:
        bins: N ≥ 1.
        defensive: α in (0, 1], the share of the prior; above 0, as a bin without mass is never seen again.
        statistic: second_moment | neyman.
        decay: what a draw still counts one step later, in (0, 1].
        refresh: steps between new proposals, at which the sums are copied to the host.

    Raises:
        ValueError: an argument outside its range.

    Source: running √E‖r‖² with a defensive mixture: Owen, Monte Carlo theory, chapters 9 and 10.
    """

    def __init__(
        self,
        bins: int,
        defensive: float = 0.1,
        statistic: str = "second_moment",
        decay: float = 0.999,
        refresh: int = 100,
    ) -> None:
        if bins < 1 or refresh < 1:
            raise ValueError(f"bins and refresh must be at least 1, found {bins} and {refresh}")
        if not 0 < defensive <= 1 or not 0 < decay <= 1:
            raise ValueError(f"defensive and decay must lie in (0, 1], found {defensive} and {decay}")
        if statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}; found {statistic!r}")
        self.bins, self.defensive, self.statistic = bins, defensive, statistic
        self.decay, self.refresh = decay, refresh
        self._observed: int | None = None
        self._built: int | None = None
        self._weights = torch.ones(bins, dtype=torch.float64)
        self._proposal = Proposal.from_weights(self._weights, defensive)
        # by bin, over past draws: Σ w, Σ w², Σ w ‖r‖² and for neyman Σ w r, with w what a draw still counts
        self._sums: dict[str, Tensor] = {}

    def proposal(self, step: int) -> Proposal:
        """The proposal in force at `step`; a new one is made at the first call after an observation, then
        every `refresh` steps.

        Raises:
            ValueError: draws of `step` or of a later one were observed already, or a residual that was
                observed on a GPU was not finite.
        """
        if self._observed is not None and self._observed >= step:
            raise ValueError(
                f"the proposal of step {step} was asked for after step {self._observed} was observed: "
                "it may depend on draws of earlier steps only"
            )
        if self._observed is not None and (self._built is None or step >= self._built + self.refresh):
            self._weights = self._learned_weights()
            self._proposal = Proposal.from_weights(self._weights, self.defensive)
            self._built = step
        return self._proposal

    @torch.no_grad()
    def observe(self, step: int, u: Tensor, residual: Tensor) -> None:
        """Records draws of `step`, without waiting for their device; several calls per step add up.

        Args:
            step: not before the last one observed.
            u: of the draws, any shape, as [R, K].
            residual: r without its importance weight, [*u.shape, …].

        Raises:
            ValueError: a step back in time, shapes that do not fit, a u outside [0, 1) or a value that is not
                finite; on a GPU the last two are found by :meth:`proposal`.
        """
        if self._observed is not None and step < self._observed:
            raise ValueError(f"step {step} was observed after step {self._observed}")
        if residual.shape[: u.ndim] != u.shape:
            raise ValueError(
                f"a residual of {list(u.shape)} draws must have shape {[*u.shape, '…']}, "
                f"found {list(residual.shape)}"
            )
        u = u.detach().flatten()
        vectors = residual.detach().reshape(len(u), -1)
        size = self._sums["vector"].shape[1] if "vector" in self._sums else vectors.shape[1]
        if vectors.shape[1] != size:
            raise ValueError(f"a residual of size {vectors.shape[1]} after {size}")
        square = vectors.square().sum(1, dtype=torch.float64)
        # NaN marks what is wrong, so that a GPU need not be waited for
        square = torch.where((u >= 0) & (u < 1), square, torch.nan)
        if square.device.type == "cpu" and not square.isfinite().all():
            raise ValueError("observed residuals must be finite and u in [0, 1)")
        self._start(step, vectors)
        index = (u * self.bins).long().clamp_(0, self.bins - 1)
        one = torch.ones_like(square)
        rows = {"weight": one, "weight2": one, "square": square, "vector": vectors}
        for name, sums in self._sums.items():
            _add_rows(sums, index, rows[name])

    def _start(self, step: int, vectors: Tensor) -> None:
        """Makes the sums at the first draws, and lets them decay at those of a new step."""
        if self._observed is None:
            for name in ("weight", "weight2", "square"):
                self._sums[name] = vectors.new_zeros(self.bins, dtype=torch.float64)
            if self.statistic == "neyman":
                self._sums["vector"] = vectors.new_zeros((self.bins, vectors.shape[1]), dtype=torch.float64)
        elif step > self._observed and self.decay < 1:
            kept = self.decay ** (step - self._observed)
            for name, sums in self._sums.items():
                sums.mul_(kept**2 if name == "weight2" else kept)
        self._observed = step

    def _learned_weights(self) -> Tensor:
        """√ of each bin's statistic, [N], float64 on the host."""
        weight, square = self._sums["weight"], self._sums["square"]
        statistic = square / weight
        seen = weight > 0
        if self.statistic == "neyman":
            # of n equally weighted draws this share is 1 − 1/n
            share = 1 - self._sums["weight2"] / weight.square()
            statistic -= (self._sums["vector"] / weight[:, None]).square().sum(1)
            statistic = statistic.clamp(min=0) / share
            seen &= share > _LEAST_SHARE
        weights, known, square = torch.stack([statistic.sqrt(), seen.double(), square]).cpu()
        if not square.isfinite().all():
            raise ValueError("observed residuals must be finite and u in [0, 1)")
        some = weights[known > 0]
        if not some.any():
            return torch.ones(self.bins, dtype=torch.float64)
        return torch.where(known > 0, weights, some.mean())

    def state_dict(self) -> dict[str, Any]:
        """Everything that what follows depends on; tensors are copies, on their device."""
        sums = {name: value.clone() for name, value in self._sums.items()}
        return {"observed": self._observed, "built": self._built, "weights": self._weights, "sums": sums}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str | None = None) -> None:
        """Goes on from :meth:`state_dict`, bit for bit.

        Args:
            device: of the sums; where they were by default.

        Raises:
            ValueError: the state is of another number of bins, or of another statistic.
        """
        weights, sums = state["weights"], state["sums"]
        if len(weights) != self.bins:
            raise ValueError(f"the saved proposal has {len(weights)} bins, this one {self.bins}")
        if sums and ("vector" in sums) != (self.statistic == "neyman"):
            raise ValueError(f"the saved proposal learned another statistic than {self.statistic}")
        self._observed, self._built = state["observed"], state["built"]
        self._weights = weights.to("cpu", torch.float64, copy=True)
        self._proposal = Proposal.from_weights(self._weights, self.defensive)
        self._sums = {name: value.to(device or value.device, copy=True) for name, value in sums.items()}


def _add_rows(sums: Tensor, index: Tensor, rows: Tensor) -> None:
    """sums[index_i] += rows_i; index_add_ adds in any order on a GPU, accumulation in a fixed one."""
    rows = rows.to(sums.dtype)
    if sums.device.type == "cpu":
        sums.index_add_(0, index, rows)
    else:
        sums.index_put_((index,), rows, accumulate=True)
