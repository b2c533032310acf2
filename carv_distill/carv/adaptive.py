"""A proposal that follows the residuals of past draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .proposal import Proposal

STATISTICS = ("second_moment", "neyman")


class AdaptiveProposal:
    """q of each step from the draws of the steps before it, on N equal bins of u.

    With the running means over past draws that fell into a bin, of the unweighted residual r(x, u, ε),

        second_moment    q ∝ √ mean ‖r‖²                 for iid draws
        neyman           q ∝ √ mean ‖r_j − r_{j+1}‖²/2   for strata, K ≥ 2

    where j and j + 1 are neighbours in level among the draws of one upstream sample, and count in both their
    bins. What lies between upstream samples cancels in the difference, and so does, for large K, what depends
    on the level alone: its expectation is E_x tr Cov_ε(r | x, u) plus half the squared difference of the
    means at the two levels, about what stratified draws leave of the variance.

    Both are mixed with the prior, which bounds the weights by 1/α. Inside a bin u is uniform whatever q was,
    so nothing is to be undone. A bin without draws gets the mean of the others.

    A step's draws must not shape the q that weighs them: large residuals would shrink their own weights,
    which biases the estimate like a self-normalised one. So :meth:`proposal` of a step is refused
    once that step was observed. Take it once per step, draw all of the step's parts from it, then observe.

    Memory: O(N). Every process learns from its own draws.

    Args:
        bins: N ≥ 1.
        defensive: α in (0, 1], the share of the prior; above 0, as a bin without mass is never seen again.
        statistic: second_moment | neyman.
        decay: what a draw still counts one step later, in (0, 1].
        refresh: steps between new proposals, at which the sums are copied to the host.

    Raises:
        ValueError: an argument outside its range.

    Source: running √E‖r‖² with a defensive mixture: Owen, Monte Carlo theory, chapters 9 and 10; variance
    from differences of neighbours: Rice (1984), Annals of Statistics 12(4).
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
        # by bin, over past draws: Σ w and Σ w · (what is averaged), with w what a draw still counts
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
    def observe(self, step: int, u: Tensor, residual: Tensor, sample: Tensor | None = None) -> None:
        """Records draws of `step`, without waiting for their device; several calls per step add up.

        Args:
            step: not before the last one observed.
            u: of the draws, any shape, as [R, K].
            residual: r without its importance weight, [*u.shape, …].
            sample: number of the upstream sample of each draw, shape of u; by default the place along the
                first axis.

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
        if sample is None:
            rows = torch.arange(len(u), device=u.device)
            sample = rows.repeat_interleave(u[0].numel(), output_size=u.numel())
        elif sample.shape != u.shape:
            raise ValueError(f"sample must have the shape of u, {list(u.shape)}, found {list(sample.shape)}")
        u, sample = u.detach().flatten(), sample.flatten()
        vectors = residual.detach().reshape(len(u), -1)
        square = vectors.square().sum(1, dtype=torch.float64)
        # NaN marks what is wrong, so that a GPU need not be waited for
        square = torch.where((u >= 0) & (u < 1), square, torch.nan)
        if square.device.type == "cpu" and not square.isfinite().all():
            raise ValueError("observed residuals must be finite and u in [0, 1)")
        self._start(step, u.device)
        index = (u * self.bins).long().clamp_(0, self.bins - 1)
        if self.statistic == "second_moment":
            self._add(index, torch.ones_like(square), square)
        else:
            order = (sample + u.double()).argsort()
            same = (sample[order].diff() == 0).double()
            apart = vectors[order].diff(dim=0).square().sum(1, dtype=torch.float64) / 2
            apart = apart * same + 0 * square.sum()  # NaN goes on
            for end in (order[:-1], order[1:]):
                self._add(index[end], same, apart)

    def _start(self, step: int, device: torch.device) -> None:
        """Makes the sums at the first draws, and lets them decay at those of a new step."""
        if self._observed is None:
            for name in ("weight", "value"):
                self._sums[name] = torch.zeros(self.bins, dtype=torch.float64, device=device)
        elif step > self._observed and self.decay < 1:
            for sums in self._sums.values():
                sums.mul_(self.decay ** (step - self._observed))
        self._observed = step

    def _add(self, index: Tensor, weight: Tensor, value: Tensor) -> None:
        """Sums by bin; index_add_ adds in any order on a GPU, accumulation in a fixed one."""
        for name, rows in (("weight", weight), ("value", value)):
            sums = self._sums[name]
            if sums.device.type == "cpu":
                sums.index_add_(0, index, rows)
            else:
                sums.index_put_((index,), rows, accumulate=True)

    def _learned_weights(self) -> Tensor:
        """√ of each bin's statistic, [N], float64 on the host."""
        weight, value = torch.stack([self._sums["weight"], self._sums["value"]]).cpu()
        if not value.isfinite().all():
            raise ValueError("observed residuals must be finite and u in [0, 1)")
        seen = weight > 0
        weights = (value / weight).sqrt()
        some = weights[seen]
        if not some.any():
            return torch.ones(self.bins, dtype=torch.float64)
        return torch.where(seen, weights, some.mean())

    def state_dict(self) -> dict[str, Any]:
        """Everything that what follows depends on; tensors are copies, on their device."""
        sums = {name: value.clone() for name, value in self._sums.items()}
        return {
            "statistic": self.statistic,
            "observed": self._observed,
            "built": self._built,
            "weights": self._weights,
            "sums": sums,
        }

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
        if state.get("statistic") != self.statistic or (sums and set(sums) != {"weight", "value"}):
            raise ValueError(f"the saved proposal learned another statistic than {self.statistic}")
        self._observed, self._built = state["observed"], state["built"]
        self._weights = weights.to("cpu", torch.float64, copy=True)
        self._proposal = Proposal.from_weights(self._weights, self.defensive)
        self._sums = {name: value.to(device or value.device, copy=True) for name, value in sums.items()}
