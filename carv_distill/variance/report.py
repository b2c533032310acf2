"""An analysis as tables, as JSON, and as sentences computed from it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from carv_distill.carv import NOISES

from .advice import Advice
from .analysis import OWN, Analysis
from .budget import VarianceBudget
from .comparison import ArmVariance, Comparison
from .cost import best_draws, largest_ecm
from .estimate import Estimate, paired_ratio
from .parity import NoiseParity
from .regime import Regime
from .table import WIDTH, Table, estimate_dict, number, with_interval

SAMPLERS = {
    "uniform": "independent noise levels, uniform in u",
    "IW": "noise levels by importance, reweighted",
    "Strat": "one noise level in each of K strata",
    "IW+Strat": "both",
    "best": "nested strata, Neyman proposal, and noises coupled where that was seen to help",
    OWN: "the run's own strategy, proposal and coupling of noises",
}
"""What the names of arms mean: those of :func:`~.comparison.standard_arms`, and the run's own."""


def analysis_summary(a: Analysis) -> list[Table | str]:
    """What fits on a screen: the samplers at the largest K beside the baseline, what to use, and what short
    names mean."""
    return [_largest_draws(a.comparison), _sentences(a), _short_names(a.comparison, left_out=("RE",))]


def analysis_report(a: Analysis) -> str:
    """All of it as text: what to use, then :func:`analysis_tables`."""
    return "\n\n".join([_sentences(a), *map(str, analysis_tables(a))])


def _sentences(a: Analysis) -> str:
    return "\n".join(textwrap.fill(said, WIDTH) for said in (_shares(a.comparison), *conclusions(a)))


def analysis_tables(a: Analysis) -> list[Table]:
    """What short names mean; budget, variance and worth of every sampler at every K, costs, noise, advice;
    intervals are of 95 %."""
    c = a.comparison
    tables = [_short_names(c), _budget(c), _variances(c), _worth(c), _costs(c)]
    return [*tables, _parity(a.parity, a.noise), _advice(c, a.advice)]


def _short_names(c: Comparison, left_out: Sequence[str] = ()) -> Table:
    names = [
        ("R", "upstream samples of a gradient: images, or renders"),
        ("K", "draws of noise level and noise for each upstream sample"),
        *((name, textwrap.fill(f"sampler: {SAMPLERS[name]}", 62)) for name in c.arms()),
        ("variance", "trace of the covariance of the parameter gradient"),
        ("RE", f"relative efficiency: variance of {c.base.arm} over this one's, equal K"),
        ("ECM", "effective compute multiplier: variance × seconds of an\n"
         f"iteration with {c.base.arm} K = {c.base.draws} over this one's"),
    ]  # fmt: skip
    return Table("Short names", ("name", "meaning"), [row for row in names if row[0] not in left_out])


def _largest_draws(c: Comparison) -> Table:
    most = max(r.draws for r in c.rows)
    rows = [
        (r.arm, str(r.draws), with_interval(r.total), with_interval(r.within), _iteration(c, r))
        for r in c.rows
        if r is c.base or r.draws == most
    ]
    return Table(
        f"Variance of the gradient, R = {c.base.upstream}, and what it is worth",
        ("sampler", "K", "total", "upstream fixed", "ECM of the iteration"),
        rows,
        "Intervals: 95 %, nominal. Upstream fixed: the part that comes from noise levels and noises. R is "
        "the same in all rows; the advice below may take another.",
    )


def _iteration(c: Comparison, row: ArmVariance) -> str:
    return with_interval(c.ecm(row, whole_iteration=True), ".2f")


def _parts(b: VarianceBudget) -> dict[str, tuple[Estimate, float]]:
    """Of a single draw's variance, with their shares."""
    whole = b.between.value + b.within.value
    parts = {"between upstream samples": b.between, "noise level": b.within_level, "noise": b.within_noise}
    return {name: (e, e.value / whole) for name, e in parts.items()}


def _shares(c: Comparison) -> str:
    between, level, noise = (share for _, share in _parts(c.budget).values())
    return (
        f"Of a single draw's variance {between:.0%} lies between upstream samples, {level:.0%} comes from "
        f"the noise level and {noise:.0%} from the noise."
    )


