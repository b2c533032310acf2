"""Charts as Vega-Lite: curves of a run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .blocks import Control, Mark, chart

Spec = dict[str, Any]
COLOURS = ["#3a7fc9", "#c9731f", "#3b8a5a", "#cf4a50", "#7d7d7d", "#9667c4", "#94763f"]
"""Of curves: lines are told from a light page and from a dark one."""
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
POINTS = 400
"""Of a curve, at most: more are averaged."""
HEIGHT = 260
ALONE = "this run"
"""A curve that needs no legend where it is the only one."""
MARGIN = 8
"""Pixels between the outermost points and the frame."""
_TEXT = "currentColor"
CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _TEXT, "titleColor": _TEXT, "tickColor": _TEXT, "domainColor": _TEXT,
        "gridColor": _TEXT, "gridOpacity": 0.15, "titleFontWeight": "normal", "labelLimit": 220,
    },
    "legend": {"disable": True},
}  # fmt: skip
"""The page's own colours, whether light or dark; its legends are the page's own, too."""
_DRAG = "[pointerdown[event.pointerType == 'mouse'], window:pointerup] > window:pointermove!"
MOVED = {
    "type": "interval", "on": _DRAG, "translate": _DRAG, "zoom": "wheel![event.ctrlKey || event.metaKey]"
}  # fmt: skip
"""By a mouse alone: a finger on a chart, or the wheel over it, scrolls the page."""
HOW = (
    "With a mouse: drag a chart to move it, zoom with Ctrl and the wheel, put it back by a double click. A "
    "point tells its numbers."
)
"""What a reader of several charts is told."""


def curves(points: Sequence[Mapping[str, Any]], y: str, alt: str, logarithmic: bool = False) -> Markup:
    """Lines with 95 % bands over updates or seconds, as the reader chooses; they can be moved and zoomed.

    Args:
        points: each with `curve`, `step`, `seconds`, `value`, and where they are known `low` and `high`.
        y: title of the axis.
    """
    rows = thinned([p for p in points if math.isfinite(p["value"])])
    names = list(dict.fromkeys(row["curve"] for row in rows))
    looks = [look(number) for number in range(len(names))]
    colour: Spec = {
        "field": "curve", "type": "nominal", "title": None, "sort": names,
        "scale": {"domain": names, "range": [colour for colour, _ in looks]},
    }  # fmt: skip
    shape: Spec = colour | {"scale": {"domain": names, "range": [shape for _, shape in looks]}}
    kind: Spec = {"type": "log"} if logarithmic else {"zero": False}
    scale = kind | {"nice": False, "padding": MARGIN}
    x: Spec = {
        "field": "x", "type": "quantitative", "title": None, "axis": {"tickCount": 6},
        "scale": {"zero": False, "nice": False, "padding": MARGIN},
    }  # fmt: skip
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
        "params": [{"name": "view", "select": MOVED, "bind": "scales"}],
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
    marks = [Mark(name, *each) for name, each in zip(names, looks, strict=True)]
    return drawn(spec, alt, () if names == [ALONE] else marks)


def look(number: int) -> tuple[str, str]:
    """Colour and shape of a curve: after the last colour the first comes again, with another shape."""
    turn = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], SHAPES[(number + turn) % len(SHAPES)]


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


def drawn(spec: Spec, alt: str, legend: Sequence[Mark] = (), controls: Sequence[Control] = ()) -> Markup:
    """With its still picture."""
    import vl_convert

    width = {"width": 640} if spec.get("width") == "container" else {}
    svg = vl_convert.vegalite_to_svg({**spec, **width})
    return chart(spec, alt, svg, legend, controls)
