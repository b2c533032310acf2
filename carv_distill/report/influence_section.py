"""What a page says of a ranking of training samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from carv_distill.variance.table import with_half_width

from . import blocks
from .files import ResultFiles
from .intervals import shown
from .page import Section

RANKED = 5
"""Training samples of each query in the table, at most."""


def influence(of: ResultFiles) -> Section | None:
    """The ranked training samples: pictures, film, scores, votes, and how far the ranking is known."""
    a = of.measured.get("influence")
    if not a:
        return None
    score = str(a.get("score") or a.get("about", {}).get("score") or "cosine")
    said = [line.partition("\n") for line in a.get("conclusions", [])]
    parts: list[Markup] = []
    for line, _, command in said[-1:]:
        parts += [blocks.text(line), *([blocks.commands([command])] if command else [])]
    parts.append(blocks.facts(_facts(a, score)))
    png = of.bytes_of("influence", f"{score}.png")
    if png is not None:
        words = "Each query beside its most influential training samples, with scores"
        parts.append(blocks.image(png, words, words=True))
    film = of.bytes_of("influence", f"{score}.mp4")
    if film is not None:
        parts.append(blocks.video(film, "The same in motion"))
    if png is None and film is None:
        parts.append(blocks.missing("The pictures of evaluate.py influence are not there any more."))
    queries = a.get("queries", [])
    rows = [
        [_query(query, number), f"{rank}.", _sample(each), _half_width(each)]
        for number, query in enumerate(queries, 1)
        for rank, each in enumerate(query["top"][:RANKED], 1)
    ]
    if rows:
        head = ["query", "rank", "training sample", "score"]
        caption = f"Scores ({score}), ± half of the 95 % interval over the draws"
        note = "In brackets: the label or the prompt. Where intervals overlap the order is not known."
        parts.append(blocks.table(head, rows, caption, [note]))
    if votes := a.get("votes"):
        known = a.get("reliability") or [{}]
        parts.append(_votes(votes, len(queries), known[-1].get("draws")))
    draws = of.bytes_of("influence", f"{score}_draws.png")
    if draws is not None:
        parts.append(blocks.image(draws, "Agreement of rankings over the draws of each sample", words=True))
    parts += [blocks.text(line) for line, _, _ in said[:-1]]
    return Section("Influence", parts)


def _facts(a: Mapping[str, Any], score: str) -> dict[str, object]:
    """Whose ranking it is, as far as the result says so."""
    of, about = a.get("options") or {}, a.get("about") or {}
    ranked = a.get("ranked")
    known = {
        "model": a.get("model"),
        "training set": of.get("data"),
        "training samples ranked": None if ranked is None else f"{ranked:,} of {a['samples']:,}",
        "queries": of.get("queries"),
        "score": score,
        "draws of each sample": about.get("draws"),
    }
    return {name: fact for name, fact in known.items() if fact is not None}


def _query(query: Mapping[str, Any], place: int) -> str:
    """By its file, its number in the training set or its seed; without them by its place, with its label or
    prompt."""
    number = query.get("number")
    name = query.get("name") or (f"query {place}" if number is None else f"#{number}")
    return f"{name} ({query['query']})" if query["query"] else str(name)


def _sample(each: Mapping[str, Any]) -> str:
    return f"{each['name']} ({each['about']})" if each["about"] else str(each["name"])


def _votes(votes: Mapping[str, Any], queries: int, draws: float | None) -> Markup:
    """One ranking for all queries, and how two by so many draws each agree."""
    rows = [
        [f"{rank}.", _sample(each), f"{each['votes']} of {queries}", shown(each["mean"])]
        for rank, each in enumerate(votes["top"], 1)
    ]
    note = f"Each query votes for its first {votes['each']}; among equal votes the mean score decides."
    if draws is not None and votes.get("between") is not None:
        note += f" Two such rankings, by {draws:g} draws each, correlate to {votes['between']:.3f}."
    head = ["rank", "training sample", "votes", "mean score"]
    return blocks.table(head, rows, f"For all {queries} queries together, by votes", [note])


def _half_width(each: Mapping[str, Any]) -> str:
    half = each.get("half_width")
    score, error = with_half_width(each["score"], math.nan if half is None else half)
    return f"{score} ± {error}" if error else score
