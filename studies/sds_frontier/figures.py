"""Pictures of the text-to-3D study."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, draw_band, new_figure
from studies.plots import draw_curve, draw_curves, plain_numbers
from studies.sds_frontier.quality import ARMS, bands, on_grid

COLOURS = {"uniform": GREY, "IW": ORANGE, "Strat": BLUE, "IW+Strat": GREEN, "best": RED}
CAMERA_COLOURS = {"stratified": GREEN, "antipodal": ORANGE, "sobol": BLUE}


def draw_frontier(rows: pd.DataFrame, kappa: float) -> Figure:
    """Effective compute over K: at measured costs, and where renders cost as much as 20 draws."""
    figure = new_figure(4.2)
    axes = figure.subplots(1, 2, sharey=True)
    titles = (f"measured costs, κ = {kappa:.2g}", "declared costs, κ = 20")
    most = rows.R.max()
    sobol = rows[(rows.cameras == "sobol") & (rows["R"] == most)].sort_values("K")
    for ax, name, title in zip(axes, ("ecm_own", "ecm_kappa_20"), titles, strict=True):
        draw_curves(ax, rows[rows.cameras == "iid"], "arm", COLOURS, "K", name)
        draw_curve(ax, sobol, "K", name, RED, f"best, {most} Sobol cameras", ".:")
        ax.axhline(1, color="black", lw=0.8, ls=":")
        ax.set(title=title, xlabel="K, re-noisings of each render")
        ax.set_xscale("log", base=2)
        plain_numbers(ax.xaxis, sorted(rows.K.unique()))
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("effective compute against uniform (2, 1)")
    axes[0].legend(fontsize=8, framealpha=0.9)
    return figure


def draw_cameras(rows: pd.DataFrame) -> Figure:
    """The variance between renders that samplings of cameras leave, over R."""
    figure = new_figure(3.8)
    axes = figure.subplots()
    draw_curves(axes, rows[rows.K == 4], "cameras", CAMERA_COLOURS, "R", "between")
    axes.axhline(1, color=GREY, lw=1, ls="--", label="iid")
    axes.set_xscale("log", base=2)
    plain_numbers(axes.xaxis, sorted(rows.R.unique()))
    axes.set(
        xlabel="R, renders of a step", ylabel="variance between renders, iid cameras = 1", ylim=(0, None)
    )
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def draw_quality(points: pd.DataFrame) -> Figure:
    """Mean CLIP score over prompts and seeds against seconds of training."""
    figure = new_figure(4.4)
    axes = figure.subplots()
    seconds, by_arm = on_grid(points)
    for arm, colour in zip(ARMS, (GREY, BLUE, RED, ORANGE, GREEN), strict=True):
        mean, half = bands(by_arm[arm.name])
        axes.plot(seconds, mean, color=colour, label=arm.name)
        draw_band(axes, seconds.tolist(), (mean - half).tolist(), (mean + half).tolist(), colour)
    final = float(by_arm[ARMS[0].name].mean((0, 1))[-1])
    axes.axhline(final, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="seconds of training, one thread", ylabel="CLIP score over 12 views", xlim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(title="(R, K) and estimator; bands: 95 % over seeds")
    return figure
