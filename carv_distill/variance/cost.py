"""What a gradient costs, and what a variance is worth at that cost."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from carv_distill.carv import Chunk, NoiseLevelSampler, carv_loss, stream

from .estimate import Estimate, paired_ratio, ratio, scaled
from .pipeline import Pipeline, flat_gradient, sample_upstream

LEAST_SLOPE = 0.1
"""Of the largest size's share, that one more takes at least by a line."""


class StageTimer:
    """Wall-clock seconds of named stages, with the device synchronised at both ends.

    Args:
        device: whose queue is waited for; a CPU has none.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str, units: int = 1) -> Iterator[None]:
        """Times a block that does the stage's work `units` times over, as seconds per unit."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name].append((time.perf_counter() - start) / units)

    def median(self, name: str) -> float:
        """Median seconds of one unit."""
        return statistics.median(self._timed(name))

    def spread(self, name: str) -> float:
        """Upper over lower quartile of a stage's seconds: far above 1 on a busy machine."""
        if len(self._timed(name)) < 2:
            raise ValueError(f"stage {name!r} was timed once; its spread needs two timings")
        low, _, high = statistics.quantiles(self.seconds[name], n=4, method="inclusive")
        return high / low

    def _timed(self, name: str) -> list[float]:
        if not self.seconds.get(name):
            raise ValueError(f"stage {name!r} was never timed; timed were {sorted(self.seconds) or 'none'}")
        return self.seconds[name]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def time_stages(
    pipeline: Pipeline,
    parameters: Sequence[Tensor],
    sampler: NoiseLevelSampler,
    upstream: int,
    draws: int,
    timer: StageTimer,
    repeats: int = 10,
    chunk: int | Chunk | None = None,
    seed: int = 0,
) -> None:
    """Times upstream, draw and backward at this R and K; a first round warms up and is thrown away.

    Seconds are per upstream sample and per draw, at the batch sizes that this R and K give. What an objective
    adds to the residual, a push and a penalty, is the upstream sample's.

    Args:
        timer: gets the seconds; time its stage ``other`` yourself where an iteration does more.
        repeats: rounds that count.
        chunk: see :func:`average_residual`.
    """
    device = parameters[0].device

    def ready(push: Tensor) -> Callable[[torch.Generator], Tensor]:
        return lambda _: push

    for number in range(repeats + 1):
        counted = timer if number else StageTimer(device)
        own = stream(seed, "stages", number, device=device)
        with counted.stage("upstream", upstream):
            sample = sample_upstream(pipeline, upstream, own)
            if sample.push is not None:
                sample = sample._replace(push=ready(sample.push(own)))
        with counted.stage("draw", upstream * draws):
            drawn = sampler.draw(upstream, draws, sample.noise_shape, own, dtype=sample.x.dtype)
            loss, _ = carv_loss(sample, drawn, own, chunk)
        with counted.stage("backward", upstream):
            flat_gradient(loss, parameters)


@dataclass(frozen=True)
class CostModel:
    """Cost of one iteration, c(R, K) = other + calls + R (upstream + backward + K · draw), in one unit
    throughout.

    Args:
        upstream: of one more upstream sample: render and encode, or the generator's forward.
        draw: of one more re-noising: the frozen networks' forward.
        backward: from one more x back to the parameters.
        other: of an iteration, whatever R and K: in DMD the fake score's updates, the optimiser, the EMA.
        calls: of a gradient, whatever R and K: what a call takes besides its samples, for which small batches
            cost more each.

    Raises:
        ValueError: a cost that is negative or not finite, or draw = 0 (then K would be free).
    """

    upstream: float
    draw: float
    backward: float = 0.0
    other: float = 0.0
    calls: float = 0.0

    def __post_init__(self) -> None:
        for name in ("upstream", "draw", "backward", "other", "calls"):
            value = getattr(self, name)
            if not 0 <= value < float("inf") or (name == "draw" and value == 0):
                raise ValueError(f"cost {name} must be finite and positive, found {value}")

    @classmethod
    def declared(cls, kappa: float) -> CostModel:
        """Costs in units of a draw: an upstream sample with its backward costs κ = c_up/c_draw."""
        return cls(upstream=kappa, draw=1.0)

    @classmethod
    def measured(cls, timer: StageTimer) -> CostModel:
        """Medians of the stages upstream, draw, backward and, where it was timed, other, at one (R, K): right
        there, and too high for more, too low for less."""
        other = timer.median("other") if timer.seconds.get("other") else 0.0
        return cls(timer.median("upstream"), timer.median("draw"), timer.median("backward"), other)

    @classmethod
    def fitted(cls, timed: Mapping[tuple[int, int], StageTimer], other: float = 0.0) -> CostModel:
        """Of stages that were timed at several (R, K): a line a + b n for each (:func:`fitted_line`), n its
        samples or its R K draws; b is the price, and `calls` the sum of all a. Above the largest n that was
        timed the lines are an extrapolation.

        Raises:
            ValueError: nothing was timed.
        """
        if not timed:
            raise ValueError("stages were timed at no (R, K)")

        def line(name: str, units: Callable[[int, int], int]) -> tuple[float, float]:
            found = {at: units(*at) for at in timed}
            return fitted_line(list(found.values()), [timed[at].median(name) * n for at, n in found.items()])

        upstream, backward = (line(name, lambda r, _: r) for name in ("upstream", "backward"))
        draw = line("draw", lambda r, k: r * k)
        fixed = upstream[0] + backward[0] + draw[0]
        return cls(upstream[1], draw[1], backward[1], other, fixed)

    def at(self, upstream: int) -> CostModel:
        """The same at this R, whatever K: its samples share the calls, which so are part of theirs."""
        return replace(self, upstream=self.upstream + self.calls / upstream, calls=0.0)

    @property
    def fixed(self) -> float:
        """Of an iteration, whatever R and K."""
        return self.other + self.calls

    @property
    def sample(self) -> float:
        """Of one upstream sample, forward and backward."""
        return self.upstream + self.backward

    @property
    def kappa(self) -> float:
        """κ = (upstream + backward)/draw."""
        return self.sample / self.draw

    def __call__(self, upstream: int, draws: int) -> float:
        """c(R, K)."""
        return self.fixed + upstream * (self.sample + draws * self.draw)


