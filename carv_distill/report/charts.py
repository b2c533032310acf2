"""Charts as Vega-Lite: curves of a run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED

from .blocks import chart

Spec = dict[str, Any]
COLOURS = [BLUE, ORANGE, GREEN, RED, GREY, "#7a4fa3", "#8a6d3b"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
POINTS = 400
"""Of a curve, at most: more are averaged."""
HEIGHT = 260
_TEXT = "currentColor"
CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _TEXT, "titleColor": _TEXT, "tickColor": _TEXT, "domainColor": _TEXT,
        "gridColor": _TEXT, "gridOpacity": 0.15, "titleFontWeight": "normal", "labelLimit": 220,
    },
    "legend": {"labelColor": _TEXT, "titleColor": _TEXT, "orient": "top", "labelLimit": 300, "columns": 3},
    "title": {"color": _TEXT, "fontWeight": "normal"},
}  # fmt: skip
"""The page's own colours, whether light or dark."""


def curves(points: Sequence[Mapping[str, Any]], y: str, alt: str, logarithmic: bool = False) -> Markup:
    """Lines with 95 % bands over updates or seconds, as the reader chooses; they can be moved and zoomed.

    Args:
        points: each with `curve`, `step`, `seconds`, `value`, and where they are known `low` and `high`.
        y: title of the axis.
    """
    rows = thinned([p for p in points if math.isfinite(p["value"])])
    names = list(dict.fromkeys(row["curve"] for row in rows))
    colour: Spec = {
        "field": "curve", "type": "nominal", "title": None, "sort": names,
        "scale": {"domain": names, "range": COLOURS[: len(names)]},
    }  # fmt: skip
    shape: Spec = colour | {"scale": {"domain": names, "range": SHAPES[: len(names)]}}
    scale: Spec = {"type": "log"} if logarithmic else {"zero": False}
    x: Spec = {"field": "x", "type": "quantitative", "title": None, "axis": {"tickCount": 6}}
    about = [
        {"field": "curve", "type": "nominal", "title": "curve"},
        {"field": "step", "type": "quantitative", "title": "update"},
        {"field": "seconds", "type": "quantitative", "format": ".0f"},
        {"field": "value", "type": "quantitative", "format": ".4g", "title": y},
    ]
    known = any("low" in row for row in rows)
    if known:
        ends = (("low", "95 % from"), ("high", "to"))
        about += [
            {"field": end, "type": "quantitative", "format": ".4g", "title": title} for end, title in ends
        ]
    band = {
        "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "mark": {"type": "area", "opacity": 0.18},
        "encoding": {
            "x": x, "color": colour,
            "y": {"field": "low", "type": "quantitative", "scale": scale, "title": y},
            "y2": {"field": "high"},
        },
    }  # fmt: skip
    line: Spec = {
        "params": [{"name": "view", "select": "interval", "bind": "scales"}],
        "mark": {"type": "line", "strokeWidth": 1.8},
        "encoding": {
            "x": x,
            "color": colour,
            "y": {"field": "value", "type": "quantitative", "scale": scale, "title": y},
        },
    }
    dots = {
        "mark": {"type": "point", "filled": True, "size": 36},
        "encoding": {**line["encoding"], "shape": shape, "tooltip": about},
    }
    over = {"input": "radio", "options": ["updates", "seconds"], "name": "over "}
    spec: Spec = {
        "width": "container",
        "height": HEIGHT,
        "config": CONFIG,
        "data": {"values": rows},
        "params": [{"name": "over", "value": "updates", "bind": over}],
        "transform": [{"calculate": "over == 'seconds' ? datum.seconds : datum.step", "as": "x"}],
        "layer": [*([band] if known else []), line, dots],
    }
    return drawn(spec, alt)


def thinned(points: Sequence[Mapping[str, Any]], most: int = POINTS) -> list[Spec]:
    """At most so many points of each curve: neighbours are averaged, ends of intervals with them."""
    by_curve: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        by_curve.setdefault(point["curve"], []).append(point)
    kept: list[Spec] = []
    for name, rows in by_curve.items():
        size = math.ceil(len(rows) / most)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            keys = [key for key in part[0] if key != "curve" and all(key in row for row in part)]
            kept.append({"curve": name, **{key: _mean([row[key] for row in part]) for key in keys}})
    return kept


def _mean(values: Sequence[float]) -> float:
    """To six digits, as a page has no use for more."""
    return float(f"{math.fsum(values) / len(values):.6g}")


def drawn(spec: Spec, alt: str) -> Markup:
    """With its still picture."""
    import vl_convert

    width = {"width": 640} if spec.get("width") == "container" else {}
    svg = vl_convert.vegalite_to_svg({**spec, **width})
    return chart(spec, alt, svg)
