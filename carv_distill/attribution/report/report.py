"""What `evaluate.py influence` says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.ranking import Ranking
from carv_distill.attribution.ranking.reliability import TOP, check_fit
from carv_distill.variance import Table, number
from carv_distill.variance.table import with_half_width

from .advice import AGREED, agreement, verdict

POOR = 0.5
"""Agreement of two rankings, whole and at their heads, below which the reader is warned."""
LIMITS = "All this is about the noise of the draws, not about whether such scores tell what shaped a sample."
WANTED = 0.95
"""Rank correlation with the limit, for the number of draws that is named."""


def influence_table(result: InfluenceResult, count: int) -> Table:
    """The most influential samples of each query with their scores, and how well these are known."""
    count = min(count, len(result.training))
    ranking, top = result.ranking, result.ranking.top(count)
    about = ranking.about
    rows = []
    for q in range(len(result.queries)):
        cells = []
        for n in top[q].tolist():
            half = ranking.half_width[q, n].item()
            score, error = with_half_width(ranking.scores[q, n].item(), half)
            more = f"\n± {error}" if error else ""
            cells.append(f"{result.training.names[n]} ({result.training.words[n]})\n{score}{more}")
        rows.append((result.queries.title(q), *cells))
    known = not ranking.half_width.isnan().any()
    error = (
        "±: half of the score's 95 % interval over the draws. Where intervals overlap the order is not known."
        if known
        else "Too few groups of draws for intervals (--groups 8)."
    )
    model = f"the teacher {result.model}" if result.student else result.model
    return Table(
        f"Most influential training samples of {model}, {about['score']}, the first {count}",
        ("query", *(f"{i + 1}." for i in range(count))),
        rows,
        f"{error} A training sample is no candidate of its own.",
    )


def voted_table(result: InfluenceResult, count: int) -> Table | None:
    """The training samples that most of several queries have among their first; None of a single query."""
    votes = result.ranking.votes
    if votes is None:
        return None
    known = result.ranking.reliability
    count = min(count, len(result.training))
    cells = [
        f"{result.training.names[n]} ({result.training.words[n]})\n"
        f"by {votes.counts[n]} of {len(result.queries)}\nmean {number(votes.mean[n].item())}"
        for n in votes.order[:count].tolist()
    ]
    agree = ""
    if known:
        agree = f" Two such rankings, by {known[-1].draws} draws each, correlate to {known[-1].voted:.3f}."
    return Table(
        f"For all {len(result.queries)} queries, by votes, the first {count}",
        ("queries", *(f"{i + 1}." for i in range(count))),
        [("all", *cells)],
        f"By so many queries, each of which votes for its first {votes.each}; among equal votes the mean "
        f"score decides.{agree}",
    )


def limit_of(about: Mapping[str, Any]) -> str:
    """What rankings of more and more draws come to."""
    if about["debias"]:
        return "the ranking by infinitely many draws"
    return "the average of many such rankings"


def conclusions(result: InfluenceResult) -> list[str]:
    """Whose ranking it is, how far it is known, and the draws that would do."""
    ranking, said = result.ranking, []
    if result.student:
        said.append(
            f"What is ranked is the training set of the teacher, {result.model}, by the teacher's gradients: "
            f"the student {result.student} learned from that teacher and from no training sample itself."
        )
    if not ranking.reliability:
        return said
    return [*said, *_reliability(result), *_fit(ranking), LIMITS]


def _reliability(result: InfluenceResult) -> list[str]:
    about, last = result.ranking.about, result.ranking.reliability[-1]
    said = [
        f"Two rankings of the {len(result.training)} training samples, each by its own {last.draws} draws, "
        f"correlate to {last.between:.3f} (Spearman, mean over queries) and share {last.top:.0%} of their "
        f"first {TOP}. So this ranking, by {about['draws']} draws, should correlate to about "
        f"{last.predicted(about['draws']).with_mean:.3f} with {limit_of(about)}."
    ]
    if not about["debias"]:
        said.append(
            "That average keeps an error which no number of such rankings shows: noise that a query and a "
            "training sample share, as they share their draws."
        )
    needed = last.needed(WANTED)
    if not math.isfinite(needed):
        return [*said, "The two do not agree at all: nothing can be read from this ranking (more --draws)."]
    if needed <= about["draws"]:
        more = "" if last.between >= AGREED else f"; that halves agree to {AGREED}, as below, asks more"
        return [*said, f"For {WANTED:g} with that one about {math.ceil(needed)} draws are enough{more}."]
    poor = " Until then little can be read from it." if max(last.between, last.top) < POOR else ""
    return [*said, f"For {WANTED:g} with that one it takes about {math.ceil(needed)} draws.{poor}"]


def _fit(ranking: Ranking) -> list[str]:
    """What is said of the formula behind the draws that are needed."""
    fit = check_fit(ranking.reliability)
    if fit is None:
        return [
            "Whether the formula for more draws (Spearman, Brown 1910) holds here was not tested: that takes "
            "--groups 8."
        ]
    if not fit.misses:
        return []
    needed = sorted(r.needed(WANTED) for r in ranking.reliability)
    low, high = (f"{math.ceil(n)}" if math.isfinite(n) else "any number" for n in (needed[0], needed[-1]))
    return [
        "WARNING: the formula for more draws (Spearman, Brown 1910) does not fit what was measured: from the "
        f"agreement by {fit.source} draws it predicts {fit.predicted:.3f} by {fit.draws}, but "
        f"{fit.measured:.3f} was measured (95 % interval of the difference: ± {number(fit.half_width)}). So "
        "do not rely on what is said above of other numbers of draws than were compared: from one measured "
        f"point to another the draws needed for {WANTED:g} go from {low} to {high}."
    ]


def influence_dict(result: InfluenceResult, count: int) -> dict[str, Any]:
    """The same for JSON; all scores are in their own file."""
    ranking, count = result.ranking, min(count, len(result.training))
    top = ranking.top(count)
    queries = [
        {
            "query": result.queries.words[q],
            "name": result.queries.names[q],
            "number": None if result.queries.numbers is None else int(result.queries.numbers[q]),
            "top": [
                {
                    "train": int(result.training.numbers[n]),
                    "name": result.training.names[n],
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
        {
            "draws": r.draws,
            "between": r.between,
            "top": r.top,
            "with_mean": r.with_mean,
            "needed": n if math.isfinite(n := r.needed(WANTED)) else None,
        }
        for r in ranking.reliability
    ]
    fit = check_fit(ranking.reliability)
    return {
        "model": result.model,
        "student": None if result.student is None else str(result.student),
        "about": dict(ranking.about),
        "scores": str(result.scores),
        "reliability": known,
        "fit": None if fit is None else {**asdict(fit), "misses": fit.misses},
        "queries": queries,
        "votes": _voted(result, count),
        "agreement": None if (found := agreement(result)) is None else asdict(found) | {"wanted": AGREED},
        "conclusions": [*conclusions(result), verdict(result)],
    }


def _voted(result: InfluenceResult, count: int) -> dict[str, Any] | None:
    """The ranking for all queries."""
    votes = result.ranking.votes
    if votes is None:
        return None
    top = [
        {
            "train": int(result.training.numbers[n]),
            "name": result.training.names[n],
            "about": result.training.words[n],
            "votes": int(votes.counts[n]),
            "mean": votes.mean[n].item(),
        }
        for n in votes.order[:count].tolist()
    ]
    known = result.ranking.reliability
    return {"each": votes.each, "between": known[-1].voted if known else None, "top": top}
