"""Seconds of a text-to-3D step at each (R, K), timed alone on one thread."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from carv_distill.commands.target import load_target
from carv_distill.files import write_json
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.variance import CostModel, StageTimer, time_stages

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

    def __call__(self, upstream: int, draws: int, other: bool = False) -> float:
        """Seconds of a gradient, or of a whole step."""
        passes = max(upstream // AT_ONCE, 1)
        return passes * self.gradient[f"{min(upstream, AT_ONCE)},{draws}"] + (self.other if other else 0.0)


def measure_prices(run: Path, places: Iterable[tuple[int, int]], kept: Path, rounds: int = 8) -> Prices:
    """Times a trained run at these (R, K), in turns, so that what disturbs the machine disturbs all alike.

    Args:
        kept: JSON of the prices; one that exists is read. Remove it to time anew, on a quiet machine.
    """
    if kept.is_file():
        return Prices(**json.loads(kept.read_text()))
    torch.set_num_threads(1)
    module = load_target(run, "cpu").module
    assert isinstance(module, SDSModule)
    timer = StageTimer()
    module.time_other(timer, 50)
    small = sorted({(min(r, AT_ONCE), k) for r, k in (*places, (1, 8), (AT_ONCE, 4))})
    timers = {place: StageTimer() for place in small}
    for number in range(rounds + 1):
        for (r, k), counted in timers.items():
            own = counted if number else StageTimer()  # the first round warms up
            time_stages(module.pipeline, module.measured_parameters, module.sampler, r, k, own, repeats=3)
    cost = {place: CostModel.measured(t) for place, t in timers.items()}
    gradient = {f"{r},{k}": c(r, k) for (r, k), c in cost.items()}
    prices = Prices(cost[1, 8].kappa, cost[AT_ONCE, 4].sample, timer.median("other"), gradient)
    write_json(kept, asdict(prices))
    return prices
