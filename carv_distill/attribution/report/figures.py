"""What `evaluate.py influence` draws."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from torch import Tensor

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.attribution.ranking.reliability import check_fit
from carv_distill.data.sets import to_uint8
from carv_distill.figures import BLUE, GREY, RED, new_figure, save_figure
from carv_distill.variance.table import with_half_width

from .advice import AGREED, draws_for, measured_words, parts_word
from .report import cut_words, limit_of, ranked_words

COLUMN = 0.85
"""Least inches of a training sample with its caption; with more of them the picture grows wider."""
SHOWN, STRIP = 3, 2.1
"""Frames of a clip, from its first to its last; and least inches of them all."""
GAP = 0.07
"""Inches between two captions."""
PLAIN, BOLD = FontProperties(size=7), FontProperties(size=7, weight="bold")
LARGEST = 160
"""Inches of a picture's width or height, a hundred pixels each; matplotlib ends at 65,536 pixels."""
LINES = 4
"""Of a prompt, at most."""


def draw_influence(result: InfluenceResult, count: int, folder: Path) -> list[Path]:
    """Writes `<score>.png`, each query beside its most influential training samples; of clips `<score>.mp4`
    too, the same in motion; and, if there are groups enough, `<score>_draws.png`, agreement of rankings over
    draws. Returns their paths."""
    score, count = result.ranking.about["score"], min(count, len(result.training))
    paths = [folder / f"{score}.png"]
    save_figure(top_figure(result, count), paths[0])
    if result.queries.pictures.ndim == 5:
        from .film import save_film  # PyAV, which images do without

        paths.append(folder / f"{score}.mp4")
        save_film(result, count, paths[1])
    if result.ranking.reliability:
        paths.append(folder / f"{score}_draws.png")
        _draw_reliability(result, paths[-1])
    return paths


def top_figure(result: InfluenceResult, count: int) -> Figure:
    """A row for each query: itself, then its most influential training samples with their scores and, where
    they are known, half the 95 % intervals of these over the draws; of both as many as :data:`LARGEST` inches
    hold."""
    queries, training, scores = result.queries, result.training, result.ranking.scores
    half_width = result.ranking.half_width
    clips = queries.pictures.ndim == 5
    least = STRIP if clips else COLUMN
    asked, count = count, min(count, int(LARGEST / least - 1.2))
    column = max(8 / (count + 1.2), least)
    rows: list[list[tuple[Tensor, str]]] = []
    for q, top in enumerate(result.ranking.top(count).tolist()):
        row = [(queries.pictures[q], _caption(queries.title(q), BOLD, 1.2 * column - GAP))]
        pictures = training.pictures(torch.tensor(top))
        for n, picture in zip(top, pictures, strict=True):
            score, half = with_half_width(scores[q, n].item(), half_width[q, n].item())
            error = f"± {half}" if half else ""
            row.append((picture, _caption(training.words[n], PLAIN, column - GAP, score, error)))
        rows.append(row)
    lines = max(caption.count("\n") + 1 for row in rows for _, caption in row)
    tall = rows[0][0][0]
    shape = tall.shape[-2] / (tall.shape[-1] * (SHOWN if clips else 1))
    height = 1.18 * column * shape + 0.13 * max(0, lines - 2) + (0.3 if clips else 0)
    rows = rows[: max(1, int(LARGEST / height) - 1)]
    cut = cut_words((len(rows), len(queries)), (count, asked))
    figure = new_figure((0.85 if clips else 0.55) + height * len(rows), column * (count + 1.2))
    grid = figure.subplots(
        len(rows), count + 1, squeeze=False, gridspec_kw={"width_ratios": [1.2, *[1] * count]}
    )
    for q, row in enumerate(rows):
        for place, (image, caption) in enumerate(row):
            _show(grid[q, place], image, caption, PLAIN if place else BOLD)
    for place in range(count + 1):
        grid[0, place].set_title(f"{place}." if place else "query", fontsize=9)
    below = "under a query its name; under a training sample its label or words, and its score"
    if clips:
        below = f"{SHOWN} frames of each, from first to last; {below}"
    if not half_width.isnan().any():
        below += " ± half the 95 % interval over the draws"
    measured = measured_words(result)
    trust = f": {measured}" if measured else ""
    fits = f"\n{cut}: a picture holds no more" if cut else ""
    figure.supxlabel(f"{below}\n{ranked_words(result)} ranked{trust}{fits}", fontsize=8)
    return figure


