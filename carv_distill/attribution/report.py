"""What `evaluate.py influence` says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from carv_distill.variance.report import number

from .measure import InfluenceFound
from .ranking import TOP

POOR = 0.5
"""Agreement of two rankings, whole and at their heads, below which the reader is warned."""
WANTED = 0.95
"""Rank correlation with the limit, for the number of draws that is named."""


def influence_table(found: InfluenceFound, count: int) -> list[RenderableType]:
    """The most influential samples of each query with their scores, and how well the ranking is known."""
    influence, top = found.influence, found.influence.top(count)
    about = influence.about
    table = Table(
        "query",
        *(f"{i + 1}." for i in range(count)),
        box=SIMPLE_HEAD,
        title=f"Most influential training samples of {found.subject}, {about['score']}, the first {count}",
        title_justify="left",
        caption_justify="left",
    )
    for q in range(len(found.queries)):
        cells = []
        for n in top[q].tolist():
            half = influence.half_width[q, n].item()
            error = "" if math.isnan(half) else f"\n± {number(half)}"
            score = number(influence.scores[q, n].item())
            cells.append(f"#{n} ({found.training.words[n]})\n{score}{error}")
        table.add_row(_name(found, q), *cells)
    known = not influence.half_width.isnan().any()
    error = (
        "± half the 95 % interval over the draws; where intervals overlap the order is not known"
        if known
        else "Too few groups of draws for intervals (--groups 4)"
    )
    bias = "" if about["debias"] or not known else "; they do not know the bias of shared draws"
    table.caption = f"{error}{bias}. A training sample is no candidate of its own."
    return [table, *conclusions(found)]


def _name(found: InfluenceFound, q: int) -> str:
    """As "#3 (3)" for a training sample, or "1st sample (0)"."""
    words = f"({found.queries.words[q]})"
    numbers = found.queries.numbers
    return f"{q + 1}. {words}" if numbers is None else f"#{int(numbers[q])} {words}"


def limit_of(about: Mapping[str, Any]) -> str:
    """What rankings of more and more draws come to."""
    if about["debias"]:
        return "that of infinitely many draws"
    return "the mean of all such rankings, bias and all"


def conclusions(found: InfluenceFound) -> list[str]:
    """How far the ranking is known, and the draws that would do."""
    about, known = found.influence.about, found.influence.reliability
    if not known:
        return ["With so few groups of draws nothing is known of the ranking's reliability (--groups 4)."]
    last = known[-1]
    whole = last.predicted(about["draws"])
    said = [
        f"Two rankings of {len(found.training)} samples by {last.draws} independent draws each agree to "
        f"{last.between:.3f} (Spearman's correlation, mean over queries), and have {last.top:.0%} of their "
        f"first {TOP} in common; this one, of {about['draws']}, "
        f"agrees with {limit_of(about)} to about {whole.with_mean:.3f}."
    ]
    needed = last.needed(WANTED)
    if not math.isfinite(needed):
        said.append(
            "They do not agree at all: nothing can be read from this ranking; take many more --draws."
        )
    else:
        poor = " Until then little can be read from it." if max(last.between, last.top) < POOR else ""
        said.append(f"For {WANTED:g} it takes about {math.ceil(needed)} draws.{poor}")
    said.append(
        "This is about the noise of the draws, not about whether such scores tell what shaped a sample."
    )
    return said


def influence_dict(found: InfluenceFound, count: int) -> dict[str, Any]:
    """The same for JSON; all scores are in their own file."""
    influence, count = found.influence, min(count, len(found.training))
    top = influence.top(count)
    queries = [
        {
            "query": found.queries.words[q],
            "number": None if found.queries.numbers is None else int(found.queries.numbers[q]),
            "top": [
                {
                    "train": n,
                    "about": found.training.words[n],
                    "score": influence.scores[q, n].item(),
                    "half_width": None if math.isnan(h := influence.half_width[q, n].item()) else h,
                }
                for n in top[q].tolist()
                if math.isfinite(influence.scores[q, n].item())
            ],
        }
        for q in range(len(found.queries))
    ]
    known = [
        {"draws": r.draws, "between": r.between, "top": r.top, "with_mean": r.with_mean}
        for r in influence.reliability
    ]
    return {
        "model": found.subject,
        "about": dict(influence.about),
        "scores": str(found.scores),
        "reliability": known,
        "queries": queries,
        "conclusions": conclusions(found),
    }
