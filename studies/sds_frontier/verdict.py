"""What the text-to-3D variances say, in sentences; an interval that holds the other number resolves
nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from carv_distill.variance import Estimate, mean_estimate, scaled
from studies.claims import show, show_column
from studies.pooling import independent_ratio, pooled_ratio
from studies.sds_frontier.prices import AT_ONCE, Prices
from studies.sds_frontier.states import CAMERAS, Confirmation, Measurement, State
from studies.sds_frontier.tables import BASE, compared, relative_efficiency, worth

TARGET = 3.0

Row = Mapping[str, Any]


def verdict(
    states: Sequence[State],
    table: Sequence[Row],
    prices: Prices,
    place: tuple[int, int, str],
    confirmations: Sequence[Confirmation],
) -> list[str]:
    """All sentences.

    Args:
        table: of :func:`~.tables.rows`.
        place: see :func:`highest`.
        confirmations: of that setting, one from each state.
    """
    rows = [row for row in table if row["states"] == "all"]
    return [
        _budget(states, prices),
        *(_ordering(rows, name) for name in ("own", "kappa_7", "kappa_20")),
        _pairs(states),
        _best(states, prices, place, confirmations),
        _oracle(states),
        _global(states),
        _cameras(rows),
        _coefficient(states),
    ]


def _budget(states: Sequence[State], prices: Prices) -> str:
    def share(name: str) -> float:
        return statistics.fmean(s.budget[name] / sum(s.budget.values()) for s in states)

    bases = [s.row(*BASE) for s in states]
    limit = scaled(
        pooled_ratio([(b.total, b.between) for b in bases]), prices(*BASE[1:]) / (BASE[1] * prices.sample)
    )
    return (
        f"Budget of a single draw: {share('between'):.0%} between renders, {share('within_level'):.0%} noise "
        f"level, {share('within_noise'):.0%} noise; measured costs have κ = {prices.kappa:.2g}. With iid "
        f"cameras, draws that cost nothing and have no variance would have an ECM of {_say(limit)}."
    )


def _ordering(rows: Sequence[Row], name: str) -> str:
    iid = [row for row in rows if row["cameras"] == "iid"]
    at = {row["arm"]: row for row in iid if row["K"] == 8}
    label = "own costs" if name == "own" else f"declared κ = {name.removeprefix('kappa_')}"
    shown = ", ".join(
        f"{_title(arm)} {show_column(at[arm], f'ecm_{name}')}"
        for arm in ("uniform", "IW", "Strat", "IW+Strat")
    )
    tops = []
    for arm in ("uniform", "IW+Strat", "best"):
        top = max((row for row in iid if row["arm"] == arm), key=lambda row: row[f"ecm_{name}"])
        tops.append(f"{_title(arm)} {show_column(top, f'ecm_{name}')} at K = {top['K']}")
    return f"ECM at {label}, K = 8: {shown}; each arm's highest with iid cameras: {', '.join(tops)}."


def _pairs(states: Sequence[State]) -> str:
    parts = []
    for better, worse in (
        ("IW", "uniform"),
        ("Strat", "uniform"),
        ("IW+Strat", "IW"),
        ("IW+Strat", "Strat"),
        ("best", "IW+Strat"),
    ):
        e = compared(states, 8, better, worse)
        sense = "better" if e.low > 1 else "worse" if e.high < 1 else "not resolved"
        parts.append(f"{better} against {_title(worse)} {_say(e)}, {sense}")
    return f"At K = 8, variance of the second over the first: {'; '.join(parts)}."


def highest(states: Sequence[State], prices: Prices) -> tuple[int, int, str]:
    """(R, K, sampling of cameras) of the setting of `best` with the highest measured ECM at own costs."""
    places = [(m.arm, m.upstream, m.draws, m.cameras) for m in states[0].rows if m.arm == "best"]
    return max(places, key=lambda place: worth(states, prices, place).value)[1:]


def confirmed(confirmations: Sequence[Confirmation], place: tuple[int, int, str], prices: Prices) -> Estimate:
    """ECM of that setting against uniform (2, 1), measured anew."""
    ratio = independent_ratio([(c.base, c.best) for c in confirmations])
    return scaled(ratio, prices(*BASE[1:]) / prices(*place[:2]))


def _best(
    states: Sequence[State],
    prices: Prices,
    place: tuple[int, int, str],
    confirmations: Sequence[Confirmation],
) -> str:
    r, k, cameras = place
    chosen, e = worth(states, prices, ("best", *place)), confirmed(confirmations, place, prices)
    sense = "above" if e.low > TARGET else "below" if e.high < TARGET else "not resolved from"
    said = (
        f"Highest ECM at own costs: best with {cameras} cameras at ({r}, {k}), {chosen.value:.2g}; measured "
        f"anew {_say(e)}, {sense} {TARGET:g}. The interval takes the prices as they "
        "are; the pilots of best (profile, parity) are not in them"
    )
    if r > BASE[1]:
        batching = (prices(*BASE[1:]) / BASE[1]) / (prices(AT_ONCE, 1) / AT_ONCE)
        rows = [s.row("best", *place) for s in states]
        iid = [_with_iid_cameras(s, row) for s, row in zip(states, rows, strict=True)]
        spread = pooled_ratio([(a, row.total) for a, row in zip(iid, rows, strict=True)])
        said += (
            f"; of it, {batching:.2f} is that {AT_ONCE} renders at a time are cheaper each, and "
            f"{_say(spread)} what the cameras do"
        )
    return said + "."


def _with_iid_cameras(state: State, m: Measurement) -> Estimate:
    """The variance that a measurement would have with iid cameras, replicate by replicate."""
    iid = state.row(*BASE)
    terms = zip(iid.between.terms, m.within.terms[1:], strict=True)
    return mean_estimate([b * BASE[1] / m.upstream + w for b, w in terms], positive=True)


def _oracle(states: Sequence[State]) -> str:
    within, total = (
        [_say(relative_efficiency(states, arm, 1, part)) for arm in ("IW", "oracle")]
        for part in ("within", "total")
    )
    return (
        f"K = 1, renders fixed: q ∝ w(t) lowers the variance {within[0]} times, the measured oracle "
        f"{within[1]} times; in total {total[0]} and {total[1]}."
    )


def _global(states: Sequence[State]) -> str:
    draws = sorted({m.draws for m in states[0].rows if m.arm == "IW+global" and m.draws <= 8})
    found = [f"{_say(compared(states, k, 'IW+Strat', 'IW+global', 'within'))} at K = {k}" for k in draws]
    return (
        "Renders fixed, variance with strata over all draws over that with strata per render (above 1: per "
        f"render is better): {', '.join(found)}."
    )


def _cameras(rows: Sequence[Row]) -> str:
    parts = []
    for cameras in CAMERAS:
        at = [row for row in rows if (row["cameras"], row["K"]) == (cameras, 4)]
        parts.append(
            f"{cameras} " + ", ".join(f"{show_column(row, 'between')} at R = {row['R']}" for row in at)
        )
    return f"Variance between renders over that of iid cameras: {'; '.join(parts)}."


def _coefficient(states: Sequence[State]) -> str:
    found = pooled_ratio([(s.row(*BASE).within, s.row("uniform, learned c", 2, 1).within) for s in states])
    return f"The learned ε coefficient lowers the variance with renders fixed {_say(found)} times at K = 1."


def _title(arm: str) -> str:
    return "reuse" if arm == "uniform" else arm


def _say(e: Estimate) -> str:
    return show(e.value, e.low, e.high)
