"""What the measured variances are worth: relative efficiency, effective compute, and a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from carv_distill.carv import CostModel, Estimate, ecm, relative_efficiency
from carv_distill.carv.estimate import ratio, scaled

from .claims import show
from .frontier_prices import Prices
from .frontier_states import CAMERAS, Measurement, State, pooled
from .results import columns

BASE = ("uniform", 2, 1)
"""Arm, R and K that effective compute is counted against, as in the paper."""
DECLARED = (1.0, 2.5, 7.0, 20.0)
ARMS = ("uniform", "IW", "Strat", "IW+Strat", "IW+global", "oracle", "best")
TARGET = 3.0

Cost = Callable[[int, int], float]


def price_lists(prices: Prices) -> dict[str, Cost]:
    """The costs that effective compute is counted at: measured seconds, and declared κ."""
    declared = {f"kappa_{kappa:g}": CostModel.declared(kappa) for kappa in DECLARED}
    return {"own": lambda r, k: prices(r, k), **declared}


def worth(states: Sequence[State], cost: Cost, place: tuple[str, int, int, str]) -> Estimate:
    """ECM against uniform (2, 1), over states."""
    arm, r, k, cameras = place

    def one(state: State) -> Estimate:
        base, mine = state.row(*BASE), state.row(arm, r, k, cameras)
        same = (r, cameras) == (BASE[1], "iid")  # the same renders, replicate by replicate
        return ecm(base.total, cost(*BASE[1:]), mine.total, cost(r, k), paired=same)

    return pooled([one(state) for state in states])


def rows(states: Sequence[State], prices: Prices) -> list[dict[str, Any]]:
    """A row for each arm, R, K and sampling of cameras, and each group of states: ECM at every price list,
    RE against uniform at the same (R, K), and the share of the variance that is left with renders fixed."""
    groups = {"all": list(states)} | {
        name: [s for s in states if s.step == step]
        for name, step in zip(("early", "late"), sorted({s.step for s in states}), strict=True)
    }
    places = [(m.arm, m.upstream, m.draws, m.cameras) for m in states[0].rows if m.arm in ARMS]
    found = []
    for group, members in groups.items():
        for arm, r, k, cameras in places:
            row: dict[str, Any] = {"states": group, "arm": arm, "cameras": cameras, "R": r, "K": k}
            for name, cost in price_lists(prices).items():
                row |= columns(f"ecm_{name}", worth(members, cost, (arm, r, k, cameras)))
            if cameras == "iid":
                row |= columns("re", pooled([_re(s, arm, k, "total") for s in members]))
                row |= columns("re_within", pooled([_re(s, arm, k, "within") for s in members]))
            row |= columns("between", camera_factor(members, arm, r, k, cameras))
            found.append(row)
    return found


def _re(state: State, arm: str, draws: int, part: str) -> Estimate:
    uniform, mine = (state.row(a, BASE[1], draws) for a in ("uniform", arm))
    return relative_efficiency(getattr(uniform, part), getattr(mine, part), paired=True)


def camera_factor(states: Sequence[State], arm: str, r: int, k: int, cameras: str) -> Estimate:
    """R · tr Cov E[g | renders] over that of iid cameras: what is left of the variance between renders.

    The mean over states, and not that of logarithms: with few pairs a term may lie below zero.
    """
    found = []
    for state in states:
        iid, mine = state.row(*BASE), state.row(arm, r, k, cameras)
        found.append(scaled(ratio(mine.between, iid.between), r / iid.upstream))
    value = statistics.fmean(e.value for e in found)
    se = math.sqrt(math.fsum(e.se**2 for e in found)) / len(found)
    return Estimate(value, se, value - 1.96 * se, value + 1.96 * se)


def compared(states: Sequence[State], draws: int, better: str, worse: str) -> Estimate:
    """Variance of one arm over that of another at the same (R, K): above 1 where `better` is."""
    return pooled(
        [
            relative_efficiency(
                s.row(worse, BASE[1], draws).total, s.row(better, BASE[1], draws).total, paired=True
            )
            for s in states
        ]
    )


def verdict(states: Sequence[State], table: Sequence[Mapping[str, Any]], prices: Prices) -> list[str]:
    """What the numbers say; an interval that holds the other number resolves nothing."""
    everything = [row for row in table if row["states"] == "all"]
    said = [_budget(states, prices)]
    for name in ("own", "kappa_7", "kappa_20"):
        said.append(_ordering(everything, name))
    said += [_pairs(states), _best(everything), _oracle(states), _global(states), _cameras(everything)]
    said.append(_coefficient(states))
    return said


def _budget(states: Sequence[State], prices: Prices) -> str:
    def share(name: str) -> float:
        return statistics.fmean(s.budget[name] / sum(s.budget.values()) for s in states)

    between = share("between")
    limit = (prices.kappa + 1) / prices.kappa / between
    return (
        f"Budget of a single draw: {between:.0%} between renders, {share('within_level'):.0%} noise level, "
        f"{share('within_noise'):.0%} noise; measured costs have κ = {prices.kappa:.2g}. With iid cameras, "
        f"draws that cost nothing and have no variance would have an ECM of {limit:.2g}."
    )


def _ordering(table: Sequence[Mapping[str, Any]], name: str) -> str:
    at = {row["arm"]: row for row in table if row["cameras"] == "iid" and row["K"] == 8}
    label = "own costs" if name == "own" else f"declared κ = {name.removeprefix('kappa_')}"
    shown = ", ".join(
        f"{title} {_of(at[arm], f'ecm_{name}')}"
        for arm, title in (("uniform", "reuse"), ("IW", "IW"), ("Strat", "Strat"), ("IW+Strat", "IW+Strat"))
    )
    tops = []
    for arm in ("uniform", "IW+Strat", "best"):
        top = max(
            (r for r in table if r["arm"] == arm and r["cameras"] == "iid"), key=lambda r: r[f"ecm_{name}"]
        )
        tops.append(f"{'reuse' if arm == 'uniform' else arm} {_of(top, f'ecm_{name}')} at K = {top['K']}")
    return f"ECM at {label}, K = 8: {shown}; highest with iid cameras: {', '.join(tops)}."


def _pairs(states: Sequence[State]) -> str:
    pairs = [
        ("IW", "uniform"),
        ("Strat", "uniform"),
        ("IW+Strat", "IW"),
        ("IW+Strat", "Strat"),
        ("best", "IW+Strat"),
    ]
    parts = []
    for better, worse in pairs:
        e = compared(states, 8, better, worse)
        sense = "better" if e.low > 1 else "worse" if e.high < 1 else "not resolved"
        parts.append(f"{better} against {'reuse' if worse == 'uniform' else worse} {_say(e)}, {sense}")
    return f"At K = 8, variance of the second over the first: {'; '.join(parts)}."


def _best(table: Sequence[Mapping[str, Any]]) -> str:
    top = max((r for r in table if r["arm"] == "best"), key=lambda r: r["ecm_own"])
    low, high = top["ecm_own_low"], top["ecm_own_high"]
    sense = "above" if low > TARGET else "below" if high < TARGET else "not resolved from"
    return (
        f"Highest ECM at own costs: best with {top['cameras']} cameras at ({top['R']}, {top['K']}), "
        f"{_of(top, 'ecm_own')}: {sense} {TARGET:g}."
    )


def _oracle(states: Sequence[State]) -> str:
    w, oracle = (pooled([_re(s, arm, 1, "within") for s in states]) for arm in ("IW", "oracle"))
    total = [pooled([_re(s, arm, 1, "total") for s in states]) for arm in ("IW", "oracle")]
    return (
        f"K = 1, renders fixed: q ∝ w(t) lowers the variance {_say(w)} times, the measured oracle "
        f"{_say(oracle)} times; in total {_say(total[0])} and {_say(total[1])}."
    )


def _global(states: Sequence[State]) -> str:
    parts = []
    for k in sorted({m.draws for m in states[0].rows if m.arm == "IW+global" and m.draws <= 8}):
        e = pooled(
            [
                relative_efficiency(
                    s.row("IW+global", BASE[1], k).within, s.row("IW+Strat", BASE[1], k).within, paired=True
                )
                for s in states
            ]
        )
        parts.append(f"{_say(e)} at K = {k}")
    return (
        "Renders fixed, variance with strata over all draws over that with strata per render (above 1: per "
        f"render is better): {', '.join(parts)}."
    )


def _cameras(table: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for cameras in CAMERAS:
        at = [r for r in table if (r["cameras"], r["K"]) == (cameras, 4)]
        parts.append(f"{cameras} " + ", ".join(f"{_of(r, 'between')} at R = {r['R']}" for r in at))
    return f"Variance between renders over that of iid cameras: {'; '.join(parts)}."


def _coefficient(states: Sequence[State]) -> str:
    found = [
        relative_efficiency(s.row(*BASE).within, s.row("uniform, learned c", 2, 1).within, paired=True)
        for s in states
    ]
    times = _say(pooled(found))
    return f"The learned ε coefficient lowers the variance with renders fixed {times} times at K = 1."


def _say(e: Estimate) -> str:
    return show(e.value, e.low, e.high)


def _of(row: Mapping[str, Any], name: str) -> str:
    return show(row[name], row[f"{name}_low"], row[f"{name}_high"])


def state_rows(states: Sequence[State]) -> list[dict[str, Any]]:
    """Every measurement, with its interval."""

    def row(s: State, m: Measurement) -> dict[str, Any]:
        place = {"prompt": s.prompt, "step": s.step, "arm": m.arm, "cameras": m.cameras}
        parts = {
            n: v
            for part in ("total", "within", "between")
            for n, v in columns(part, getattr(m, part)).items()
        }
        return place | {"R": m.upstream, "K": m.draws} | parts

    return [row(s, m) for s in states for m in s.rows]