def _budget(c: Comparison) -> Table:
    b = c.budget
    rows = [(name, with_interval(e), f"{share:.0%}") for name, (e, share) in _parts(b).items()]
    return Table(
        "Variance budget of a single draw, R = K = 1",
        ("part", "variance", "share"),
        [*rows, ("total", with_interval(b.total), "")],
    )


def _variances(c: Comparison) -> Table:
    return Table(
        f"Variance of the gradient, R = {c.base.upstream}",
        ("sampler", "K", "total", "upstream fixed"),
        [(r.arm, str(r.draws), with_interval(r.total), with_interval(r.within)) for r in c.rows],
        "Upstream fixed: the part that comes from noise levels and noises, with the upstream samples held "
        "fixed. Intervals: 95 %, nominal; heavy-tailed "
        "gradients and few pairs make them somewhat too short.",
    )


def _worth(c: Comparison) -> Table:
    rows = []
    for r in c.rows:
        estimates = (with_interval(e, ".2f") for e in (c.relative_efficiency(r), c.ecm(r)))
        rows.append((r.arm, str(r.draws), *estimates, _iteration(c, r)))
    return Table(
        "What it is worth",
        ("sampler", "K", "RE", "ECM of the gradient", "ECM of the iteration"),
        rows,
        "ECM with the seconds of the gradient alone, or of an iteration with all that it does besides.",
    )


def _costs(c: Comparison) -> Table:
    stages = {
        "upstream, per sample": c.cost.upstream,
        "draw, per draw": c.cost.draw,
        "backward, per sample": c.cost.backward,
        "calls, per gradient": c.cost.calls,
        "other, per iteration": c.cost.other,
    }
    rows = [(name, number(1e3 * seconds)) for name, seconds in stages.items()]
    return Table(
        "Cost",
        ("stage", "milliseconds"),
        rows,
        "Lines through medians at several (R, K): what one more takes, and what calls take besides.",
    )


def _parity(parity: NoiseParity, noise: str) -> Table:
    rows = []
    for name, factor in parity.factors.items():
        theory = (f"{NOISES[name].hermite_factor(degree, parity.draws):.3g}" for degree in (1, 2))
        rows.append(
            (name + (", used in best" if name == noise else ""), with_interval(factor, ".3g"), *theory)
        )
    return Table(
        f"Noise, K = {parity.draws}",
        ("coupling of the noises", "variance, iid = 1", "if linear in ε", "if quadratic"),
        rows,
        "Beside the measured factor that of a residual of one degree in ε, all draws at one noise level.",
    )


def _advice(c: Comparison, advice: dict[str, Advice]) -> Table:
    return Table(
        "Advice",
        ("sampler", "R", "K", "variance", "ms per iteration", "predicted ECM"),
        [
            (name, str(a.upstream), str(a.draws), number(a.variance), number(1e3 * a.cost), f"{a.ecm:.2f}")
            for name, a in advice.items()
        ],
        "For each sampler the R and K of least variance × seconds in the seconds allowed; ECM of the "
        f"iteration, against {c.base.arm} ({c.base.upstream}, {c.base.draws}). What is spread over the "
        f"batch, as nested strata, gains more from R above {c.base.upstream} than is counted here, and "
        "smaller R are not tried with it.",
    )


