"""What `evaluate.py variance` says: tables, and sentences computed from them."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from carv_distill.variance import Estimate, NoiseParity, comparison_dict, comparison_tables, paired_ratio
from carv_distill.variance.report import estimate_dict, number

from .variance_analysis import Accounting


def accounting_report(found: Accounting) -> list[RenderableType]:
    """Everything for the screen; the last words are what to do."""
    parity = Table(
        "coupling of the noises",
        "variance, iid = 1",
        box=SIMPLE_HEAD,
        title=f"Noise, K = {found.parity.draws}",
        title_justify="left",
    )
    for name, e in _factors(found.parity).items():
        taken = ", used in best" if name == found.noise else ""
        parity.add_row(name + taken, f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]")
    tables = comparison_tables(found.comparison, found.advice)
    return [*tables[:-1], parity, tables[-1], *conclusions(found)]


def conclusions(found: Accounting) -> list[str]:
    """What samplers of draws can give at most, what to use, and what that gives."""
    c, best, base = found.comparison, found.advice[found.best], found.comparison.base
    said = []
    if (most := largest_reduction(found)) is not None:
        said.append(
            f"At R = {base.upstream} no sampler of draws lowers the variance of {base.arm} K = {base.draws} "
            f"more than {_of(most)} times: what remains lies between the upstream samples, and only more of "
            "them lower it."
        )

    def price(arm: str, r: int, k: int) -> float:
        return c.within_model(arm).variance(r, k) * c.cost(r, k)

    arm, r, k = found.own
    own = price(base.arm, base.upstream, base.draws) / price(arm, r, k)
    said.append(
        f"Use R = {best.upstream}, K = {best.draws} with {found.best}: predicted ECM {best.ecm:.2f}, against "
        f"{own:.2f} of the run's own ({r}, {k}) {arm}."
    )
    check = found.check
    said.append(
        f"Tried: variance {_of(check.total)}, {number(1e3 * check.seconds)} ms per iteration (the run's own "
        f"takes {number(1e3 * c.cost(r, k))} ms), ECM {_of(check.ecm)}."
    )
    if check.ecm.low < own < check.ecm.high:
        said.append("That does not tell it from the run's own; more --pairs would.")
    return said


def largest_reduction(found: Accounting) -> Estimate | None:
    """Total variance of the baseline over its part between upstream samples; None if that is not seen."""
    base = found.comparison.base
    return paired_ratio(base.total, base.between) if base.between.low > 0 else None


def accounting_dict(found: Accounting) -> dict[str, Any]:
    """The same for JSON."""
    (arm, r, k), most = found.own, largest_reduction(found)
    return {
        "step": found.step,
        "own": {"sampler": arm, "upstream": r, "draws": k},
        **comparison_dict(found.comparison, found.advice),
        "advised": found.best,
        "check": {
            "total": estimate_dict(found.check.total),
            "seconds": found.check.seconds,
            "ecm": estimate_dict(found.check.ecm),
        },
        "largest_reduction": None if most is None else estimate_dict(most),
        "noise": found.noise,
        "noise_factors": {name: estimate_dict(e) for name, e in _factors(found.parity).items()},
        "proposals": {name: q.mass.tolist() for name, q in found.proposals.items()},
        "conclusions": conclusions(found),
    }


def _factors(parity: NoiseParity) -> dict[str, Estimate]:
    return {"antithetic": parity.antithetic, "zero_sum": parity.zero_sum}


def _of(e: Estimate) -> str:
    return f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]"
