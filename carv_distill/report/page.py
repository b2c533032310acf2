"""Sections as one self-contained page: nothing is fetched, no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup

from .blocks import TEMPLATES


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it."""

    title: str
    blocks: Sequence[Markup]

    @property
    def anchor(self) -> str:
        """Of its heading."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """HTML of it all; Vega is in it where a section has a chart."""
    charts = any('class="chart"' in block for section in sections for block in section.blocks)
    template = TEMPLATES.get_template("page.html.jinja")
    scripts = Markup(vega()) if charts else ""
    return template.render(title=title, lead=lead, sections=sections, vega=scripts)


@cache
def vega() -> str:
    """Vega, Vega-Lite and vegaEmbed as a script, 0.9 MB."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # all of it, as it says
    return bundle.replace("</script", "<\\/script")
