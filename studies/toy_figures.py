"""Pictures of the toy study, from the rows it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor

from carv_distill.carv import Proposal
from carv_distill.figures import BLUE, GREY, ORANGE, draw_band, new_figure
from studies.results import Rows

_PROPOSALS = {
    "uniform": (GREY, "uniform"),
    "surrogate": (ORANGE, "Gaussian at the peak"),
    "oracle": (BLUE, "oracle, ∝ |f|"),
}
_STRATEGIES = {
    "iid": (GREY, "o", "-"),
    "stratified": (BLUE, "s", "-"),
    "systematic": (ORANGE, "^", "-"),
    "global": ("black", "x", "none"),
    "sobol": ("black", "+", "none"),
}


def draw_ecm(
    rows: Rows, f: Callable[[Tensor], Tensor], proposals: Mapping[str, Proposal], draws: int
) -> Figure:
    """The integrand with its proposals; what each is worth, iid and stratified, with 95 % intervals.

    Args:
        rows: of ecm.csv.
        f: the integrand.
        proposals: by name.
        draws: K of the stratified bars.
    """
    figure = new_figure()
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    bins = next(iter(proposals.values())).bins
    u = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    left.fill_between(u, f(u), color=GREY, alpha=0.2, lw=0, label="integrand f(u)")
    for name, proposal in proposals.items():
        colour, label = _PROPOSALS[name]
        left.plot(u, 1 / proposal.weight(u), color=colour, lw=1.5, label=f"q: {label}")
    left.set(xlabel="place on the noise schedule u", ylabel="f(u), and densities q(u)", xlim=(0, 1))
    left.set_ylim(0, 14)
    left.legend(loc="upper right", frameon=False, fontsize=9)

    ticks: list[tuple[float, str]] = []
    for first, strategy, k, title in (
        (0.0, "iid", 1, "iid, K = 1"),
        (4.0, "stratified", draws, f"stratified, K = {draws}"),
    ):
        right.text(4.9, first - 0.7, title, ha="right", va="center", fontsize=9, color=GREY)
        for place, name in enumerate(proposals):
            row = _only(rows, proposal=name, strategy=strategy, K=k)
            ticks.append((first + place, "surrogate" if name == "surrogate" else name))
            _bar(right, first + place, row, _PROPOSALS[name][0])
    right.plot([], [], ":", color="black", lw=1, label="exact, by quadrature")
    right.legend(loc="lower right", frameon=False, fontsize=9)
    right.set_yticks([y for y, _ in ticks], [label for _, label in ticks])
    right.set_ylim(7.4, -1.2)
    right.set(xlabel="effective compute multiplier over uniform iid", xlim=(0, 5))
    right.grid(alpha=0.25, axis="x")
    return figure


def draw_rates(rates: Rows, slopes: Rows, cosines: Rows, smooth: str) -> Figure:
    """Variance over K with 95 % bands: where strategies gain, and where shifted grids fail.

    Args:
        rates, slopes, cosines: rows of the CSVs of these names.
        smooth: the integrand of `rates` to draw.
    """
    figure = new_figure()
    left, right = figure.subplots(1, 2)
    for strategy, style in _STRATEGIES.items():
        slope = _only(slopes, strategy=strategy)
        label = f"{strategy}: {slope['slope']:.3f} ± {1.96 * slope['slope_se']:.3f}".replace("-", "−")
        chosen = [r for r in rates if r["integrand"] == smooth and r["strategy"] == strategy]
        _curve(left, chosen, style, label)
        _curve(right, [r for r in cosines if r["strategy"] == strategy], style, strategy)
    left.set(title="smooth: f(u) = exp(u)", ylabel="variance of the mean of K draws")
    right.set(title="a period per stratum: f(u) = cos 2πKu", ylim=(1e-3, 3))
    for axes, title in ((left, "slope ± 95 %"), (right, None)):
        axes.set(xlabel="draws K")
        axes.title.set_fontsize(10)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        legend = axes.legend(frameon=False, fontsize=9, loc="lower left", title=title, title_fontsize=9)
        legend.set_alignment("left")
    right.text(62, 0.62, "systematic, sobol: not reduced", ha="right", fontsize=9)
    right.text(62, 0.05, "iid, stratified, global: 1/K", ha="right", fontsize=9)
    return figure


def _bar(axes: Axes, y: float, row: Mapping[str, Any], colour: str) -> None:
    value, low, high, exact = (row[f"ecm{end}"] for end in ("", "_low", "_high", "_exact"))
    axes.barh(y, value, color=colour, alpha=0.75, height=0.75)
    axes.errorbar(value, y, xerr=[[value - low], [high - value]], color="black", capsize=3, lw=1)
    axes.plot([exact, exact], [y - 0.45, y + 0.45], ":", color="black", lw=1)
    axes.text(high + 0.12, y, f"{value:.2f}", va="center", fontsize=9)


def _curve(axes: Axes, rows: Rows, style: tuple[str, str, str], label: str) -> None:
    colour, marker, line = style
    k = [r["K"] for r in rows]
    size = 7 if line == "none" else 5
    axes.plot(
        k, [r["variance"] for r in rows], color=colour, marker=marker, ms=size, ls=line, lw=1.5, label=label
    )
    if line != "none":
        draw_band(axes, k, [r["variance_low"] for r in rows], [r["variance_high"] for r in rows], colour)


def _only(rows: Rows, **values: Any) -> Mapping[str, Any]:
    """The row with these values."""
    (row,) = (r for r in rows if all(r[key] == value for key, value in values.items()))
    return row