def _caption(words: str, font: FontProperties, inches: float, score: str = "", error: str = "") -> str:
    """As many lines as it takes, each within so many inches: a label or prompt, the score, its error."""
    letters = max(4, int(30 * inches))
    while True:
        lines = [*_lines(words, score, letters), *([error] if error else [])]
        widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] / 72 for line in lines]
        if letters == 4 or max(widths, default=0) <= inches:
            return "\n".join(lines)
        letters -= 1


def _lines(words: str, score: str, letters: int) -> list[str]:
    """The same in lines of so many letters, broken after commas too; of a long prompt the beginning."""
    lines = [line for part in words.replace(", ", ",\n").splitlines() for line in wrap(part, letters)]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"{wrap(lines[LINES - 1], letters - 1)[0]}…"]
    if score and lines and len(lines[-1]) + 2 + len(score) <= letters:
        return [*lines[:-1], f"{lines[-1]}  {score}"]
    return [*lines, score] if score else lines


def _show(axes: Axes, image: Tensor, caption: str, font: FontProperties) -> None:
    pixels = to_uint8(_strip(image)).permute(1, 2, 0).squeeze(-1).numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("S")  # so that captions are in a line, and the layout knows where
    axes.set_xlabel(caption, font=font, labelpad=2, parse_math=False)


def _strip(picture: Tensor) -> Tensor:
    """An image as it is; of a clip [F, 3, H, W] some frames side by side."""
    if picture.ndim == 3:
        return picture
    frames = picture[torch.linspace(0, len(picture) - 1, SHOWN).round().long()]
    gap = frames.new_ones(3, frames.shape[2], max(1, frames.shape[3] // 32))
    parts = [part for frame in frames for part in (frame, gap)]
    return torch.cat(parts[:-1], 2)


def _draw_reliability(result: InfluenceResult, path: Path) -> None:
    known = result.ranking.reliability
    draws = result.ranking.about["draws"]
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    last = known[-1]
    if last.between > 0:  # else nothing follows for other numbers of draws
        needed = draws_for(last, draws, result.ranking.about["groups"], last.draws / draws) or draws
        end = max(4 * draws, min(2 * needed, 64 * draws))
        places = [known[0].draws * (end / known[0].draws) ** (i / 60) for i in range(61)]
        curve = [last.predicted(p) for p in places]
        limit = f"with {limit_of(result.ranking.about)}"
        axes.plot(places, [r.with_mean for r in curve], color=BLUE, label=limit)
        axes.plot(places, [r.between for r in curve], color=GREY, ls="--", label="of two rankings, predicted")
        axes.axhline(
            AGREED, color="0.7", lw=0.8, label=f"wanted of {parts_word(last.draws, draws)}, {AGREED}"
        )
    axes.errorbar(
        [r.draws for r in known],
        [r.between for r in known],
        [r.half_width() for r in known],
        fmt="o",
        color=GREY,
        capsize=3,
        label="measured, 95 % intervals where known",
    )
    axes.axvline(draws, color="0.4", ls=":", label=f"this one, {draws} draws")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="draws of each sample", ylabel="rank correlation")
    low, high = axes.get_ylim()  # as the data and their intervals have them
    axes.set_ylim(max(low, -1.02), min(high, 1.02))
    axes.grid(alpha=0.25)
    fit = check_fit(known)
    if fit and fit.misses:
        axes.set_title(
            "The curves miss what was measured: they do not tell the draws needed", fontsize=9, color=RED
        )
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
