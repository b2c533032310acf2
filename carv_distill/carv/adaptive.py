"""A proposal that follows the residuals of past draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .proposal import Proposal
from .running_sums import Learner, RunningSums
from .strategies import STATISTICS


class AdaptiveProposal(Learner):
    """q of each step from the draws of the steps before it, on N equal bins of u.

    With the running means over past draws that fell into a bin, of the unweighted residual r(x, u, ε),

        second_moment    q ∝ √ mean ‖r‖²                 for iid draws
        neyman           q ∝ √ mean ‖r_j − r_{j+1}‖²/2   for strata, K ≥ 2

    where j and j + 1 are neighbours in level among the draws of one upstream sample, and count in both their
    bins. What lies between upstream samples cancels in the difference, and so does, for large K, what depends
    on the level alone: its expectation is E_x tr Cov_ε(r | x, u) plus half the squared difference of the
    means at the two levels, about what stratified draws leave of the variance. Of coupled noises it
    counts what the coupling removes, of antithetic ones twice: where the residual is mostly odd in ε, that
    proposal may be worse than none.

    Both are mixed with the prior, which bounds the weights by 1/α. Inside a bin u is uniform whatever q was,
    so nothing is to be undone. A bin without draws gets the mean of the others.

    A step's draws must not shape the q that weighs them: large residuals would shrink their own weights,
    which biases the estimate like a self-normalised one. So :meth:`proposal` of a step is refused
    once that step was observed. Take it once per step, draw all of the step's parts from it, then observe.

    Memory: O(N). Processes that share a batch join the :meth:`rows` of their draws and :meth:`add` them all:
    then they hold the same proposal.

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
        if refresh < 1:
            raise ValueError(f"refresh must be at least 1, found {refresh}")
        if not 0 < defensive <= 1:
            raise ValueError(f"defensive must lie in (0, 1], found {defensive}")
        if statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}; found {statistic!r}")
        self.bins, self.defensive, self.statistic, self.refresh = bins, defensive, statistic, refresh
        # Σ w and Σ w · (what is averaged), with w what a draw still counts
        super().__init__(RunningSums(bins, ("weight", "value"), decay))
        self._built: int | None = None
        self._weights = torch.ones(bins, dtype=torch.float64)
        self._latest: tuple[Tensor | None, Proposal] | None = None

    def proposal(self, step: int, at: Tensor | None = None) -> Proposal:
        """The proposal in force at `step`; what it follows is renewed at the first call after an observation,
        then every `refresh` steps.

        With `at` it is what was learned, restricted to a part of [0, 1):

            q(v) ∝ (1 − α) w(at_i)/Σ_j w(at_j) + α/M on the i-th of M equal bins of v in [0, 1),

        where w is constant on each of the N bins. So draws go on teaching the same places, as long as
        :meth:`observe` is told of places in the whole of [0, 1), while the part moves or shrinks.

        Args:
            at: [M], the place in [0, 1) of the middle of each bin of the proposal that is asked for, as the
                timesteps of a range; by default the N bins themselves.

        Raises:
            ValueError: draws of `step` or of a later one were observed already, or a value was not finite.
        """
        self._sums.refuse_present(step, "proposal")
        if self._sums.seen and (self._built is None or step >= self._built + self.refresh):
            self._weights = self._learned_weights()
            self._built, self._latest = step, None
        if self._latest is None or not _equal(self._latest[0], at):
            self._latest = at, self._restricted(at)
        return self._latest[1]

    def _restricted(self, at: Tensor | None) -> Proposal:
        weights = self._weights if at is None else self._weights[self._sums.index(at.cpu())]
        if not weights.any():  # nothing but residuals of zero there
            weights = torch.ones_like(weights)
        return Proposal.from_weights(weights, self.defensive)

    @torch.no_grad()
    def observe(self, step: int, u: Tensor, residual: Tensor, sample: Tensor | None = None) -> None:
        """Records draws of `step`, without waiting for their device; several calls per step add up.

        The same as :meth:`add` of their :meth:`rows`.

        Args:
            step: not before the last one observed.
            u: of the draws, any shape, as [R, K].
            residual: r without its importance weight, [*u.shape, …].
            sample: number of the upstream sample of each draw, shape of u; by default the place along the
                first axis.
        """
        self.add(step, self.rows(u, residual, sample))

    @torch.no_grad()
    def rows(self, u: Tensor, residual: Tensor, sample: Tensor | None = None) -> Tensor:
        """What draws teach, whatever the size of a residual: bin, weight and value, [n, 3], float64.

        Args as for :meth:`observe`; draws of one upstream sample must be together for `neyman`.

        Raises:
            ValueError: shapes that do not fit.
        """
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
        index = self._sums.index(u)
        if self.statistic == "second_moment":
            return self._sums.rows(index, weight=torch.ones_like(square), value=square)
        order = (sample + u.double()).argsort()
        same = (sample[order].diff() == 0).double()
        apart = vectors[order].diff(dim=0).square().sum(1, dtype=torch.float64) / 2
        square = square[order]
        apart = apart * same + 0 * (square[:-1] + square[1:])  # NaN of either goes on
        ends = (order[:-1], order[1:])
        return torch.cat([self._sums.rows(index[end], weight=same, value=apart) for end in ends])

    def add(self, step: int, rows: Tensor) -> None:
        """As of every :class:`Learner`.

        Raises:
            ValueError: a value that is not finite; on a GPU :meth:`proposal` finds it.
        """
        # Not where rows are made: all processes must find what one of them saw.
        if rows.device.type == "cpu" and not rows.isfinite().all():
            raise ValueError("observed residuals must be finite and u in [0, 1)")
        self._sums.add(step, rows)

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
        return {
            **self._sums.state_dict(),
            "statistic": self.statistic,
            "built": self._built,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str | None = None) -> None:
        """Goes on from :meth:`state_dict`, bit for bit.

        Args:
            device: of the sums; where they were by default.

        Raises:
            ValueError: the state is of another number of bins, or of another statistic.
        """
        weights = state["weights"]
        if len(weights) != self.bins:
            raise ValueError(f"the saved proposal has {len(weights)} bins, this one {self.bins}")
        if state.get("statistic") != self.statistic:
            raise ValueError(f"the saved proposal learned another statistic than {self.statistic}")
        self._sums.load_state_dict(state, device)
        self._built = state["built"]
        self._weights = weights.to("cpu", torch.float64, copy=True)
        self._latest = None


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
