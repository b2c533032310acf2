"""What a page is made of: each block is HTML whose texts are escaped, and shows something without scripts."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_SHAPES = {
    "circle": '<circle cx="6" cy="6" r="4"/>',
    "square": '<path d="M2 2h8v8H2z"/>',
    "triangle-up": '<path d="M6 1.5 11 10H1z"/>',
    "diamond": '<path d="M6 .5 11 6 6 11.5 1 6z"/>',
    "cross": '<path d="M4.5 1h3v3.5H11v3H7.5V11h-3V7.5H1v-3h3.5z"/>',
    "triangle-down": '<path d="M6 10.5 1 2h10z"/>',
    "triangle-right": '<path d="M10.5 6 2 1v10z"/>',
}
"""Vega's points as SVG, 12 units wide."""
PAGE = 960
"""Its width on a large screen, in pixels."""
TEMPLATES = Environment(
    loader=PackageLoader("carv_distill.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


_OPTION = re.compile(r"(?<= )--[\w-]+")
_WHOLE = re.compile(r"\[[^\]]*\]|± \S+")
"""An interval, or what stands behind ±: no line ends within."""


@dataclass(frozen=True)
class Mark:
    """What a colour of a chart stands for; of a curve, its points' shape with it."""

    words: str
    colour: str
    shape: str = "square"


@dataclass(frozen=True)
class Control:
    """A slider over the values of a chart's signal, or a list of them."""

    signal: str
    words: str
    values: Sequence[float]
    labels: Sequence[str]
    """Of the values, with their units."""
    start: int
    """Which of them comes first."""
    slider: bool = True


def _block(name: str, **values: Any) -> Markup:
    return Markup(getattr(TEMPLATES.get_template("blocks.html.jinja").module, name)(**values))


def data_uri(content: bytes, kind: str) -> str:
    """Content of a media type, as an address that needs no server."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def text(words: str) -> Markup:
    """A paragraph."""
    return _block("text", words=words)


def missing(reason: str) -> Markup:
    """A paragraph that says why there is nothing to see, and what makes it."""
    return _block("missing", words=reason)


def commands(lines: Sequence[str]) -> Markup:
    """Commands to copy, one a line; where a screen is too narrow for one, none of its --options is broken."""
    marked = [Markup(_OPTION.sub(r"<i>\g<0></i>", str(escape(line)))) for line in lines]
    return _block("commands", lines=marked)


def folded(content: Markup, title: str) -> Markup:
    """What is long: its title, which opens it."""
    return _block("folded", content=content, title=title)


def facts(pairs: Mapping[str, object]) -> Markup:
    """Names and what they are."""
    return _block("facts", pairs={name: str(value) for name, value in pairs.items()})


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", notes: Sequence[str] = ()
) -> Markup:
    """Cells as they are, in a box that scrolls where they are wider than the screen.

    Args:
        notes: below it, as what a dash means.
    """
    cells = [[_WHOLE.sub(lambda m: m[0].replace(" ", "\u00a0"), cell) for cell in row] for row in rows]
    return _block("table", head=list(head), rows=cells, caption=caption, notes=list(notes))


def chart(
    spec: Mapping[str, Any],
    alt: str,
    still: str,
    legend: Sequence[Mark] = (),
    controls: Sequence[Control] = (),
) -> Markup:
    """A Vega-Lite chart under its title, with a legend that takes as many lines as the screen wants.

    Args:
        alt: what it shows, in words.
        still: the same as an SVG, for a page whose scripts do not run.
        controls: of its signals; only scripts show them.
    """
    marks = [
        {"words": mark.words, "colour": mark.colour, "shape": Markup(_SHAPES[mark.shape])} for mark in legend
    ]
    shown = [
        {"signal": c.signal, "words": c.words, "labels": list(c.labels), "start": c.start, "slider": c.slider,
         "json": json.dumps({"values": list(c.values), "labels": list(c.labels)})}
        for c in controls
    ]  # fmt: skip
    return _block(
        "chart", spec=_script_json(spec), alt=alt, still=Markup(still), legend=marks, controls=shown
    )


def image(png: bytes, alt: str, pixels: bool = False, words: bool = False) -> Markup:
    """A picture.

    Args:
        pixels: it has few, and is enlarged without blurring them; one wider than the page is shrunk.
        words: it has words in it, and is not shrunk until they cannot be read: it scrolls.
    """
    return _block(
        "image", address=data_uri(png, "image/png"), alt=alt, pixels=pixels and _is_narrow(png), words=words
    )


def _is_narrow(png: bytes) -> bool:
    """Whether it is not shrunk on a page, where the words in it would suffer from keeping whole pixels."""
    return int.from_bytes(png[16:20]) <= PAGE


def slider(pictures: Mapping[str, bytes], alt: str, words: bool = False) -> Markup:
    """PNGs over time: the last one, and a slider to the others.

    Args:
        pictures: label → PNG, in order.
        words: they have words in them, and are not shrunk: they scroll.
    """
    frames = [{"label": label, "address": data_uri(png, "image/png")} for label, png in pictures.items()]
    pixels = all(_is_narrow(png) for png in pictures.values())
    return _block("slider", frames=frames, alt=alt, pixels=pixels, words=words)


def beside(figures: Sequence[Markup]) -> Markup:
    """Figures in as many columns as the screen has room for."""
    return _block("beside", figures=list(figures))


def video(mp4: bytes, alt: str) -> Markup:
    """A film."""
    return _block("video", address=data_uri(mp4, "video/mp4"), alt=alt)


def frame(html: str, title: str) -> Markup:
    """A page within the page, as the viewer of an object."""
    return _block("frame", html=html, title=title)


def _script_json(spec: Mapping[str, Any]) -> Markup:
    """JSON that no text within it can end: a script's content is not unescaped as HTML is."""
    text = json.dumps(spec, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
