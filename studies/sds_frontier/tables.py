"""What the measured variances are worth: relative efficiency and effective compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from carv_distill.variance import CostModel, Estimate, scaled
from studies.pooling import pooled_mean, pooled_ratio
from studies.results import columns
from studies.sds_frontier.prices import Prices
from studies.sds_frontier.states import PARTS, Measurement, State

BASE = ("uniform", 2, 1)
"""Arm, R and K that effective compute is counted against, as in the paper."""
DECLARED = (1.0, 2.5, 7.0, 20.0)
ARMS = ("uniform", "IW", "Strat", "IW+Strat", "IW+global", "oracle", "best")

Cost = Callable[[int, int], float]


def price_lists(prices: Prices) -> dict[str, Cost]:
    """The costs that effective compute is counted at: measured seconds, and declared κ."""
    declared = {f"kappa_{kappa:g}": CostModel.declared(kappa) for kappa in DECLARED}
    return {"own": lambda r, k: prices(r, k), **declared}


def worth(states: Sequence[State], cost: Cost, place: tuple[str, int, int, str]) -> Estimate:
    """ECM against uniform (2, 1), over states."""
    pairs = [(s.row(*BASE).total, s.row(*place).total) for s in states]
    return scaled(pooled_ratio(pairs), cost(*BASE[1:]) / cost(*place[1:3]))


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
                row |= columns("re", relative_efficiency(members, arm, k, "total"))
                row |= columns("re_within", relative_efficiency(members, arm, k, "within"))
            else:
                row |= columns("between", camera_factor(members, arm, r, k, cameras))
            found.append(row)
    return found


def relative_efficiency(states: Sequence[State], arm: str, draws: int, part: str) -> Estimate:
    """Variance of uniform draws over an arm's at the same (R, K), in total or with renders fixed (within)."""
    return compared(states, draws, arm, "uniform", part)


def compared(states: Sequence[State], draws: int, better: str, worse: str, part: str = "total") -> Estimate:
    """Variance of `worse` over that of `better` at the same (R, K): above 1 where `better` is."""
    rows = [(s.row(worse, BASE[1], draws), s.row(better, BASE[1], draws)) for s in states]
    return pooled_ratio([(getattr(w, part), getattr(b, part)) for w, b in rows])


def camera_factor(states: Sequence[State], arm: str, r: int, k: int, cameras: str) -> Estimate:
    """R · tr Cov E[g | renders] over that of iid cameras: what is left of the variance between renders.

    The mean over states, and not that of logarithms: with few pairs a term may lie below zero.
    """
    pairs = [(s.row(arm, r, k, cameras).between, s.row(*BASE).between) for s in states]
    return scaled(pooled_mean(pairs), r / BASE[1])


def state_rows(states: Sequence[State]) -> list[dict[str, Any]]:
    """Every measurement, with its interval."""

    def row(s: State, m: Measurement) -> dict[str, Any]:
        place = {"prompt": s.prompt, "step": s.step, "arm": m.arm, "cameras": m.cameras}
        parts = {n: v for part in PARTS for n, v in columns(part, getattr(m, part)).items()}
        return place | {"R": m.upstream, "K": m.draws} | parts

    return [row(s, m) for s in states for m in s.rows]
