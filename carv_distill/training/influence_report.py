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

from carv_distill.data import to_uint8
from carv_distill.figures import BLUE, GREY, new_figure, save_figure

from .influence import InfluenceFound

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
        title=f"Most influential training samples, {about['score']}",
        title_justify="left",
        caption_justify="left",
    )
    for q in range(len(found.queries)):
        cells = []
        for n in top[q].tolist():
            half = influence.half_width[q, n].item()
            error = "" if math.isnan(half) else f" ± {half:.2g}"
            cells.append(f"#{n} ({found.training.words[n]})\n{influence.scores[q, n].item():.3g}{error}")
        number = "" if found.queries.numbers is None else f"#{int(found.queries.numbers[q])} "
        table.add_row(f"{number}({found.queries.words[q]})", *cells)
    table.caption = "± half the 95 % interval over the draws, by the jackknife over their groups" + (
        "." if about["debias"] else "; it does not know the bias of shared draws."
    )
    return [table, *conclusions(found)]


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
        f"{last.between:.3f} (Spearman's correlation, mean over queries); this one, of {about['draws']}, "
        f"agrees with {_limit(about)} to about {whole.with_mean:.3f}."
    ]
    needed = last.needed(WANTED)
    if math.isfinite(needed):
        said.append(f"For {WANTED:g} it takes about {math.ceil(needed)} draws.")
    else:
        said.append("They do not agree at all: many more draws are needed.")
    return said


def influence_dict(found: InfluenceFound, count: int) -> dict[str, Any]:
    """The same for JSON; all scores are in their own file."""
    influence, count = found.influence, min(count, len(found.training))
    top = influence.top(count)
    queries = [
        {
            "query": found.queries.words[q],
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
        {"draws": r.draws, "between": r.between, "with_mean": r.with_mean} for r in influence.reliability
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
    """Writes `influence.png`, each query beside its most influential training samples, and, if the draws are
    in groups, `draws.png`, agreement of rankings over draws; returns their paths."""
    paths = [folder / "influence.png"]
    _draw_top(found, min(count, len(found.training)), paths[0])
    if found.influence.reliability:
        paths.append(folder / "draws.png")
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
            _show(grid[q, place + 1], found.training.images[n], f"{found.training.words[n]}  {score:.2g}")
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
