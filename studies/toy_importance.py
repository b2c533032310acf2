"""Importance and stratified sampling on integrals known exactly.

    python -m studies.toy_importance [--quick] [--out FOLDER] [--seed N]

The paper's toy (arXiv 2605.21489) is a one-dimensional integrand on which an oracle proposal is worth about
4 × the compute of uniform draws and a Gaussian at the peak about 2.2 ×. We do not have its formula: the
integrand here is OURS, with round parameters chosen so that the exact figures come near those two,

    g(u, ε) = f(u) (1 + ε),    f(u) = 1 + 10 exp(−(u − 0.35)²/(2 · 0.04²)),    ε ~ N(0, 1),

oracle q* ∝ |f|, surrogate q = 0.8 · (Gaussian of the peak's place and width) + 0.2 · uniform. So these two
figures are no evidence for the paper's; what the study checks is that Proposal and NoiseLevelSampler realise
the variances that quadrature gives, and at which rate in K each strategy lowers them. Cost is the number
of draws (upstream free): ECM and relative efficiency are then the same ratio of variances at equal K.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.variance import CostModel, Estimate, ecm, relative_efficiency
from studies.claims import Claim, claims_table, show
from studies.integrands import (
    EXPONENTIAL,
    F64,
    PERIODIC,
    Integrand,
    Measured,
    cosine,
    exact_variance,
    measure,
    peak,
)
from studies.results import Rows, Study, columns, run_study, study_parser
from studies.toy_figures import draw_ecm, draw_rates

CENTRE, WIDTH = 0.35, 0.04
PEAK = peak(CENTRE, WIDTH, height=10, noise=1)
DEFENSIVE = 0.2
UNIFORM = Proposal.uniform()
PUBLISHED = {"oracle": 4.0, "surrogate": 2.2}

DRAWS = (1, 2, 4, 8, 16, 32, 64)
FIT_FROM = 4
"""Slopes are fitted from this K on: below it the leading power of 1/K is off by percents."""
COMBINED_DRAWS = (1, 2, 4, 8, 16, 64)
COMBINED = 16
"""K of the headline figures of strata on the peak."""
COSINE_DRAWS = (4, 16, 64)
NAMES = ("uniform", "surrogate", "oracle")
DRAW_COST = CostModel(upstream=0, draw=1)

THEORY = {"iid": -1, "stratified": -3, "global": -3, "systematic": -2, "sobol": -2}
"""Power of K for a smooth integrand; with one upstream sample nested is stratified, Latin hypercube iid."""
STRATEGIES = tuple(THEORY)


def proposals() -> dict[str, Proposal]:
    """Uniform, surrogate and oracle on 1,000 bins."""
    u = (torch.arange(UNIFORM.bins, dtype=F64) + 0.5) / UNIFORM.bins
    gaussian = torch.exp(-0.5 * ((u - CENTRE) / WIDTH) ** 2)
    return {
        "uniform": UNIFORM,
        "surrogate": Proposal.from_weights(gaussian, DEFENSIVE),
        "oracle": Proposal.from_weights(PEAK.f(u).abs()),
    }


@dataclass(frozen=True)
class Cell:
    """One estimator of one integrand: its variance, exact and measured."""

    integrand: Integrand
    proposal: str
    strategy: str
    draws: int
    exact: float
    measured: Measured

    def row(self) -> dict[str, Any]:
        """Columns of the CSV."""
        return {
            "integrand": self.integrand.name,
            "proposal": self.proposal,
            "strategy": self.strategy,
            "K": self.draws,
            "variance_exact": self.exact,
            **columns("variance", self.measured.variance),
            "mean_z": self.measured.z,
            "replicates": self.measured.replicates,
        }


def fit_slope(cells: Sequence[Cell]) -> tuple[Estimate, float]:
    """Slope of log variance over log K from K = FIT_FROM on: measured, and of the exact variances.

    Least squares with weights (variance/SE)²; the cells come from independent streams.
    """
    points = [c for c in cells if c.draws >= FIT_FROM]
    x = torch.tensor([math.log(c.draws) for c in points], dtype=F64)
    w = torch.tensor([(c.measured.variance.value / c.measured.variance.se) ** 2 for c in points], dtype=F64)
    x = x - (w * x).sum() / w.sum()
    information = (w * x * x).sum()

    def slope(variances: list[float]) -> float:
        return ((w * x * torch.tensor(variances, dtype=F64).log()).sum() / information).item()

    value, se = slope([c.measured.variance.value for c in points]), information.rsqrt().item()
    estimate = Estimate(value, se, value - 1.96 * se, value + 1.96 * se)
    return estimate, slope([c.exact for c in points])


def plan() -> list[tuple[Integrand, str, str, int]]:
    """(integrand, proposal, strategy, K) of every cell, each once."""
    combined = [(PEAK, q, s, k) for q in NAMES for s in ("iid", "stratified") for k in COMBINED_DRAWS]
    rates = [(f, "uniform", s, k) for f in (EXPONENTIAL, PERIODIC) for s in STRATEGIES for k in DRAWS]
    cosines = [(cosine(k), "uniform", s, k) for s in STRATEGIES for k in COSINE_DRAWS]
    return combined + rates + cosines


def measure_all(seed: int, quick: bool) -> list[Cell]:
    """Every cell of the plan."""
    q = proposals()
    cells = []
    with Progress(transient=True) as progress:
        for integrand, name, strategy, draws in progress.track(plan(), description="measuring"):
            # global and sobol need a call of the sampler for every replicate: fewer of them
            replicates = (1 if strategy in ("global", "sobol") else 12) * (1024 if quick else 8192)
            key = (seed, integrand.name, name, strategy, draws)
            sampler = NoiseLevelSampler(q[name], strategy)
            measured = measure(integrand, sampler, draws, replicates, stream(*key))
            exact = exact_variance(integrand, q[name], strategy, draws)
            cells.append(Cell(integrand, name, strategy, draws, exact, measured))
    return cells


class Results:
    """The cells by name, and the tables made of them."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = {(c.integrand.name, c.proposal, c.strategy, c.draws): c for c in cells}

    def cell(self, integrand: Integrand, proposal: str, strategy: str, draws: int) -> Cell:
        """One of them."""
        return self.cells[integrand.name, proposal, strategy, draws]

    def curve(self, integrand: Integrand, strategy: str) -> list[Cell]:
        """Uniform q over K."""
        return [self.cell(integrand, "uniform", strategy, k) for k in DRAWS]

    def ecm(self, proposal: str, strategy: str, draws: int) -> tuple[Estimate, float]:
        """On the peak, against uniform iid draws at the same K: measured, and exact."""
        base = self.cell(PEAK, "uniform", "iid", draws)
        method = self.cell(PEAK, proposal, strategy, draws)
        if method is base:
            return Estimate(1.0, 0.0, 1.0, 1.0), 1.0
        cost = DRAW_COST(1, draws)
        return ecm(base.measured.variance, cost, method.measured.variance, cost), base.exact / method.exact

    def efficiency(self, integrand: Integrand, strategy: str, draws: int) -> tuple[Estimate, float]:
        """RE against iid draws, both under uniform q: measured, and exact."""
        base = self.cell(integrand, "uniform", "iid", draws)
        method = self.cell(integrand, "uniform", strategy, draws)
        return relative_efficiency(
            base.measured.variance, method.measured.variance
        ), base.exact / method.exact

    def ecm_rows(self) -> list[dict[str, Any]]:
        """Importance, strata and both, over K."""
        rows = []
        for c in self.cells.values():
            if c.integrand is PEAK:
                measured, exact = self.ecm(c.proposal, c.strategy, c.draws)
                rows.append({**c.row(), "ecm_exact": exact, **columns("ecm", measured)})
        return rows

    def rate_rows(self) -> list[dict[str, Any]]:
        """Variance over K of smooth integrands under uniform q."""
        return [c.row() for c in self.cells.values() if c.integrand in (EXPONENTIAL, PERIODIC)]

    def slope_rows(self) -> list[dict[str, Any]]:
        """Fitted powers of K on the smooth, non-periodic integrand."""
        rows = []
        for strategy in STRATEGIES:
            slope, exact = fit_slope(self.curve(EXPONENTIAL, strategy))
            rows.append(
                {
                    "integrand": EXPONENTIAL.name,
                    "strategy": strategy,
                    "fitted_K": f"{FIT_FROM} … {DRAWS[-1]}",
                    "theory": THEORY[strategy],
                    "slope_exact": exact,
                    **columns("slope", slope),
                }
            )
        return rows

    def cosine_rows(self) -> list[dict[str, Any]]:
        """cos 2πKu with K draws: one period in each stratum."""
        rows = []
        for strategy in STRATEGIES:
            for k in COSINE_DRAWS:
                row = self.cell(cosine(k), "uniform", strategy, k).row()
                if strategy != "iid":
                    measured, exact = self.efficiency(cosine(k), strategy, k)
                    row |= {"efficiency_exact": exact, **columns("efficiency", measured)}
                rows.append(row)
        return rows

    def claims(self) -> list[Claim]:
        """The numbers that the study is about."""
        claims = []
        for name, published in PUBLISHED.items():
            expected = f"≈ {published:g} on the paper's integrand"
            claims.append(Claim(f"ECM, {name}, iid", "peak, K = 1", *self.ecm(name, "iid", 1), expected))
        for name, expected in (
            ("uniform", "strata alone"),
            ("surrogate", "both: more than either"),
            ("oracle", "flat in u: strata add nothing"),
        ):
            found = self.ecm(name, "stratified", COMBINED)
            claims.append(Claim(f"ECM, {name}, stratified", f"peak, K = {COMBINED}", *found, expected))
        for strategy in STRATEGIES:
            slope = fit_slope(self.curve(EXPONENTIAL, strategy))
            case = f"{EXPONENTIAL.name}, K = {FIT_FROM}–{DRAWS[-1]}"
            claims.append(Claim(f"power of K, {strategy}", case, *slope, f"{THEORY[strategy]}"))
        for integrand, k, strategy, expected in (
            (EXPONENTIAL, 64, "stratified", "order K² = 4,096"),
            (EXPONENTIAL, 64, "systematic", "order K = 64"),
            (cosine(16), 16, "stratified", "1: no gain"),
            (cosine(16), 16, "systematic", "1/K: it fails"),
            (cosine(16), 16, "sobol", "1/K: it fails"),
        ):
            found = self.efficiency(integrand, strategy, k)
            claims.append(Claim(f"RE, {strategy}", f"{integrand.name}, K = {k}", *found, expected))
        return claims

    def verdict(self) -> list[str]:
        """What the numbers say, in sentences."""
        cells = list(self.cells.values())
        rounding = max(c.measured.variance.value for c in self.curve(PERIODIC, "systematic") if c.draws >= 4)
        drawn = [c for c in cells if c.exact > 1e-25]
        covered = sum(c.measured.variance.low <= c.exact <= c.measured.variance.high for c in drawn)
        worst = max(drawn, key=lambda c: abs(c.measured.z))
        claims = self.claims()
        failed = sum(not c.holds for c in claims)
        return [
            *(c.sentence() for c in claims),
            f"Systematic draws on the periodic {PERIODIC.name} are exact from K = 4 on: measured variance at "
            f"most {rounding:.1g}, which is rounding.",
            f"{covered} of {len(drawn)} 95 % intervals of a variance hold its exact value; the mean farthest "
            f"from its integral is {abs(worst.measured.z):.1f} standard errors off.",
            f"{len(claims) - failed} of {len(claims)} figures agree with their exact value within 4 standard "
            "errors.",
        ]


