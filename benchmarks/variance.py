"""What variance accounting costs beside its gradients: python -m benchmarks.variance [--rounds 10]

Ratios, each measured in this process by alternating the two sides and taking medians:

- a variance budget of 32 × 8 replicates on the digits student against the bare gradient calls that it
  consists of, made by hand (at most 1.2);
- noise levels and weights for R·K = 65,536 against `torch.rand` and `searchsorted` of it (at most 1.5).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import ratio_of
from benchmarks.report import options, report
from benchmarks.updates import build
from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.engine.console import quiet_libraries
from carv_distill.variance import VarianceBudget

UPSTREAMS, LEVELS, NOISES = 32, 4, 2
BOUNDS = {"variance budget": 1.2, "noise levels": 1.5}
Interval = tuple[float, float, float]


def alternate(a: Callable[[], object], b: Callable[[], object], rounds: int) -> Interval:
    """Ratio of the times of a and b, taken in turn after one warm-up of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for side, call in enumerate((a, b)):
            start = time.perf_counter()
            call()
            if number:
                seconds[side].append(time.perf_counter() - start)
    return ratio_of(*seconds)


def budget_ratio(config: Path, rounds: int) -> Interval:
    """`VarianceBudget.measure` against one forward and 8 backwards for each of 32 samples."""
    o = build(config).objective
    parameters = list(o.student.parameters())
    draws = LEVELS * NOISES
    one = torch.ones(draws)

    def bare() -> None:
        for number in range(UPSTREAMS):
            z, label = o.upstream_noise(1, stream(number))
            x = o.student.network(z, one[:1], label)
            with torch.no_grad():
                many, labels = z.expand(draws, *z.shape[1:]), label.expand(draws)
                r = o.teacher.network(many, one, labels) - o.fake.network(many, one, labels)
            for k in range(draws):
                torch.autograd.grad(x, parameters, r[k : k + 1], retain_graph=k + 1 < draws)

    def budget() -> None:
        VarianceBudget.measure(o.pipeline(), parameters, stream("budget"), None, UPSTREAMS, LEVELS, NOISES)

    return alternate(budget, bare, rounds)


def levels_ratio(rounds: int) -> Interval:
    """Stratified levels with their weights, R = 4,096 and K = 16, from a proposal of 1,000 bins."""
    sampler = NoiseLevelSampler(Proposal.from_weights(torch.arange(1.0, 1001.0), defensive=0.1), "stratified")
    cdf = torch.cumsum(sampler.proposal.mass, 0)
    g = stream("levels")

    def bare() -> None:
        for _ in range(20):
            torch.searchsorted(cdf, torch.rand(4096, 16, generator=g, dtype=torch.float64))

    def levels() -> None:
        for _ in range(20):
            sampler.levels(4096, 16, g)

    return alternate(levels, bare, rounds)


def main() -> None:
    arguments = options(__doc__, rounds=10)
    quiet_libraries()
    results = {
        "variance budget": budget_ratio(arguments.config, arguments.rounds),
        "noise levels": levels_ratio(10 * arguments.rounds),
    }
    report("Variance accounting", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
