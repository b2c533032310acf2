"""What a page says of a gradient's variance: conclusions, samplers, an explorer at the run's own costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from carv_distill.engine.task import PageWords
from carv_distill.variance.report import SAMPLERS

from . import blocks
from .explorer import explorer
from .files import RunFiles
from .intervals import ends_of, interval, shown, value_of
from .page import Section


def variance(run: RunFiles, words: PageWords) -> Section | None:
    """Conclusions, the samplers at their largest K and, folded, at every K, and the explorer."""
    a = run.measured.get("variance")
    if not a:
        return None
    parts: list[Markup] = [blocks.text(line) for line in a.get("conclusions", [])]
    if line := a.get("train"):
        parts += [blocks.text("To train so:"), blocks.commands([line])]
    if rows := a.get("rows", []):
        most = max(row["draws"] for row in rows)
        parts.append(_table([rows[0], *(row for row in rows[1:] if row["draws"] == most)], words))
        whole = blocks.table(_head(words), [_cells(row) for row in rows])
        parts.append(blocks.folded(whole, f"every sampler at every K: {len(rows)} rows"))
    cost, budget = a.get("cost", {}), a.get("budget", {})
    if cost.get("draw") and value_of(budget.get("between")) is not None:
        own = a.get("own") or {}
        base = int(rows[0]["upstream"]) if rows else 1
        place = a.get("within_over_between")
        parts += _explorer(
            cost, budget, place, base, (own["upstream"], own["draws"]) if own else None, words.upstream
        )
    return Section("Variance", parts)


def _table(rows: list[Mapping[str, Any]], words: PageWords) -> Markup:
    names = dict.fromkeys(row["sampler"] for row in rows)
    meant = "; ".join(f"{name}: {SAMPLERS[name]}" for name in names if name in SAMPLERS)
    notes = [
        f"Samplers: {meant}." if meant else "",
        f"With the {words.upstream}s fixed: the part that comes from noise levels and noises. Effective "
        "compute (ECM): variance × seconds of the first row over this one's, by the seconds of the gradient "
        "alone, or of an iteration with all that it does besides.",
    ]
    caption = (
        f"Variance of the gradient by {rows[0]['upstream']} {words.upstream}s with K draws each, and what it "
        "is worth; 95 % intervals"
    )
    return blocks.table(_head(words), [_cells(row) for row in rows], caption, [n for n in notes if n])


def _head(words: PageWords) -> list[str]:
    return [
        "sampler", "K", "variance", f"with the {words.upstream}s fixed",
        "effective compute of the gradient", "of the iteration",
    ]  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[str]:
    numbers = (interval(row[key]) for key in ("total", "within", "ecm", "ecm_iteration"))
    return [row["sampler"], str(row["draws"]), *numbers]


def _explorer(
    cost: Mapping[str, Any],
    budget: Mapping[str, Any],
    place: Mapping[str, Any] | None,
    base: int,
    own: tuple[int, int] | None,
    upstream: str,
) -> list[Markup]:
    """Sliders where the run is; where the variance between samples is not seen, at the most it can be.

    Args:
        place: W/B with its interval, where it was told from infinity.
    """
    within, between = budget.get("within") or {"value": 0.0}, budget["between"]
    low, high = ends_of(between)
    most = between["value"] if between["value"] > 0 else high
    if most <= 0:
        return [
            blocks.missing(f"No variance between {upstream}s was seen, so there is no W/B to explore from.")
        ]
    ratio = max(within["value"], 0.0) / most
    ends = [max(end, 0.0) for end in ends_of(within)]
    ratios = ends[0] / high, ends[1] / low if low > 0 else math.inf
    if place is not None:
        ratios = max(ends_of(place)[0], 0.0), ends_of(place)[1]
    said = (
        "What each (R, K) is worth by independent draws; strata and importance come on top of it. Move the "
        "sliders, which at first stand where this run is. Reuse pays where a row rises to the right."
    )
    if between["value"] <= 0:
        said += f" No variance between {upstream}s was seen: W/B is the least that it can be, or beyond."
    elif ratios[1] < math.inf:
        said += f" Its W/B lies between {shown(ratios[0])} and {shown(ratios[1])}."
    else:
        said += (
            f" Its W/B is {shown(ratios[0])} or more, as the variance between {upstream}s is not told from 0."
        )
    finite = ratios[0], min(ratios[1], 100 * max(ratio, 1e-9))
    besides, calls = (cost.get(name, 0.0) / cost["draw"] for name in ("other", "calls"))
    other = besides + calls
    if besides and calls:
        said += (
            f" Of all other work, {shown(other)} draws, {shown(calls)} are the gradient's own, which its "
            f"{upstream}s share, and {shown(besides)} what an iteration does besides."
        )
    return [
        blocks.text(said),
        explorer(cost["kappa"], ratio, other, own[0] if own else base, finite, own, upstream),
    ]
