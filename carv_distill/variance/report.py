"""A comparison on the screen and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .advise import Advice
from .compare import Comparison
from .cost import best_draws, largest_ecm
from .estimate import Estimate


def comparison_tables(c: Comparison, advice: dict[str, Advice]) -> list[Table]:
    """Budget, variance and worth of every sampler at every K, costs and advice; intervals are of 95 %.

    No table is wider than 80 columns.
    """
    return [_budget(c), _variances(c), _worth(c), _costs(c), _advice(c, advice)]


def _budget(c: Comparison) -> Table:
    table = _table("Variance budget of a single draw, R = K = 1", "part", "trace", "share")
    b = c.budget
    whole = b.between.value + b.within.value
    for name, e in (
        ("between upstream samples", b.between),
        ("noise level", b.within_level),
        ("noise", b.within_noise),
    ):
        table.add_row(name, _cell(e), f"{e.value / whole:.0%}")
    table.add_row("total", _cell(b.total), "")
    table.caption = "Traces of covariances of the parameter gradient, as all variances here."
    return table


def _variances(c: Comparison) -> Table:
    table = _table(
        f"Variance of the gradient, R = {c.base.upstream}", "sampler", "K", "total", "upstream fixed"
    )
    for row in c.rows:
        table.add_row(row.arm, str(row.draws), _cell(row.total), _cell(row.within))
    table.caption = (
        "Upstream fixed: the part that comes from noise levels and noises, with the upstream samples held "
        "fixed. IW: noise levels by importance. Strat: one in each of K strata. best: nested strata, Neyman "
        "proposal, and the coupling of the noises chosen below. Intervals: 95 %, nominal; heavy-tailed "
        "gradients and few pairs make them somewhat too short."
    )
    return table


def _worth(c: Comparison) -> Table:
    table = _table("What it is worth", "sampler", "K", "RE", "ECM of the gradient", "ECM of the iteration")
    for row in c.rows:
        shown = (c.relative_efficiency(row), c.ecm(row), c.ecm(row, whole_iteration=True))
        table.add_row(row.arm, str(row.draws), *(_ratio(e) for e in shown))
    b = f"{c.base.arm} K = {c.base.draws}"
    table.caption = (
        f"RE, relative efficiency: variance of {c.base.arm} over this one's, at equal K. ECM, effective "
        f"compute multiplier: variance × seconds of {b} over this one's, with the seconds of the gradient "
        "alone, or of an iteration with all that it does besides."
    )
    return table


def _costs(c: Comparison) -> Table:
    table = _table("Cost, medians", "stage", "milliseconds")
    for name, seconds in (
        ("upstream, per sample", c.cost.upstream),
        ("draw, per draw", c.cost.draw),
        ("backward, per sample", c.cost.backward),
        ("other, per iteration", c.cost.other),
    ):
        table.add_row(name, number(1e3 * seconds))
    return table


def _advice(c: Comparison, advice: dict[str, Advice]) -> Table:
    table = _table("Advice", "sampler", "R", "K", "variance", "ms per iteration", "predicted ECM")
    most = max(a.ecm for a in advice.values())
    for name, a in advice.items():
        numbers = (number(a.variance), number(1e3 * a.cost), f"{a.ecm:.2f}")
        style = "bold" if a.ecm == most else None
        table.add_row(name, str(a.upstream), str(a.draws), *numbers, style=style)
    table.caption = (
        "For each sampler the R and K of least variance × seconds in the seconds allowed; ECM of the "
        f"iteration, against {c.base.arm} ({c.base.upstream}, {c.base.draws})."
    )
    return table


def _table(title: str, *headers: str) -> Table:
    return Table(*headers, box=SIMPLE_HEAD, title=title, title_justify="left", caption_justify="left")


def comparison_dict(c: Comparison, advice: dict[str, Advice]) -> dict[str, Any]:
    """The same numbers for JSON."""
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
    return {
        "budget": {name: estimate_dict(getattr(c.budget, name)) for name in parts},
        "cost": asdict(c.cost) | {"kappa": c.cost.kappa},
        "rows": rows,
        "best_draws_iid": best_draws(between, within, c.cost) if between > 0 else None,
        "largest_ecm_iid": largest_ecm(between, within, c.cost),
        "advice": {name: asdict(a) for name, a in advice.items()},
    }


def estimate_dict(e: Estimate) -> dict[str, Any]:
    """Value and interval."""
    return {"value": e.value, "interval": [e.low, e.high]}


def _cell(e: Estimate) -> str:
    return f"{number(e.value)} [{number(e.low)}, {number(e.high)}]"


def _ratio(e: Estimate) -> str:
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" if e.low < e.high else f"{e.value:g}"


def number(value: float) -> str:
    """Three digits, or a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
