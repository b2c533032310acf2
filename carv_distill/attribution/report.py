"""What `evaluate.py influence` says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from carv_distill.variance import Table, number

from .measure import InfluenceResult
from .reliability import TOP

POOR = 0.5
"""Agreement of two rankings, whole and at their heads, below which the reader is warned."""
WANTED = 0.95
"""Rank correlation with the limit, for the number of draws that is named."""


def influence_table(result: InfluenceResult, count: int) -> Table:
    """The most influential samples of each query with their scores, and how well these are known."""
    ranking, top = result.ranking, result.ranking.top(count)
    about = ranking.about
    rows = []
    for q in range(len(result.queries)):
        cells = []
        for n in top[q].tolist():
            half = ranking.half_width[q, n].item()
            error = "" if math.isnan(half) else f"\n± {number(half)}"
            score = number(ranking.scores[q, n].item())
            cells.append(f"#{n} ({result.training.words[n]})\n{score}{error}")
        rows.append((_name(result, q), *cells))
    known = not ranking.half_width.isnan().any()
    error = (
        "± half the 95 % interval over the draws; where intervals overlap the order is not known"
        if known
        else "Too few groups of draws for intervals (--groups 4)"
    )
    bias = "" if about["debias"] or not known else "; they do not know the bias of shared draws"
    return Table(
        f"Most influential training samples of {result.model}, {about['score']}, the first {count}",
        ("query", *(f"{i + 1}." for i in range(count))),
        rows,
        f"{error}{bias}. A training sample is no candidate of its own.",
    )


def _name(result: InfluenceResult, q: int) -> str:
    """As "#3 (3)" for a training sample, or "1st sample (0)"."""
    words = f"({result.queries.words[q]})"
    numbers = result.queries.numbers
    return f"{q + 1}. {words}" if numbers is None else f"#{int(numbers[q])} {words}"


def limit_of(about: Mapping[str, Any]) -> str:
    """What rankings of more and more draws come to."""
    if about["debias"]:
        return "that of infinitely many draws"
    return "the mean of all such rankings, bias and all"


def conclusions(result: InfluenceResult) -> list[str]:
    """How far the ranking is known, and the draws that would do."""
    about, known = result.ranking.about, result.ranking.reliability
    if not known:
        return ["With so few groups of draws nothing is known of the ranking's reliability (--groups 4)."]
    last = known[-1]
    whole = last.predicted(about["draws"])
    said = [
        f"Two rankings of {len(result.training)} samples by {last.draws} independent draws each agree to "
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


def influence_dict(result: InfluenceResult, count: int) -> dict[str, Any]:
    """The same for JSON; all scores are in their own file."""
    ranking, count = result.ranking, min(count, len(result.training))
    top = ranking.top(count)
    queries = [
        {
            "query": result.queries.words[q],
            "number": None if result.queries.numbers is None else int(result.queries.numbers[q]),
            "top": [
                {
                    "train": n,
                    "about": result.training.words[n],
                    "score": ranking.scores[q, n].item(),
                    "half_width": None if math.isnan(h := ranking.half_width[q, n].item()) else h,
                }
                for n in top[q].tolist()
                if math.isfinite(ranking.scores[q, n].item())
            ],
        }
        for q in range(len(result.queries))
    ]
    known = [
        {"draws": r.draws, "between": r.between, "top": r.top, "with_mean": r.with_mean}
        for r in ranking.reliability
    ]
    return {
        "model": result.model,
        "about": dict(ranking.about),
        "scores": str(result.scores),
        "reliability": known,
        "queries": queries,
        "conclusions": conclusions(result),
    }
