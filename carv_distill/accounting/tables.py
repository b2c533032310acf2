"""A comparison on the screen and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from carv_distill.carv import Advice, Estimate, best_draws, largest_ecm

from .compare import Comparison


def comparison_tables(c: Comparison, advice: dict[str, Advice]) -> list[Table]:
    """Budget, the (R, K) × sampler table, costs and advice; every estimate with its 95 % interval."""
    budget = Table(
        "part of the variance at R = K = 1", "trace", "share", box=SIMPLE_HEAD, title="Variance budget"
    )
    b = c.budget
    for name, e in (
        ("between upstream samples", b.between),
        ("noise level", b.within_level),
        ("noise", b.within_noise),
        ("total", b.total),
    ):
        budget.add_row(name, _cell(e), f"{e.value / b.total.value:.0%}")

    table = Table(
        "sampler", "(R, K)", "total", "upstream fixed", "RE", "ECM", "ECM, iteration", box=SIMPLE_HEAD
    )
    table.title = "Variance of the gradient; RE at equal (R, K), ECM against the first row"
    for row in c.rows:
        shown = (row.total, row.within, c.relative_efficiency(row), c.ecm(row), c.ecm(row, True))
        table.add_row(row.arm, f"({row.upstream}, {row.draws})", *(_cell(e) for e in shown))

    cost = Table("stage", "seconds", box=SIMPLE_HEAD, title="Cost, median")
    for name, seconds in (
        ("upstream, per sample", c.cost.upstream),
        ("draw, per draw", c.cost.draw),
        ("backward, per sample", c.cost.backward),
        ("other, per iteration", c.cost.other),
    ):
        cost.add_row(name, f"{seconds:.3g}")

    advised = Table(
        "sampler", "R", "K", "variance", "cost", "predicted ECM, iteration", box=SIMPLE_HEAD, title="Advice"
    )
    for name, a in advice.items():
        numbers = (f"{v:.3g}" for v in (a.variance, a.cost, a.ecm))
        advised.add_row(name, str(a.upstream), str(a.draws), *numbers)
    return [budget, table, cost, advised]


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
        "largest_ecm_iid": largest_ecm(max(between, 0.0), within, c.cost),
        "advice": {name: asdict(a) for name, a in advice.items()},
    }


def estimate_dict(e: Estimate) -> dict[str, Any]:
    """Value and interval."""
    return {"value": e.value, "interval": [e.low, e.high]}


def _cell(e: Estimate) -> str:
    return f"{_number(e.value)} [{_number(e.low)}, {_number(e.high)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
