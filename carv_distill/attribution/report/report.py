"""What `evaluate.py influence` says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.ranking import Ranking, scores_digest
from carv_distill.attribution.ranking.reliability import TOP, check_fit
from carv_distill.variance import Table, number
from carv_distill.variance.table import with_half_width

from .advice import AGREED, agreement, draws_for, parts_word, verdict

POOR = 0.5
"""Agreement of two rankings, whole and at their heads, below which the reader is warned."""
LIMITS = "All this is about the noise of the draws, not about whether such scores tell what shaped a sample."
NAME = 36
"""Letters of a sample's name and words in a line of a table."""


def influence_table(result: InfluenceResult, count: int) -> Table:
    """The most influential samples of each query with their scores, and how well these are known."""
    ranking, top = result.ranking, result.ranking.top(min(count, len(result.training)))
    rows = []
    for q in range(len(result.queries)):
        query = fill(result.queries.title(q), NAME)
        for place, n in enumerate(top[q].tolist(), 1):
            score, half = with_half_width(ranking.scores[q, n].item(), ranking.half_width[q, n].item())
            error = f" ± {half}" if half else ""
            rows.append((query if place == 1 else "", f"{place}.", _sample(result, n), f"{score}{error}"))
    known = not ranking.half_width.isnan().any()
    error = (
        "±: half of the score's 95 % interval over the draws. Where intervals overlap the order is not known."
        if known
        else "Too few groups of draws for intervals (--groups 8)."
    )
    model = f"the teacher {result.model}" if result.student else result.model
    return Table(
        f"Most influential of {ranked_words(result)} of {model}, by {ranking.about['score']}",
        ("query", "", "training sample", "score"),
        rows,
        f"{error} A training sample is no candidate of its own.",
    )


def ranked_words(result: InfluenceResult) -> str:
    """How many training samples are ranked, and of how many."""
    ranked = len(result.training)
    of = "the " if ranked == result.samples else f"{ranked:,} of the "
    return f"{of}{result.samples:,} training samples"


def cut_words(queries: tuple[int, int], samples: tuple[int, int]) -> str:
    """What is shown where not all is; empty where all is.

    Args:
        queries: shown, of so many.
        samples: training samples of each shown, of so many.
    """
    told = {"queries": queries, "training samples of each": samples}
    said = [f"{shown:,} of the {of:,} {what}" for what, (shown, of) in told.items() if shown < of]
    return f"shown are the first {' and the first '.join(said)}" if said else ""


def _sample(result: InfluenceResult, n: int) -> str:
    """Name and words of a training sample, in lines."""
    name, words = result.training.names[n], result.training.words[n]
    return fill(f"{name} ({words})" if words else name, NAME)


def voted_table(result: InfluenceResult, count: int) -> Table | None:
    """The training samples that most of several queries have among their first; None of a single query."""
    votes = result.ranking.votes
    if votes is None:
        return None
    known = result.ranking.reliability
    rows = [
        (f"{place}.", _sample(result, n), f"{votes.counts[n]} of {len(result.queries)}", number(mean))
        for place, n in enumerate(votes.first(count), 1)
        for mean in [votes.mean[n].item()]
    ]
    agree = ""
    if known:
        agree = f" Two such rankings, by {known[-1].draws} draws each, correlate to {known[-1].voted:.3f}."
    return Table(
        f"For all {len(result.queries)} queries, by votes",
        ("", "training sample", "votes", "mean score"),
        rows,
        f"Each query votes for its first {votes.each}; among equal votes the mean score decides.{agree}",
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
        f"Two rankings of {ranked_words(result)}, each by its own {last.draws} draws, "
        f"correlate to {last.between:.3f} (Spearman, mean over queries) and share {last.top:.0%} of their "
        f"first {TOP}."
    ]
    if last.between <= 0:
        return said
    said[0] += (
        f" So this ranking, by {about['draws']} draws, should correlate to about "
        f"{last.predicted(about['draws']).with_mean:.3f} with {limit_of(about)}."
    )
    if not about["debias"]:
        said.append(
            "That average keeps an error which no number of such rankings shows: noise that a query and a "
            "training sample share, as they share their draws."
        )
    if max(last.between, last.top) < POOR:
        said.append("Little can be read from such a ranking.")
    return said


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
    draws, groups, largest = ranking.about["draws"], ranking.about["groups"], ranking.reliability[-1].draws
    wanted = [draws_for(r, draws, groups, largest / draws) for r in ranking.reliability]
    known = sorted(n for n in wanted if n is not None)
    ends = (known[:1], known[-1:] if None not in wanted else [])
    low, high = (f"{end[0]}" if end else "any number" for end in ends)
    return [
        "WARNING: the formula for more draws (Spearman, Brown 1910) does not fit what was measured: from the "
        f"agreement by {fit.source} draws it predicts {fit.predicted:.3f} by {fit.draws}, but "
        f"{fit.measured:.3f} was measured (95 % interval of the difference: ± {number(fit.half_width)}). So "
        "do not rely on what is said of other numbers of draws than were compared: from one measured point "
        f"to another the --draws whose {parts_word(largest, draws)} correlate to {AGREED} go from {low} to "
        f"{high}."
    ]


def influence_dict(result: InfluenceResult, count: int, command: Sequence[str]) -> dict[str, Any]:
    """The same for JSON; all scores are in their own file.

    Args:
        command: see :func:`~.advice.verdict`.
    """
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
        }
        for r in ranking.reliability
    ]
    fit = check_fit(ranking.reliability)
    return {
        "model": result.model,
        "student": None if result.student is None else str(result.student),
        "ranked": len(result.training),
        "samples": result.samples,
        "about": dict(ranking.about),
        "scores": str(result.scores),
        "scores_digest": scores_digest(ranking.scores),
        "reliability": known,
        "fit": None if fit is None else {**asdict(fit), "misses": fit.misses},
        "queries": queries,
        "votes": _voted(result, count),
        "agreement": None if (found := agreement(result)) is None else asdict(found) | {"wanted": AGREED},
        "conclusions": [*conclusions(result), verdict(result, command)],
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
        for n in votes.first(count)
    ]
    known = result.ranking.reliability
    return {"each": votes.each, "between": known[-1].voted if known else None, "top": top}
