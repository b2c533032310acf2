"""What (R, K) is worth at other costs, with sliders."""

from __future__ import annotations

import math

from markupsafe import Markup

from .charts import CONFIG, Spec, drawn

PLACES = (1, 2, 4, 8, 16, 32, 64)
COLOURS = {0.25: "#b3541e", 0.5: "#e0ab80", 1: "#efeae4", 2: "#8db6dd", 4: "#1f5fa8"}
"""Of effective compute: orange loses, blue pays."""
_STANDING = (
    "'κ = ' + format(pow(10, kappa), '.2~r') + ',  W/B = ' + format(pow(10, ratio), '.2~r')"
    " + ',  other costs = ' + format(pow(10, other), '.2~r') + ' draws'"
)
"""Where the sliders stand."""
_DARK = "datum.worth > 2.6 || datum.worth < 0.36"


def explorer(kappa: float, ratio: float, other: float, base: int) -> Markup:
    """Effective compute over (R, K) with sliders for the costs and the variance; see :func:`worth`.

    Args:
        kappa: an upstream sample's price in draws.
        ratio: W/B, within over between of a single draw.
        other: what an iteration costs beside its gradient, in draws.
        base: R of the baseline (R, 1).
    """
    options = sorted({1, 2, 4, 8, 16, 32, base})
    chosen = {"input": "select", "options": options, "name": "R of the baseline (R, 1) "}
    spec: Spec = {
        "width": "container",
        "height": 320,
        "title": {"text": {"expr": _STANDING}, "anchor": "start", "fontWeight": "normal"},
        "config": CONFIG,
        "data": {"values": [{"R": r, "K": k} for r in PLACES for k in PLACES]},
        "params": [
            _slider("kappa", "κ, price of a sample in draws", kappa, -1, 2),
            _slider("ratio", "W/B, variance within over between samples", ratio, -1, 2),
            _slider("other", "other costs of an iteration, in draws", max(other, 0.1), -1, 4),
            {"name": "base", "value": base, "bind": chosen},
        ],
        "transform": _worth(),
        "encoding": {
            "x": {"field": "K", "type": "ordinal", "title": "draws K", "axis": {"labelAngle": 0}},
            "y": {"field": "R", "type": "ordinal", "title": "samples R", "sort": "descending"},
        },
        "layer": [_cells(), _numbers()],
    }
    alt = (
        f"What independent draws are worth at every (R, K), against (R, 1): at first κ = {kappa:.3g}, "
        f"W/B = {ratio:.3g}, other costs of {other:.3g} draws. Blue pays, orange does not."
    )
    return drawn(spec, alt)


def worth(upstream: int, draws: int, kappa: float, ratio: float, other: float, base: int) -> float:
    """Effective compute of (R, K) against (R_b, 1), iid draws, V = (B + W/K)/R, c = other + R (κ + K):

    (1 + ρ)/R_b · c(R_b, 1) / ((1 + ρ/K)/R · c(R, K)),    ρ = W/B.
    """
    variance = (1 + ratio / draws) / upstream
    cost = other + upstream * (kappa + draws)
    return (1 + ratio) / base * (other + base * (kappa + 1)) / (variance * cost)


def _worth() -> list[Spec]:
    """:func:`worth` in Vega's words."""
    kappa, ratio, other = (f"pow(10, {name})" for name in ("kappa", "ratio", "other"))
    baseline = f"(1 + {ratio}) / base * ({other} + base * ({kappa} + 1))"
    return [
        {"calculate": f"(1 + {ratio} / datum.K) / datum.R", "as": "variance"},
        {"calculate": f"{other} + datum.R * ({kappa} + datum.K)", "as": "cost"},
        {"calculate": f"{baseline} / (datum.variance * datum.cost)", "as": "worth"},
    ]


def _cells() -> Spec:
    colours = {
        "type": "log",
        "domain": [*COLOURS],
        "range": [*COLOURS.values()],
        "interpolate": "rgb",  # others lead from grey to blue by way of green
        "clamp": True,
    }
    legend = {"values": [*COLOURS], "orient": "right"}
    worth = {"field": "worth", "type": "quantitative", "title": "effective compute"}
    about = [{"field": name, "type": "ordinal"} for name in ("R", "K")]
    return {
        "mark": "rect",
        "encoding": {
            "color": {**worth, "scale": colours, "legend": legend},
            "tooltip": [*about, {**worth, "format": ".2f"}],
        },
    }


def _numbers() -> Spec:
    colour = {"condition": {"test": _DARK, "value": "white"}, "value": "#1d1f23"}
    return {
        "mark": {"type": "text", "fontSize": 11},
        "encoding": {"text": {"field": "worth", "type": "quantitative", "format": ".2f"}, "color": colour},
    }


def _slider(name: str, words: str, value: float, low: float, high: float) -> Spec:
    """Of a power of ten."""
    start = min(max(math.log10(value), low), high)
    bind = {"input": "range", "min": low, "max": high, "step": 0.05, "name": f"{words} (power of ten) "}
    return {"name": name, "value": round(start, 2), "bind": bind}
