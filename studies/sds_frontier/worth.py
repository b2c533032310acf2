"""What the measured variances are worth: relative efficiency, effective compute, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from carv_distill.variance import CostModel, Estimate, mean_estimate, scaled
from studies.intervals import independent_ratio, pooled_mean, pooled_ratio
from studies.sds_frontier.prices import AT_ONCE, Prices
from studies.sds_frontier.states import CAMERAS, PARTS, Setting
from studies.sentences import estimate, sentence
from studies.study import Row, columns

BASE = ("uniform", 2, 1)
"""Arm, R and K that effective compute is counted against, as in the paper."""
DECLARED = (1.0, 2.5, 7.0, 20.0)
ARMS = ("uniform", "IW", "Strat", "IW+Strat", "IW+global", "oracle", "best")

Cost = Callable[[int, int], float]


def at(measured: pd.DataFrame, arm: str, r: int, k: int, cameras: str = "iid") -> pd.DataFrame:
    """One setting, a row for each state."""
    m = measured
    return m[(m.arm == arm) & (m["R"] == r) & (m["K"] == k) & (m.cameras == cameras)]


def ecm(measured: pd.DataFrame, cost: Cost, arm: str, r: int, k: int, cameras: str) -> Estimate:
    """ECM against uniform (2, 1), over states."""
    pairs = zip(at(measured, *BASE).total, at(measured, arm, r, k, cameras).total, strict=True)
    return scaled(pooled_ratio(list(pairs)), cost(*BASE[1:]) / cost(r, k))


def compared(measured: pd.DataFrame, k: int, better: str, worse: str, part: str = "total") -> Estimate:
    """Variance of `worse` over that of `better` at (2, K), in total or with renders fixed (within): above 1
    where `better` is."""
    rows = (at(measured, arm, BASE[1], k)[part] for arm in (worse, better))
    return pooled_ratio(list(zip(*rows, strict=True)))


def camera_factor(measured: pd.DataFrame, arm: str, r: int, k: int, cameras: str) -> Estimate:
    """R · tr Cov E[g | renders] over that of iid cameras: what is left of the variance between renders.

    The mean over states, and not that of logarithms: with few pairs a term may lie below zero.
    """
    pairs = zip(at(measured, arm, r, k, cameras).between, at(measured, *BASE).between, strict=True)
    return scaled(pooled_mean(list(pairs)), r / BASE[1])


def ecm_rows(measured: pd.DataFrame, prices: Prices) -> list[Row]:
    """A row for each arm, R, K and sampling of cameras, and each group of states: ECM at measured seconds and
    at declared κ, RE against uniform at the same (R, K), and the share of the variance that is left with
    renders fixed."""
    costs: dict[str, Cost] = {"own": prices} | {f"kappa_{k:g}": CostModel.declared(k) for k in DECLARED}
    by_step = (group for _, group in measured.groupby("step"))
    settings = measured[measured.arm.isin(ARMS)][["arm", "R", "K", "cameras"]].drop_duplicates()
    rows = []
    for name, group in zip(("all", "early", "late"), (measured, *by_step), strict=True):
        for arm, r, k, cameras in settings.itertuples(index=False):
            row: Row = {"states": name, "arm": arm, "cameras": cameras, "R": r, "K": k}
            for costs_name, cost in costs.items():
                row |= columns(f"ecm_{costs_name}", ecm(group, cost, arm, r, k, cameras))
            if cameras == "iid":
                row |= columns("re", compared(group, k, arm, "uniform"))
                row |= columns("re_within", compared(group, k, arm, "uniform", "within"))
            else:
                row |= columns("between", camera_factor(group, arm, r, k, cameras))
            rows.append(row)
    return rows


def state_rows(measured: pd.DataFrame) -> list[Row]:
    """Every measurement, with its interval."""
    return [
        {k: v for k, v in m.items() if k not in PARTS}
        | {name: value for part in PARTS for name, value in columns(part, m[part]).items()}
        for m in measured.to_dict("records")
    ]


LIMIT = 3.0
"""Effective compute that was hoped for."""

Again = Sequence[tuple[Estimate, Estimate]]
"""Variances of uniform (2, 1) and of the highest setting, measured anew, by state."""


def verdict(
    measured: pd.DataFrame,
    budgets: pd.DataFrame,
    rows: Sequence[Row],
    prices: Prices,
    best: Setting,
    again: Again,
) -> list[str]:
    """All sentences. Intervals take the prices as they are; the pilots of `best` are not in its price.

    Args:
        budgets: parts of a single draw's variance, by state.
        rows: of :func:`.tables.ecm_rows`.
        best: see :func:`highest`.
    """
    shares = budgets.div(budgets.sum(axis=1), axis=0).mean().to_dict()
    base = at(measured, *BASE)
    free = prices(*BASE[1:]) / (BASE[1] * prices.sample)
    of_pooled = [row for row in rows if row["states"] == "all"]
    iid = [row for row in of_pooled if row["cameras"] == "iid"]
    sentences = [
        f"Budget of a single draw: {shares['between']:.0%} between renders, "
        f"{shares['within_level']:.0%} noise level, {shares['within_noise']:.0%} noise; measured costs have "
        f"κ = {prices.kappa:.2g}.",
        sentence(
            "ECM with iid cameras", {"of free draws without variance": _gain(base, "total", "between", free)}
        ),
    ]
    for name, label in (("own", "own costs"), ("kappa_7", "κ = 7"), ("kappa_20", "κ = 20")):
        at_8 = {r["arm"]: estimate(r, f"ecm_{name}") for r in iid if r["K"] == 8}
        shown = {arm: at_8[arm] for arm in ("uniform", "IW", "Strat", "IW+Strat")}
        sentences.append(sentence(f"ECM at {label}, K = 8", shown, 1))
        highest_of = {}
        for arm in ("uniform", "IW+Strat", "best"):
            top = max((r for r in iid if r["arm"] == arm), key=lambda r: r[f"ecm_{name}"])
            highest_of[f"{arm} at K = {top['K']}"] = estimate(top, f"ecm_{name}")
        sentences.append(sentence(f"Highest ECM at {label} with iid cameras", highest_of))
    pairs = (("IW", "uniform"), ("Strat", "uniform"), ("IW+Strat", "IW"), ("IW+Strat", "Strat"))
    over = {f"{a} against {b}": compared(measured, 8, a, b) for a, b in (*pairs, ("best", "IW+Strat"))}
    ones = {
        f"{arm}, {part}": compared(measured, 1, arm, "uniform", part)
        for arm in ("IW", "oracle")
        for part in ("within", "total")
    }
    spread_out = measured[(measured.arm == "IW+global") & (measured["K"] <= 8)]
    strata = {
        f"K = {k}": compared(measured, k, "IW+Strat", "IW+global", "within")
        for k in sorted(spread_out["K"].unique())
    }
    seen = {
        f"{row['cameras']}, R = {row['R']}": estimate(row, "between")
        for cameras in CAMERAS
        for row in of_pooled
        if (row["cameras"], row["K"]) == (cameras, 4)
    }
    learned = base.assign(learned=at(measured, "uniform, learned c", 2, 1).within.tolist())
    of_learned = {"K = 1": _gain(learned, "within", "learned")}
    return [
        *sentences,
        sentence("Variance of the second over that of the first at K = 8", over, 1, "worse", "better"),
        *_best(measured, prices, best, again),
        sentence("Variance of uniform over that of each at K = 1 (within: renders fixed)", ones),
        sentence("Renders fixed, variance of strata over all draws over that of strata per render", strata),
        sentence("Variance between renders over that of iid cameras", seen, 1),
        sentence("Renders fixed, variance over that with the learned ε coefficient", of_learned),
    ]


def _gain(states: pd.DataFrame, worse: str, better: str, factor: float = 1) -> Estimate:
    """Ratio of two columns, over states."""
    return scaled(pooled_ratio(list(zip(states[worse], states[better], strict=True))), factor)


def highest(measured: pd.DataFrame, prices: Prices) -> Setting:
    """The setting of `best` with the highest measured ECM at own costs."""
    best = measured[measured.arm == "best"][["R", "K", "cameras"]].drop_duplicates()
    settings: list[Setting] = [*best.itertuples(index=False, name=None)]
    return max(settings, key=lambda setting: ecm(measured, prices, "best", *setting).value)


def confirmed(again: Again, best: Setting, prices: Prices) -> Estimate:
    """ECM of that setting against uniform (2, 1), measured anew."""
    return scaled(independent_ratio(again), prices(*BASE[1:]) / prices(*best[:2]))


def _best(measured: pd.DataFrame, prices: Prices, best: Setting, again: Again) -> list[str]:
    """The highest setting, as it was chosen and measured anew; and of it, what cheaper renders and what the
    cameras do."""
    r, k, cameras = best
    both = {"as chosen": ecm(measured, prices, "best", *best), "anew": confirmed(again, best, prices)}
    what, sides = f"best with {cameras} cameras at ({r}, {k})", (f"below {LIMIT:g}", f"above {LIMIT:g}")
    sentences = [sentence(f"Highest ECM at own costs, {what}", both, LIMIT, *sides)]
    if r > BASE[1]:
        rows = at(measured, "best", *best)
        iid = []
        for between, within in zip(at(measured, *BASE).between, rows.within, strict=True):
            # what it would have with iid cameras, replicate by replicate
            terms = zip(between.terms, within.terms[1:], strict=True)
            iid.append(mean_estimate([b * BASE[1] / r + w for b, w in terms], positive=True))
        of_it = {"the cameras": _gain(rows.assign(iid=iid), "iid", "total")}
        cheaper = (prices(*BASE[1:]) / BASE[1]) / (prices(AT_ONCE, 1) / AT_ONCE)
        sentences.append(sentence(f"Of it, {AT_ONCE} renders at a time make {cheaper:.2f}, and", of_it))
    return sentences
