"""Pictures of the attribution study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from carv_distill.data.sets import to_uint8
from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, draw_band, new_figure
from studies.attribution_budget.arms import MODELS
from studies.attribution_budget.draws_table import PAPER_ECM
from studies.attribution_budget.retraining import data
from studies.plots import draw_curve, draw_curves, plain_numbers
from studies.study import Row

COLOURS = {
    "iid": GREY,
    "fixed grid": "black",
    "systematic": "#7a5195",
    "IW": ORANGE,
    "Strat": BLUE,
    "IW+Strat": GREEN,
    "best": RED,
}
TITLES = {"digits": "digits, 8×8 pixels", "latents": "latents, 4×16×16"}


def draw_ecm(rows: Sequence[Row]) -> Figure:
    """What each sampler's draws are worth in iid draws, over K: one to a panel, the others behind it in grey;
    bands: 95 %."""
    table = pd.DataFrame(rows)
    arms = [arm for arm in COLOURS if arm in set(table.arm) and arm != "iid"]
    figure = new_figure(4.6, 10)
    grid = figure.subplots(len(MODELS), len(arms), sharex=True, sharey=True)
    for (row, model), (column, arm) in product(enumerate(MODELS), enumerate(arms)):
        ax, mine = grid[row, column], table[table.model == model]
        for other in arms:
            behind = mine[mine.arm == other]
            ax.plot(behind.K, behind.ecm, color="0.8", lw=1)
        draw_curves(ax, mine[mine.arm == arm], "arm", COLOURS, "K", "ecm")
        if arm == "Strat":
            ax.plot([*PAPER_ECM], [*PAPER_ECM.values()], "*", color=BLUE, ms=9, ls="", mfc="none")
        ax.axhline(1, color=GREY, lw=1, ls=":")
        ax.set_yscale("log")
        ax.set_xscale("log", base=2)
        plain_numbers(ax.xaxis, [1, 4, 16, 64])
        plain_numbers(ax.yaxis, [0.25, 0.5, 1, 2, 4, 8, 16])
        ax.grid(alpha=0.25)
        if row == 0:
            ax.set_title(f"{arm} (★ paper, video)" if arm == "Strat" else arm, fontsize=10)
        if column == 0:
            ax.set_ylabel(f"{TITLES[model]}\niid draws that one is worth", fontsize=9)
    figure.supxlabel("K, draws of each sample", fontsize=10)
    return figure


def draw_ranking(rows: Sequence[Row]) -> Figure:
    """Rank correlation with the high-budget ranking over K; bands: 95 % over queries and sets of draws."""
    figure, axes = _over_draws(rows, "correlation", 3.8)
    # intervals of few sets of draws reach beyond what there is
    axes[0].set_ylim(max(axes[0].get_ylim()[0], -1.01), 1.01)
    axes[0].set_ylabel("rank correlation with the reference")
    axes[1].legend(fontsize=8, framealpha=0.9)
    return figure


def _over_draws(rows: Sequence[Row], name: str, height: float) -> tuple[Figure, list[Axes]]:
    figure, table = new_figure(height), pd.DataFrame(rows)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, model in zip(axes, MODELS, strict=True):
        draw_curves(ax, table[table.model == model], "arm", COLOURS, "K", name)
        ax.set(title=TITLES[model], xlabel="K, draws of each sample")
        ax.set_xscale("log", base=2)
        plain_numbers(ax.xaxis, sorted(table["K"].unique()))
        ax.grid(alpha=0.25)
    return figure, list(axes)


def draw_levels(rows: Sequence[Row]) -> Figure:
    """Norm of a draw's gradient over noise levels, and the part of it that the noise makes."""
    figure = new_figure(3.4)
    axes = figure.subplots(1, 2)
    for ax, (model, mine) in zip(axes, pd.DataFrame(rows).groupby("model"), strict=True):
        half = 1.96 * mine.norm_se
        ax.plot(mine.u, mine.norm, color=BLUE, marker=".", label="norm, √E‖g‖²")
        draw_band(ax, mine.u, mine.norm - half, mine.norm + half, BLUE)
        ax.plot(mine.u, mine.noise_deviation, color=ORANGE, marker=".", label="of the noise, √tr Cov")
        ax.set(title=TITLES[str(model)], xlabel="u, from small to large noise", yscale="log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(ScalarFormatter())
        ax.tick_params(axis="y", which="both", labelsize=8)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("gradient of a single draw")
    axes[1].legend(fontsize=8, framealpha=0.9)
    return figure


def draw_dimension(rows: Sequence[Row]) -> Figure:
    """Effective compute of strata and of antithetic pairs over the pixels of a picture."""
    figure, table = new_figure(3.8), pd.DataFrame(rows)
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("one level in each of K strata", "antithetic pairs in K/2 strata")
    for ax, name, title in zip(axes, ("Strat", "pairs"), titles, strict=True):
        for k, colour in ((4, BLUE), (16, GREEN), (64, RED)):
            draw_curve(ax, table, "dimension", f"{name}_{k}", colour, f"K = {k}")
            if name == "Strat" and k in PAPER_ECM:
                ax.axhline(PAPER_ECM[k], color=colour, lw=1, ls=":", label=f"paper, K = {k}")
        ax.set(title=title, xlabel="pixels of a mosaic of digits", yscale="log")
        ax.grid(alpha=0.25)
        ax.set_xscale("log", base=4)
        plain_numbers(ax.xaxis, table.dimension)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        plain_numbers(ax.yaxis, [1, 2, 4, 8, 16, 32, 64, 128])
        ax.legend(fontsize=8, framealpha=0.9)
    axes[0].set_ylabel("effective compute against iid draws")
    return figure


def draw_top(top: Sequence[Sequence[int]], removal: Sequence[Row], count: int = 10) -> Figure:
    """Queries beside their most influential digits, with what leaving these out does to the query's loss."""
    digits, pool, queries = data()
    gains = {r["query"]: r["percent"] for r in removal if r["against"] == "class" and r["query"] is not None}
    figure = new_figure(0.35 + 8 / (count + 2.2) * 1.05 * len(gains))
    grid = figure.subplots(
        len(gains), count + 2, squeeze=False, gridspec_kw={"width_ratios": [1.2, *[1] * count, 1.1]}
    )
    for q, percent in gains.items():
        for place, n in enumerate([int(queries[q]), *(int(pool[i]) for i in top[q][:count])]):
            _show(grid[q, place], digits.images[n], str(int(digits.labels[n])))
        last = grid[q, -1]
        last.axis("off")
        last.text(0, 0.5, f"{percent:+.1f} %", transform=last.transAxes, va="center", fontsize=9)
    words = "query, its most influential training digits, and what leaving"
    figure.suptitle(f"{words} {len(top[0])} of these out does to its loss", fontsize=9, x=0.01, ha="left")
    return figure


def _show(axes: Axes, image: Any, caption: str) -> None:
    axes.imshow(to_uint8(image)[0].numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption, fontsize=7, labelpad=1)
