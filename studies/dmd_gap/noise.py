"""What noise of a student's gradient is left after its average, beside the signal.

    N = V/(H |E g|²),    H = 1/(1 − δ),

with V the variance of an update's gradient and δ the decay of the student's average at that update, which is
ramped while a run is young.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from carv_distill.distillation.averages import average_decays
from carv_distill.distillation.options import DMDOptions
from carv_distill.variance import Estimate, mean_estimate


@dataclass(frozen=True)
class NoiseLeft:
    """N, or a bound."""

    value: float
    least: bool
    """Whether N may be larger: the signal is not told from 0, and its upper end stands for it."""


def horizon(options: DMDOptions, samples: int, step: int) -> float:
    """H: about how many updates the student's average takes in after so many.

    Args:
        samples: of the student in an update.
    """
    return 1 / (1 - average_decays(options, samples, step)[0])


def noise_left(variance: float, signal: Estimate, updates: float) -> NoiseLeft:
    """Of one state; `updates` is H."""
    told = signal.low > 0
    return NoiseLeft(variance / (updates * (signal.value if told else max(signal.high, signal.se))), not told)


def noise_of_runs(runs: Sequence[pd.DataFrame], options: DMDOptions, samples: int) -> NoiseLeft:
    """Median over the measured states but the untrained one. V and |E g|² of a state are means over the runs,
    as a ratio for each run would be mostly the noise of its few pairs.

    Args:
        runs: metrics of two trainings or more that differ by their seed alone.
    """
    rows = pd.concat(runs).dropna(subset="variance/carv/total")
    found = []
    for step, state in rows[rows.step > 0].groupby("step"):
        signal = mean_estimate(state["variance/carv/squared_norm"].tolist())
        variance = statistics.fmean(state["variance/carv/total"])
        found.append(noise_left(variance, signal, horizon(options, samples, int(step))))
    low = statistics.median(n.value for n in found)
    high = statistics.median(math.inf if n.least else n.value for n in found)
    return NoiseLeft(low, low != high)