def run(study: Study, arguments: argparse.Namespace) -> None:
    """Measures, writes and prints."""
    results = Results(measure_all(arguments.seed, arguments.quick))
    claims = results.claims()
    verdict = results.verdict()
    integrand = {
        "origin": "ours, its parameters chosen so that the exact figures come near the paper's 4 and 2.2",
        "draw": "g(u, eps) = f(u) (1 + eps), eps ~ N(0, 1)",
        "f": f"1 + 10 exp(-(u - {CENTRE})^2 / (2 {WIDTH}^2))",
        "oracle": "q proportional to |f|",
        "surrogate": f"{1 - DEFENSIVE} Gaussian({CENTRE}, {WIDTH}) + {DEFENSIVE} uniform",
        "cost": "draws; the upstream sample is free",
    }
    ecm_rows, rates = results.ecm_rows(), results.rate_rows()
    slopes, cosines = results.slope_rows(), results.cosine_rows()
    study.write("ecm", ecm_rows, integrand=integrand)
    study.write("rates", rates)
    study.write("slopes", slopes)
    study.write("cosine", cosines)
    study.write("summary", [c.row() for c in claims], verdict=verdict, integrand=integrand)
    study.draw("ecm", draw_ecm(ecm_rows, PEAK.f, proposals(), COMBINED))
    study.draw("rates", draw_rates(rates, slopes, cosines, EXPONENTIAL.name))
    console = Console()
    console.print(claims_table("Toy integrands", claims), cosine_table(cosines))
    for sentence in verdict[len(claims) :]:
        console.print(sentence, highlight=False)


def cosine_table(rows: Rows) -> Table:
    """Where shifted grids fail."""
    title = "cos 2πKu with K draws: relative efficiency over iid draws"
    table = Table("strategy", *(f"K = {k}" for k in COSINE_DRAWS), title=title)
    for strategy in STRATEGIES[1:]:
        found = [r for r in rows if r["strategy"] == strategy]
        cells = (show(r["efficiency"], r["efficiency_low"], r["efficiency_high"]) for r in found)
        table.add_row(strategy, *cells)
    return table


def main(words: Sequence[str] | None = None) -> int:
    """The study from its command line."""
    return run_study("toy_importance", study_parser(__doc__), run, words)


if __name__ == "__main__":
    sys.exit(main())
