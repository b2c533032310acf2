"""Pictures of the text-to-3D study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from carv_distill.commands.variance_figures import COLOURS
from carv_distill.figures import BLUE, GREEN, GREY, ORANGE, RED, draw_band, draw_line, new_figure, use_powers
from studies.sds_frontier.quality import ARMS, Point, bands, on_grid

Row = Mapping[str, Any]

LABELS = {"uniform": "reuse (uniform)", "IW": "IW", "Strat": "Strat", "IW+Strat": "IW+Strat", "best": "best"}
CAMERA_COLOURS = {"stratified": GREEN, "antipodal": ORANGE, "sobol": BLUE}


def draw_frontier(rows: Sequence[Row], kappa: float) -> Figure:
    """Effective compute over K: at measured costs, and where renders cost as much as 20 draws."""
    figure = new_figure(4.2)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name, title in zip(
        axes,
        ("own", "kappa_20"),
        (f"measured costs, κ = {kappa:.2g}", "declared costs, κ = 20"),
        strict=True,
    ):
        for (arm, label), colour in zip(LABELS.items(), COLOURS, strict=True):
            mine = [r for r in rows if (r["arm"], r["cameras"]) == (arm, "iid")]
            draw_line(ax, mine, "K", f"ecm_{name}", colour, label)
        most = max(r["R"] for r in rows)
        sobol = sorted((r for r in rows if (r["cameras"], r["R"]) == ("sobol", most)), key=lambda r: r["K"])
        draw_line(ax, sobol, "K", f"ecm_{name}", RED, f"best, {most} Sobol cameras", ":")
        ax.axhline(1, color="black", lw=0.8, ls=":")
        ax.set(title=title, xlabel="K, re-noisings of each render")
        use_powers(ax, sorted({r["K"] for r in rows}))
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("effective compute against uniform (2, 1)")
    axes[0].legend(fontsize=8, framealpha=0.9)
    return figure


def draw_cameras(rows: Sequence[Row]) -> Figure:
    """The variance between renders that samplings of cameras leave, over R."""
    figure = new_figure(3.8)
    axes = figure.subplots()
    for cameras, colour in CAMERA_COLOURS.items():
        mine = [r for r in rows if (r["cameras"], r["K"]) == (cameras, 4)]
        draw_line(axes, mine, "R", "between", colour, cameras)
    axes.axhline(1, color=GREY, lw=1, ls="--", label="iid")
    use_powers(axes, sorted({r["R"] for r in rows}))
    axes.set(
        xlabel="R, renders of a step", ylabel="variance between renders, iid cameras = 1", ylim=(0, None)
    )
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def draw_quality(points: Sequence[Point]) -> Figure:
    """Mean CLIP score over prompts and seeds against seconds of training."""
    figure = new_figure(4.4)
    axes = figure.subplots()
    seconds, found = on_grid(points)
    for arm, colour in zip(ARMS, (GREY, BLUE, RED, ORANGE, GREEN), strict=True):
        mean, half = bands(found[arm.name])
        axes.plot(seconds, mean, color=colour, label=arm.name)
        draw_band(axes, seconds.tolist(), (mean - half).tolist(), (mean + half).tolist(), colour)
    final = float(found[ARMS[0].name].mean((0, 1))[-1])
    axes.axhline(final, color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="seconds of training, one thread", ylabel="CLIP score over 12 views", xlim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(title="(R, K) and estimator; bands: 95 % over seeds")
    return figure
