"""Pictures of the attribution study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from carv_distill.data.images import load_images
from carv_distill.data.spec import to_uint8
from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, draw_band, draw_line, new_figure, use_powers
from studies.attribution_budget.models import MODELS
from studies.attribution_budget.retraining import data
from studies.attribution_budget.tables import PAPER_ECM

Row = Mapping[str, Any]
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
    """What each sampler's draws are worth in iid draws, over K; bands: 95 %."""
    figure = new_figure(4.2)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, model in zip(axes, MODELS, strict=True):
        for arm, colour in COLOURS.items():
            mine = [r for r in rows if (r["model"], r["arm"]) == (model, arm) and "ecm" in r]
            if mine:
                draw_line(ax, mine, "K", "ecm", colour, arm, "--" if arm == "fixed grid" else "-")
        ax.plot(
            list(PAPER_ECM), list(PAPER_ECM.values()), "*", color=BLUE, ms=9, ls="", mfc="none",
            label="Strat, paper (video)",
        )  # fmt: skip
        ax.axhline(1, color=GREY, lw=1, ls=":")
        ax.set(title=TITLES[model], xlabel="K, draws of each sample", yscale="log")
        use_powers(ax, sorted({r["K"] for r in rows}))
        ax.grid(alpha=0.25)
        ax.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 4, 8, 16]))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("effective compute against iid draws")
    axes[1].legend(fontsize=7, framealpha=0.9, ncols=2)
    return figure


def draw_ranking(rows: Sequence[Row]) -> Figure:
    """Rank correlation with the high-budget ranking over K; bands: 95 % over queries and sets of draws."""
    figure = new_figure(3.8)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, model in zip(axes, MODELS, strict=True):
        for arm, colour in COLOURS.items():
            mine = [r for r in rows if (r["model"], r["arm"]) == (model, arm)]
            if mine:
                draw_line(ax, mine, "K", "correlation", colour, arm)
        ax.set(title=TITLES[model], xlabel="K, draws of each sample")
        use_powers(ax, sorted({r["K"] for r in rows}))
        ax.grid(alpha=0.25)
    # intervals of few sets of draws reach beyond what there is
    axes[0].set_ylim(max(axes[0].get_ylim()[0], -1.01), 1.01)
    axes[0].set_ylabel("rank correlation with the reference")
    axes[1].legend(fontsize=8, framealpha=0.9)
    return figure


def draw_levels(rows: Sequence[Row]) -> Figure:
    """Norm of a draw's gradient over noise levels, and the part of it that the noise makes."""
    figure = new_figure(3.4)
    axes = figure.subplots(1, 2)
    for ax, model in zip(axes, MODELS, strict=True):
        mine = [r for r in rows if r["model"] == model]
        x = [r["u"] for r in mine]
        ax.plot(x, [r["norm"] for r in mine], color=BLUE, marker=".", label="norm, √E‖g‖²")
        low, high = ([r["norm"] + s * 1.96 * r["norm_se"] for r in mine] for s in (-1, 1))
        draw_band(ax, x, low, high, BLUE)
        ax.plot(
            x, [r["noise_deviation"] for r in mine], color=ORANGE, marker=".", label="of the noise, √tr Cov"
        )
        ax.set(title=TITLES[model], xlabel="u, from small to large noise", yscale="log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(ScalarFormatter())
        ax.tick_params(axis="y", which="both", labelsize=8)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("gradient of a single draw")
    axes[1].legend(fontsize=8, framealpha=0.9)
    return figure


def draw_dimension(rows: Sequence[Row]) -> Figure:
    """Effective compute of strata and of antithetic pairs over the pixels of a picture."""
    figure = new_figure(3.8)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, title in zip(
        axes,
        ("Strat", "pairs"),
        ("one level in each of K strata", "antithetic pairs in K/2 strata"),
        strict=True,
    ):
        for k, colour in ((4, BLUE), (16, GREEN), (64, RED)):
            draw_line(ax, rows, "dimension", f"{name}_{k}", colour, f"K = {k}")
            if name == "Strat" and k in PAPER_ECM:
                ax.axhline(PAPER_ECM[k], color=colour, lw=1, ls=":", label=f"paper, K = {k}")
        ax.set(title=title, xlabel="pixels of a mosaic of digits", yscale="log")
        ax.grid(alpha=0.25)
        ax.set_xscale("log", base=4)
        ax.xaxis.set_major_locator(FixedLocator([r["dimension"] for r in rows]))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.yaxis.set_major_locator(FixedLocator([1, 2, 4, 8, 16, 32, 64, 128]))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_locator(NullLocator())
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
    images = load_images("digits").images
    for q, percent in gains.items():
        for place, n in enumerate([int(queries[q]), *(int(pool[i]) for i in top[q][:count])]):
            _show(grid[q, place], images[n], str(int(digits.labels[n])))
        grid[q, -1].axis("off")
        grid[q, -1].text(
            0, 0.5, f"{percent:+.1f} %", transform=grid[q, -1].transAxes, va="center", fontsize=9
        )
    words = "query, its most influential training digits, and what leaving"
    figure.suptitle(f"{words} {len(top[0])} of these out does to its loss", fontsize=9, x=0.01, ha="left")
    return figure


def _show(axes: Axes, image: Any, caption: str) -> None:
    axes.imshow(to_uint8(image)[0].numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption, fontsize=7, labelpad=1)