def fitted_line(units: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """(a, b) of seconds a + b n, by least squares of the relative errors over a ≥ 0 and b from a tenth of the
    largest n's share on: where more take hardly longer, what one more takes is lost in the noise, and with it
    what K = 64 would cost. Of one n alone b is its share, and a = 0."""
    n, t = np.asarray(units, dtype=float), np.maximum(np.asarray(seconds, dtype=float), 1e-12)
    largest = n == n.max()
    share = float(np.median(t[largest]) / n.max())
    if largest.all():
        return 0.0, share
    least = LEAST_SLOPE * share
    (a, more), _ = nnls(np.column_stack([1 / t, n / t]), 1 - least * n / t)
    return float(a), least + float(more)


def relative_efficiency(uniform: Estimate, method: Estimate, paired: bool = False) -> Estimate:
    """RE = Var_uniform / Var_method at the same (R, K).

    Args:
        paired: both were measured on the same upstream draws, replicate by replicate.
    """
    return (paired_ratio if paired else ratio)(uniform, method)


def ecm(
    base: Estimate, base_cost: float, method: Estimate, method_cost: float, paired: bool = False
) -> Estimate:
    """Effective compute multiplier, (Var_b · cost_b)/(Var_m · cost_m): at equal variance, the ratio of costs.

    Source: arXiv 2605.21489.
    """
    return scaled(relative_efficiency(base, method, paired), base_cost / method_cost)


def largest_ecm(between: float, within: float, cost: CostModel, draws: int = 1) -> float:
    """What no K of iid draws exceeds, against K = `draws`, and without fixed costs no (R, K): the greatest
    over whole k ≥ 1 of

        (V_B + V_W/K)(c_u + K c_d) / ((V_B + V_W/k)(c_u + k c_d)),

    at :func:`best_whole_draws`; where that is infinite, its limit (V_W/K)(c_u + K c_d) / (V_W c_d).

    Args:
        between, within: V_B and V_W of one sample and one draw; a negative estimate counts as zero.
        cost: whose `other` and `calls` are left out; of one R with its calls by :meth:`CostModel.at`.
    """
    between, within = max(between, 0.0), max(within, 0.0)
    if between == within == 0:
        return 1.0  # nothing was seen to vary
    best = best_whole_draws(between, within, cost)
    least = within * cost.draw if math.isinf(best) else _price(between, within, cost, best)
    return _price(between, within, cost, draws) / least


def best_draws(between: float, within: float, cost: CostModel) -> float:
    """K* = √(c_up V_within/(c_draw V_between)), the real-valued optimum of iid draws without `other` and
    `calls`.

    Twice as many draws cost at most 12.5 % more variance × cost.
    """
    return (cost.sample * within / (cost.draw * between)) ** 0.5 if between > 0 else float("inf")


def best_whole_draws(between: float, within: float, cost: CostModel) -> float:
    """The whole K ≥ 1 of least variance × cost, beside :func:`best_draws`, as that is convex in K; infinite
    where nothing lies between samples."""
    star = best_draws(between, max(within, 0.0), cost)
    if math.isinf(star):
        return star
    below = max(math.floor(star), 1)
    return min(below, below + 1, key=lambda k: _price(between, within, cost, k))


def _price(between: float, within: float, cost: CostModel, draws: float) -> float:
    """Variance × cost of K iid draws of one sample, without `other` and `calls`."""
    return (between + within / draws) * (cost.sample + draws * cost.draw)
