"""What `evaluate.py influence` says and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from carv_distill.accounting.tables import number
from carv_distill.attribution.ranking import TOP
from carv_distill.data import to_uint8
from carv_distill.figures import BLUE, GREY, new_figure, save_figure

from .influence import InfluenceFound

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


def _limit(about: Mapping[str, Any]) -> str:
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
        f"agrees with {_limit(about)} to about {whole.with_mean:.3f}."
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


def draw_influence(found: InfluenceFound, count: int, folder: Path) -> list[Path]:
    """Writes `<score>.png`, each query beside its most influential training samples, and, if there are groups
    enough, `<score>_draws.png`, agreement of rankings over draws; returns their paths."""
    score = found.influence.about["score"]
    paths = [folder / f"{score}.png"]
    _draw_top(found, min(count, len(found.training)), paths[0])
    if found.influence.reliability:
        paths.append(folder / f"{score}_draws.png")
        _draw_reliability(found, paths[1])
    return paths


def _draw_top(found: InfluenceFound, count: int, path: Path) -> None:
    rows = len(found.queries)
    figure = new_figure(0.4 + 8 / (count + 1.2) * 1.18 * rows)
    grid = figure.subplots(rows, count + 1, squeeze=False, gridspec_kw={"width_ratios": [1.2, *[1] * count]})
    top = found.influence.top(count)
    for q in range(rows):
        _show(grid[q, 0], found.queries.images[q], found.queries.words[q], bold=True)
        for place, n in enumerate(top[q].tolist()):
            score = found.influence.scores[q, n].item()
            _show(grid[q, place + 1], found.training.images[n], f"{found.training.words[n]}  {number(score)}")
    grid[0, 0].set_title("query", fontsize=9)
    for place in range(count):
        grid[0, place + 1].set_title(f"{place + 1}.", fontsize=9)
    save_figure(figure, path)


def _show(axes: Axes, image: Any, caption: str, bold: bool = False) -> None:
    pixels = to_uint8(image).permute(1, 2, 0).squeeze(-1).numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption.replace(", ", ",\n"), fontsize=7, weight="bold" if bold else None, labelpad=2)


def _draw_reliability(found: InfluenceFound, path: Path) -> None:
    known = found.influence.reliability
    draws = found.influence.about["draws"]
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    last = known[-1]
    needed = last.needed(WANTED)
    end = max(4 * draws, min(2 * needed, 64 * draws) if math.isfinite(needed) else 0)
    places = [known[0].draws * (end / known[0].draws) ** (i / 60) for i in range(61)]
    curve = [last.predicted(p) for p in places]
    limit = f"with {_limit(found.influence.about)}"
    axes.plot(places, [r.with_mean for r in curve], color=BLUE, label=limit)
    axes.plot(places, [r.between for r in curve], color=GREY, ls="--", label="of two rankings, predicted")
    axes.plot([r.draws for r in known], [r.between for r in known], "o", color=GREY, label="measured")
    axes.axvline(draws, color="0.4", ls=":", label=f"this one, {draws} draws")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="draws of each sample", ylabel="rank correlation", ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
