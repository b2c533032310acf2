"""What a page is made of: each block is HTML whose texts are escaped, and shows something without scripts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Environment(
    loader=PackageLoader("carv_distill.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


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
    """Commands to copy, one a line."""
    return _block("commands", lines=list(lines))


def settings(lines: Sequence[str], title: str) -> Markup:
    """Many lines, folded."""
    return _block("folded", lines=list(lines), title=title)


def facts(pairs: Mapping[str, object]) -> Markup:
    """Names and what they are."""
    return _block("facts", pairs={name: str(value) for name, value in pairs.items()})


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Markup:
    """Cells as they are."""
    return _block("table", head=list(head), rows=[list(row) for row in rows], caption=caption)


def chart(spec: Mapping[str, Any], alt: str, still: str) -> Markup:
    """A Vega-Lite chart.

    Args:
        alt: what it shows, in words.
        still: the same as an SVG, for a page whose scripts do not run.
    """
    return _block("chart", spec=_script_json(spec), alt=alt, still=Markup(still))


def image(png: bytes, alt: str, pixels: bool = False) -> Markup:
    """A picture.

    Args:
        pixels: it has few, and is enlarged without blurring them.
    """
    return _block("image", address=data_uri(png, "image/png"), alt=alt, pixels=pixels)


def slider(pictures: Mapping[str, bytes], alt: str) -> Markup:
    """PNGs over time: the last one, and a slider to the others.

    Args:
        pictures: label → PNG, in order.
    """
    frames = [{"label": label, "address": data_uri(png, "image/png")} for label, png in pictures.items()]
    return _block("slider", frames=frames, alt=alt)


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
