"""Seconds of a text-to-3D step at each (R, K), timed alone on one thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from carv_distill.variance import CostModel, MeasuredGradient, StageTimer, time_stages
from studies.gradient import one_thread

AT_ONCE = 4
"""Renders that a step works through at a time; more of them cost in proportion."""


@dataclass(frozen=True)
class Prices:
    """What the study's steps cost.

    Args:
        kappa: (render + encode + backward)/draw at (1, 8).
        sample: seconds of a render, encoded and with its backward, four at a time.
        other: seconds of a step besides its gradient.
        gradient: "R,K" → seconds of one gradient, R ≤ 4; multiples of four renders cost multiples of it.
    """

    kappa: float
    sample: float
    other: float
    gradient: dict[str, float]

    def __call__(self, upstream: int, draws: int) -> float:
        """Seconds of a gradient."""
        passes = max(upstream // AT_ONCE, 1)
        return passes * self.gradient[f"{min(upstream, AT_ONCE)},{draws}"]

    def step(self, upstream: int, draws: int) -> float:
        """Seconds of a whole step."""
        return self(upstream, draws) + self.other


def measure_prices(g: MeasuredGradient, places: Iterable[tuple[int, int]], rounds: int = 8) -> Prices:
    """Times a gradient at these (R, K), in turns, so that what disturbs the machine disturbs all alike."""
    other, wanted = StageTimer(), {*places, (1, 8), (AT_ONCE, 4)}
    timers = {place: StageTimer() for place in sorted({(min(r, AT_ONCE), k) for r, k in wanted})}
    with one_thread():
        for _ in range(5):
            g.time_other(other)
        for number in range(rounds + 1):
            for place, counted in timers.items():
                # the first round warms up
                seconds = counted if number else StageTimer()
                time_stages(g.sample, g.parameters, g.sampler, *place, seconds, repeats=3)
    cost = {place: CostModel.measured(timer) for place, timer in timers.items()}
    prices = {f"{r},{k}": c(r, k) for (r, k), c in cost.items()}
    return Prices(cost[1, 8].kappa, cost[AT_ONCE, 4].sample, other.median("other"), prices)
