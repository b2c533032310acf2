"""What (R, K) is worth at other costs, with sliders."""

from __future__ import annotations

import math

from markupsafe import Markup

from carv_distill.variance.table import number

from .blocks import Control, Mark
from .charts import CONFIG, Spec, drawn

PLACES = (1, 2, 4, 8, 16, 32, 64)
COLOURS = {0.25: "#b3541e", 0.5: "#e0ab80", 1: "#efeae4", 2: "#8db6dd", 4: "#1f5fa8"}
"""Of effective compute: orange is less, blue more."""
MEANINGS = {0.25: "0.25 or less", 0.5: "0.5", 1: "1: as good", 2: "2", 4: "4 or more"}
STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
"""Of a slider, within a power of ten."""
_DARK = "datum.worth > 2.6 || datum.worth < 0.36"


def explorer(
    kappa: float,
    ratio: float,
    other: float,
    base: int,
    ratios: tuple[float, float] | None = None,
    own: tuple[int, int] | None = None,
    upstream: str = "sample",
    whose: str = "this run",
) -> Markup:
    """Effective compute over (R, K) with sliders for the costs and the variance; see :func:`worth`.

    Args:
        kappa: an upstream sample's cost in draws.
        ratio: W/B, within over between of a single draw.
        other: what an iteration costs whatever R and K, in draws.
        base: R of the baseline (R, 1).
        ratios: an interval of W/B, which the slider covers too.
        own: the run's (R, K), which is outlined.
        upstream: what an upstream sample is.
        whose: these values are, in words.
    """
    rows, columns = ({*PLACES, number} for number in own or (1, 1))
    spec: Spec = {
        "width": "container",
        "height": 320,
        "config": CONFIG,
        "data": {"values": [{"R": r, "K": k} for r in sorted(rows) for k in sorted(columns)]},
        "params": [
            {"name": "kappa", "value": kappa},
            {"name": "ratio", "value": ratio},
            {"name": "other", "value": other},
            {"name": "base", "value": base},
        ],
        "transform": _worth(),
        "encoding": {
            "x": {
                "field": "K", "type": "ordinal", "title": f"draws of each {upstream}, K",
                "axis": {"labelAngle": 0},
            },
            "y": {"field": "R", "type": "ordinal", "title": f"{upstream}s, R", "sort": "descending"},
        },
        "layer": [_cells(), _numbers(), *([_outline(*own)] if own else [])],
    }  # fmt: skip
    bases = sorted({*rows, base})
    controls = [
        _slider("kappa", f"cost of one {upstream} (κ)", " draws", kappa, (0.1, 100), whose),
        _slider("ratio", f"variance within {upstream}s over that between them (W/B)", "", ratio,
                _joined((0.1, 100), ratios), whose),
        _slider("other", "all other work of an iteration", " draws", other, (0, 1, 10_000), whose),
        Control("base", f"compared with one draw of each of R {upstream}s", bases,
                [f"R = {r}" for r in bases], bases.index(base), slider=False),
    ]  # fmt: skip
    outlined = f" Outlined: {whose}, R = {own[0]}, K = {own[1]}." if own else ""
    alt = (
        f"What independent draws are worth at every (R, K), against one draw of each of as many {upstream}s "
        f"as are chosen below, at first ({base}, 1), which is 1. At first κ = {number(kappa)}, W/B = "
        f"{number(ratio)}, other work of {number(other)} draws.{outlined}"
    )
    legend = [Mark(MEANINGS[value], colour) for value, colour in COLOURS.items()]
    return drawn(spec, alt, legend, controls)


def worth(upstream: int, draws: int, kappa: float, ratio: float, other: float, base: int) -> float:
    """Effective compute of (R, K) against (R_b, 1), iid draws, V = (B + W/K)/R, c = other + R (κ + K):

    (1 + ρ)/R_b · c(R_b, 1) / ((1 + ρ/K)/R · c(R, K)),    ρ = W/B.
    """
    variance = (1 + ratio / draws) / upstream
    cost = other + upstream * (kappa + draws)
    return (1 + ratio) / base * (other + base * (kappa + 1)) / (variance * cost)


def steps(value: float, ends: tuple[float, ...]) -> list[float]:
    """Round numbers between two ends, and a value among them: one beyond an end widens the scale to the
    power of ten behind it, and 0, as a value or among the ends, comes before all."""
    known = [v for v in (value, *ends) if v > 0]
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    rounds = [float(f"{step}e{power}") for power in range(first, last) for step in STEPS]
    rounds = [0.0] * (0 in (value, *ends)) + [*rounds, 10.0**last]
    return sorted([value, *(v for v in rounds if number(v) != number(value))])


def _joined(ends: tuple[float, float], others: tuple[float, float] | None) -> tuple[float, float]:
    low, high = others or ends
    return min(ends[0], low), max(ends[1], high)


def _slider(signal: str, words: str, unit: str, value: float, ends: tuple[float, ...], whose: str) -> Control:
    values = steps(value, ends)
    labels = [f"{number(v)}{unit}" + (f", {whose}" if v == value else "") for v in values]
    return Control(signal, words, values, labels, values.index(value))


def _worth() -> list[Spec]:
    """:func:`worth` in Vega's words."""
    return [
        {"calculate": "(1 + ratio / datum.K) / datum.R", "as": "variance"},
        {"calculate": "other + datum.R * (kappa + datum.K)", "as": "cost"},
        {
            "calculate": "(1 + ratio) / base * (other + base * (kappa + 1)) / (datum.variance * datum.cost)",
            "as": "worth",
        },
    ]


def _cells() -> Spec:
    colours = {
        "type": "log",
        "domain": [*COLOURS],
        "range": [*COLOURS.values()],
        "interpolate": "rgb",  # others lead from grey to blue by way of green
        "clamp": True,
    }
    worth = {"field": "worth", "type": "quantitative", "title": "effective compute"}
    about = [{"field": name, "type": "ordinal"} for name in ("R", "K")]
    return {
        "mark": "rect",
        "encoding": {
            "color": {**worth, "scale": colours},
            "tooltip": [*about, {**worth, "format": ".2f"}],
        },
    }


def _numbers() -> Spec:
    colour = {"condition": {"test": _DARK, "value": "white"}, "value": "#1d1f23"}
    return {
        "mark": {"type": "text", "fontSize": 11},
        "encoding": {"text": {"field": "worth", "type": "quantitative", "format": ".2f"}, "color": colour},
    }


def _outline(upstream: int, draws: int) -> Spec:
    """Of a single cell."""
    return {
        "transform": [{"filter": f"datum.R == {upstream} && datum.K == {draws}"}],
        "mark": {"type": "rect", "filled": False, "stroke": "currentColor", "strokeWidth": 2.5},
    }
