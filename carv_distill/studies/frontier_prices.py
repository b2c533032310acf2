"""Seconds of a text-to-3D step at each (R, K), timed alone on one thread."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from carv_distill.accounting import time_stages
from carv_distill.carv import CostModel, StageTimer
from carv_distill.files import write_json
from carv_distill.sds import SDSModule
from carv_distill.training.target import load_target

AT_ONCE = 4
"""Renders that a step works through at a time; more of them cost in proportion."""


@dataclass(frozen=True)
class Prices:
    """What the study's steps cost.

    Args:
        kappa: (render + encode + backward)/draw at (1, 8).
        sample: seconds of a render, encoded and with its backward, four at a time.
        other: seconds of a step besides its gradient.
        gradient: "R,K" → seconds of one gradient, R ≤ 4.
    """

    kappa: float
    sample: float
    other: float
    gradient: dict[str, float]

    def __call__(self, upstream: int, draws: int, other: bool = False) -> float:
        """Seconds of a gradient, or of a whole step."""
        passes = max(upstream // AT_ONCE, 1)
        return passes * self.gradient[f"{min(upstream, AT_ONCE)},{draws}"] + (self.other if other else 0.0)


def measure_prices(run: Path, places: Iterable[tuple[int, int]], kept: Path, repeats: int = 15) -> Prices:
    """Times a trained run at these (R, K).

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
    parameters, sampler = module.measured_parameters, module.sampler

    def cost(upstream: int, draws: int) -> CostModel:
        own = StageTimer()
        time_stages(module.pipeline, parameters, sampler, upstream, draws, own, repeats)
        return CostModel.measured(own)

    small = sorted({(min(r, AT_ONCE), k) for r, k in places})
    gradient = {f"{r},{k}": cost(r, k)(r, k) for r, k in small}
    prices = Prices(cost(1, 8).kappa, cost(AT_ONCE, 4).sample, timer.median("other"), gradient)
    write_json(kept, asdict(prices))
    return prices
