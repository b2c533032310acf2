"""The three pictures of a comparison, as the paper has them."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carv_distill.carv import Proposal
from carv_distill.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    draw_band,
    marked,
    new_figure,
    save_figure,
    use_logarithm,
)
from carv_distill.variance import Comparison, NoiseLevelProfile, largest_ecm

COLOURS = (GREY, ORANGE, BLUE, GREEN, RED, PURPLE)


def draw_analysis(
    c: Comparison, profile: NoiseLevelProfile, proposals: dict[str, Proposal], folder: Path
) -> list[Path]:
    """Writes `variance_vs_compute.png`, `ecm.png` and `noise_levels.png`; returns their paths."""
    figures = {
        "variance_vs_compute.png": variance_vs_compute(c),
        "ecm.png": ecm_frontier(c),
        "noise_levels.png": noise_levels(profile, proposals),
    }
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / name for name in figures]


def variance_vs_compute(c: Comparison) -> Figure:
    """Total variance over seconds of one gradient, a point for each (R, K); 95 % band of the first arm."""
    figure, axes = _axes()
    for arm, colour in zip(c.arms(), COLOURS[: len(c.arms())], strict=True):
        rows = [r for r in c.rows if r.arm == arm]
        x = [1e3 * (c.cost(r.upstream, r.draws) - c.cost.other) for r in rows]
        axes.plot(x, [r.total.value for r in rows], color=colour, label=arm, **marked(colour))
        if arm == c.arms()[0]:
            # one band for all: nearly all of it is the uncertainty of the part that they share
            draw_band(axes, x, [r.total.low for r in rows], [r.total.high for r in rows], colour)
            for place, r in zip(x, rows, strict=True):
                axes.annotate(
                    f"({r.upstream},{r.draws})", (place, r.total.value), (0, 6), textcoords="offset points",
                    ha="center", fontsize=8,
                )  # fmt: skip
    axes.axhline(
        c.base.between.value,
        color="0.4",
        ls=":",
        label="between upstream samples: the floor",
    )
    axes.set(xlabel="milliseconds per gradient", ylabel="variance of the gradient (trace)")
    return _finish(figure, axes)


def ecm_frontier(c: Comparison) -> Figure:
    """ECM of the gradient over K of every sampler; bands are 95 % intervals, the dotted line bounds iid draws
    at any K."""
    figure, axes = _axes()
    for arm, colour in zip(c.arms(), COLOURS[: len(c.arms())], strict=True):
        rows = [r for r in c.rows if r.arm == arm]
        found = [c.ecm(r) for r in rows]
        k = [r.draws for r in rows]
        axes.plot(k, [e.value for e in found], color=colour, label=arm, **marked(colour))
        draw_band(axes, k, [e.low for e in found], [e.high for e in found], colour)
    base = c.base
    there = c.cost.at(base.upstream)
    bound = largest_ecm(base.between.value, base.draws * base.within.value, there, base.draws)
    axes.axhline(bound, color="0.4", ls=":", label="bound of iid draws, any K")
    axes.set(
        xlabel="K, draws per upstream sample",
        ylabel=f"ECM of the gradient against ({c.base.upstream}, {c.base.draws}) {c.base.arm}",
    )
    figure = _finish(figure, axes)
    axes.set_xticks(sorted({r.draws for r in c.rows}))
    return figure


def noise_levels(profile: NoiseLevelProfile, proposals: dict[str, Proposal]) -> Figure:
    """√E‖g‖² and √tr Cov_ε(g) over the noise level (left axis) beside the proposals q (right axis)."""
    figure = new_figure(4.2)
    left = figure.add_subplot()
    bins = len(profile.second_moment)
    places = [(i + 0.5) / bins for i in range(bins)]
    for values, errors, colour, label in (
        (profile.second_moment, profile.second_moment_se, COLOURS[0], "gradient norm, root mean square"),
        (profile.noise_variance, profile.noise_variance_se, COLOURS[1], "its standard deviation over noises"),
    ):
        root = values.clamp(min=0).sqrt()
        band = errors / (2 * root.clamp(min=1e-12))
        left.plot(places, root, color=colour, label=label, **marked(colour))
        draw_band(left, places, (root - 1.96 * band).tolist(), (root + 1.96 * band).tolist(), colour)
    left.set(xlabel="u, place on the noise schedule", ylabel="norm of one draw's gradient", ylim=(0, None))
    right = left.twinx()
    for (name, q), style in zip(proposals.items(), ("-", "--", ":"), strict=False):
        edges = [i / q.bins for i in range(q.bins + 1)]
        right.stairs(q.mass * q.bins, edges, color="0.35", ls=style, label=f"q: {name}")
    right.set(ylabel="density q(u)", ylim=(0, None))
    left.grid(alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    more_handles, more_labels = right.get_legend_handles_labels()
    figure.legend(
        handles + more_handles, labels + more_labels, loc="outside upper center", ncols=2, frameon=False
    )
    return figure


def _axes() -> tuple[Figure, Axes]:
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    use_logarithm(axes, "x", "y")
    return figure, axes


def _finish(figure: Figure, axes: Axes) -> Figure:
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure
