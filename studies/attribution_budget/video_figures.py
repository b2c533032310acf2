"""Pictures of the part on video."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, new_figure
from studies.attribution_budget.video import DECIDING, NORMS, PAPER, PARAMETERS, TRAINED, WEIGHTS
from studies.attribution_budget.video_motion import TOP, chance
from studies.plots import draw_curve, plain_numbers
from studies.study import Row

ARMS = {
    "Strat": (BLUE, "o-"),
    "systematic": ("#7a5195", "d--"),
    "fixed grid": ("black", "x:"),
    "IW": (ORANGE, "v-"),
    "IW+Strat": (GREEN, "s-"),
    "Neyman": ("#9a6324", "^-"),
    "pairs": (RED, "P-"),
    "IW pairs": ("#e377c2", "*-"),
}
OWN_LAW = ("systematic", "fixed grid")
TITLES = {
    "plain": "plain loss",
    "motion": "weighed by motion",
    "raw": "raw gradients",
    "normalised": "each draw normalised",
}


def draw_gains(rows: Sequence[Row]) -> Figure:
    """What each sampler's draws are worth in iid draws over K, by weights and norms, of all parameters under
    the deciding law of the level; systematic levels and the fixed grid, known under the model's own law
    alone, under that; bands: 95 % over clips."""
    table = pd.DataFrame(rows)
    law = table.arm.map(lambda arm: TRAINED if arm in OWN_LAW else DECIDING)
    table = table[(table.law == law) & (table.parameters == PARAMETERS[0])]
    figure = new_figure(6.6)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for ax, (weights, norms) in zip(axes.flat, product(WEIGHTS, NORMS), strict=True):
        mine = table[(table.weights == weights) & (table.norms == norms)]
        for arm, (colour, style) in ARMS.items():
            own = mine[mine.arm == arm]
            name = f"{arm}, u uniform" if arm in OWN_LAW else arm
            draw_curve(ax, own, "K", "ecm", colour, name, style, 1.2)
        ax.plot(
            [*PAPER], [*PAPER.values()], "*", color=BLUE, ms=11, mfc="none", label="Strat, paper (Wan2.1)"
        )
        ax.axhline(1, color=GREY, lw=1, ls=":")
        ratio = mine[mine.arm == "Strat"].level_over_noise.iloc[0]
        ax.set_title(f"{TITLES[weights]}, {TITLES[norms]}: level/noise {ratio:.1f}", fontsize=8)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        plain_numbers(ax.xaxis, sorted(mine["K"].unique()))
        plain_numbers(ax.yaxis, [0.25, 0.5, 1, 2, 4, 8, 16])
        ax.grid(alpha=0.25)
    for ax in axes[-1]:
        ax.set_xlabel("K, draws of each clip")
    for ax in axes[:, 0]:
        ax.set_ylabel("effective compute against iid")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, ncols=5, loc="outside upper center")
    return figure


def draw_profile(rows: Sequence[Row]) -> Figure:
    """Second moment of a draw over the levels, and the part of it that the level decides."""
    table = pd.DataFrame(rows)
    table = table[table.parameters == PARAMETERS[0]]
    figure = new_figure(3.4)
    axes = figure.subplots(1, 4)
    for ax, (weights, norms) in zip(axes, product(WEIGHTS, NORMS), strict=True):
        mine = table[(table.weights == weights) & (table.norms == norms)]
        ax.plot(mine.u, mine.square, color=ORANGE, lw=1.2, label="E‖g‖² of a draw")
        ax.plot(mine.u, mine.of_mean, color=BLUE, lw=1.2, ls="--", label="‖E g‖² at the level")
        ax.set_title(f"{TITLES[weights]},\n{TITLES[norms]}", fontsize=8)
        ax.set_xlabel("u, small to large noise", fontsize=8)
        if norms == "raw":  # of which a few levels have most
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("of the mean of E‖g‖²")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=2, loc="outside upper center")
    return figure


def draw_rankings(correlation: Sequence[Row], motion: Sequence[Row]) -> Figure:
    """Rank correlation with the reference over K, and the share of the first clips with the query's motion;
    95 %, on the left over queries and sets of draws, on the right by blocks of clips."""
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    table = pd.DataFrame(correlation)
    for arm, (colour, style) in {"iid": (GREY, "o-"), **ARMS}.items():
        mine = table[table.arm == arm]
        if len(mine):
            draw_curve(left, mine, "K", "correlation", colour, arm, style)
    left.axhline(0.95, color=GREY, lw=1, ls=":")
    left.set_xscale("log", base=2)
    plain_numbers(left.xaxis, sorted(table["K"].unique()))
    left.set_ylim(top=1.01)
    left.set(xlabel="K, draws of each clip", ylabel="rank correlation with the reference")
    left.legend(fontsize=8, framealpha=0.9)
    shares = pd.DataFrame(motion)
    names = [*shares["queries"].unique()]
    for weights, colour, shift in (("plain", GREY, -0.12), ("motion", BLUE, 0.12)):
        mine = shares[shares.weights == weights]
        if mine.empty:
            continue
        places = [names.index(name) + shift for name in mine["queries"]]
        share = mine.by_blocks
        ends = [share - mine.by_blocks_low, mine.by_blocks_high - share]
        right.errorbar(places, share, ends, color=colour, fmt="o", capsize=3, label=TITLES[weights])
    right.axhline(chance(int(shares.clips.iloc[0])), color=GREY, lw=1, ls=":", label="chance")
    right.set_xticks(range(len(names)), [f"{name}\nqueries" for name in names])
    right.set_xlim(-0.5, len(names) - 0.5)
    right.set_ylim(bottom=0)
    right.set_ylabel(f"of the first {TOP}, with the query's motion")
    right.legend(fontsize=8, framealpha=0.9)
    for ax in (left, right):
        ax.grid(alpha=0.25)
    return figure