def conclusions(a: Analysis) -> list[str]:
    """What samplers of draws can give at most, what to use, and what that gives."""
    c, best, base = a.comparison, a.advice[a.best], a.comparison.base
    sentences = []
    if (most := largest_reduction(a)) is not None:
        sentences.append(
            f"At R = {base.upstream} no sampler of draws lowers the variance of {base.arm} K = {base.draws} "
            f"more than {with_interval(most, '.3g')} times: only more upstream samples lower the rest."
        )

    def work(arm: str, r: int, k: int) -> float:
        return c.within_model(arm).variance(r, k) * c.cost(r, k)

    arm, r, k = a.setting
    base_work = work(base.arm, base.upstream, base.draws)
    own, plain = (base_work / work(*at) for at in (a.setting, (base.arm, best.upstream, best.draws)))
    named = f"({r}, {k})" if arm == OWN else f"({r}, {k}) {arm}"
    beside = f" {a.predicted.value / own:.2f} × that of the run's own {named}"
    if a.best != base.arm:
        beside += (
            f", and {a.predicted.value / plain:.2f} × that of {base.arm} draws there, which is what the "
            "sampler gives"
        )
    sentences.append(
        f"Use R = {best.upstream}, K = {best.draws} with {a.best}, in the run's own seconds: predicted "
        f"effective compute{beside}. In ECM, against {base.arm} ({base.upstream}, {base.draws}): "
        f"{with_interval(a.predicted, '.2f')}, the run's own {own:.2f}, {base.arm} draws there {plain:.2f}."
    )
    own_model = c.within_model(arm)
    if own_model.least_upstream > 1 and r > base.upstream:
        sentences.append(
            f"What the run's own sampler, spread over the batch, gains from R = {r} above {base.upstream} is "
            f"not counted, so that its part is better than this says: --upstream {r} measures it."
        )
    if a.shares > 1:
        sentences.append(
            f"An iteration accumulates {a.shares} such batches of R samples: R and seconds are of one, with "
            "its share of what an iteration does besides."
        )
    check = a.check
    sentences.append(
        f"Tried: variance {with_interval(check.total, '.3g')} for {best.variance:.3g} as predicted, "
        f"{number(1e3 * check.seconds)} ms per iteration for {number(1e3 * best.cost)} (the run's own takes "
        f"{number(1e3 * c.cost(r, k))}): ECM {with_interval(check.ecm, '.3g')}."
    )
    if check.ecm.low < own < check.ecm.high:
        sentences.append("That does not tell it from the run's own; more pairs would.")
    return [*sentences, *Regime.of(c.budget, c.cost, r).sentences()]


def largest_reduction(a: Analysis) -> Estimate | None:
    """Total variance of the baseline over its part between upstream samples; None if that is not seen."""
    base = a.comparison.base
    return paired_ratio(base.total, base.between) if base.between.low > 0 else None


def analysis_dict(a: Analysis) -> dict[str, Any]:
    """The same numbers for JSON."""
    c, (arm, r, k), most = a.comparison, a.setting, largest_reduction(a)
    parts = ("between", "within_level", "within_noise", "within", "total", "squared_norm")
    rows = [
        {
            "sampler": row.arm,
            "upstream": row.upstream,
            "draws": row.draws,
            "total": estimate_dict(row.total),
            "within": estimate_dict(row.within),
            "between": estimate_dict(row.between),
            "re": estimate_dict(c.relative_efficiency(row)),
            "ecm": estimate_dict(c.ecm(row)),
            "ecm_iteration": estimate_dict(c.ecm(row, True)),
        }
        for row in c.rows
    ]
    between, within = c.budget.between.value, c.budget.within.value
    place = Regime.of(c.budget, c.cost, r).within_over_between
    there = c.cost.at(c.base.upstream)
    return {
        "step": a.step,
        "own": {"sampler": arm, "upstream": r, "draws": k, "shares": a.shares},
        "budget": {name: estimate_dict(getattr(c.budget, name)) for name in parts},
        "cost": asdict(c.cost) | {"kappa": c.cost.kappa},
        "rows": rows,
        "within_over_between": None if place is None else estimate_dict(place),
        "best_draws_iid": best_draws(between, within, there) if between > 0 else None,
        "largest_ecm_iid": largest_ecm(between, within, there),
        "advice": {name: asdict(advice) for name, advice in a.advice.items()},
        "advised": a.best,
        "predicted": estimate_dict(a.predicted),
        "check": {
            "total": estimate_dict(a.check.total),
            "seconds": a.check.seconds,
            "ecm": estimate_dict(a.check.ecm),
        },
        "largest_reduction": None if most is None else estimate_dict(most),
        "noise": a.noise,
        "noise_factors": {name: estimate_dict(e) for name, e in a.parity.factors.items()},
        "proposals": {name: q.mass.tolist() for name, q in a.proposals.items()},
        "conclusions": conclusions(a),
    }
