"""Pictures of the toy study, from the rows it writes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carv_distill.figures import BLUE, GREY, ORANGE, draw_band, new_figure
from studies.plots import plain_numbers
from studies.study import Row
from studies.toy_importance.integrands import EXPONENTIAL
from studies.toy_importance.tables import COMBINED, DRAWS, PEAK, proposals

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


def draw_ecm(rows: Sequence[Row]) -> Figure:
    """The integrand with its proposals; what each is worth, iid and stratified, with 95 % intervals."""
    figure = new_figure()
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    left.fill_between(u, PEAK.f(u), color=GREY, alpha=0.2, lw=0, label="integrand f(u)")
    for name, proposal in proposals().items():
        colour, label = _PROPOSALS[name]
        left.plot(u, 1 / proposal.weight(u), color=colour, lw=1.5, label=f"q: {label}")
    left.set(xlabel="place on the noise schedule u", ylabel="f(u), and densities q(u)", xlim=(0, 1))
    left.set_ylim(0, 14)
    left.legend(loc="upper right", frameon=False, fontsize=9)

    table = pd.DataFrame(rows).set_index(["strategy", "K", "proposal"]).sort_index()
    ticks: list[tuple[float, str]] = []
    for first, strategy, k in ((0.0, "iid", 1), (4.0, "stratified", COMBINED)):
        title = f"{strategy}, K = {k}"
        right.text(4.9, first - 0.7, title, ha="right", va="center", fontsize=9, color=GREY)
        for y, (name, (colour, _)) in enumerate(_PROPOSALS.items(), int(first)):
            ticks.append((y, name))
            row = table.loc[(strategy, k, name)]
            error = [[row.ecm - row.ecm_low], [row.ecm_high - row.ecm]]
            right.barh(y, row.ecm, color=colour, alpha=0.75, height=0.75)
            right.errorbar(row.ecm, y, xerr=error, color="black", capsize=3, lw=1)
            right.plot([row.ecm_exact] * 2, [y - 0.45, y + 0.45], ":", color="black", lw=1)
            right.text(row.ecm_high + 0.12, y, f"{row.ecm:.2f}", va="center", fontsize=9)
    right.plot([], [], ":", color="black", lw=1, label="exact, by quadrature")
    right.legend(loc="lower right", frameon=False, fontsize=9)
    right.set_yticks([y for y, _ in ticks], [label for _, label in ticks])
    right.set_ylim(7.4, -1.2)
    right.set(xlabel="effective compute multiplier over uniform iid", xlim=(0, 5))
    right.grid(alpha=0.25, axis="x")
    return figure


def draw_rates(rates: Sequence[Row], slopes: Sequence[Row], cosines: Sequence[Row]) -> Figure:
    """Variance over K with 95 % bands: where strategies gain, and where shifted grids fail."""
    figure = new_figure()
    left, right = figure.subplots(1, 2)
    smooth, waves = pd.DataFrame(rates), pd.DataFrame(cosines)
    smooth = smooth[smooth.integrand == EXPONENTIAL.name]
    for slope in slopes:
        strategy = slope["strategy"]
        label = f"{strategy}: {slope['slope']:.3f} ± {1.96 * slope['slope_se']:.3f}".replace("-", "−")
        _curve(left, smooth[smooth.strategy == strategy], strategy, label)
        _curve(right, waves[waves.strategy == strategy], strategy, strategy)
    left.set(title="smooth: f(u) = exp(u)", ylabel="variance of the mean of K draws")
    right.set(title="a period per stratum: f(u) = cos 2πKu", ylim=(1e-3, 3))
    for axes, title in ((left, "slope ± 95 %"), (right, None)):
        axes.set(xlabel="draws K", yscale="log")
        axes.title.set_fontsize(10)
        axes.set_xscale("log", base=2)
        plain_numbers(axes.xaxis, DRAWS)
        axes.grid(alpha=0.25)
        legend = axes.legend(frameon=False, fontsize=9, loc="lower left", title=title, title_fontsize=9)
        legend.set_alignment("left")
    right.text(62, 0.62, "systematic, sobol: not reduced", ha="right", fontsize=9)
    right.text(62, 0.05, "iid, stratified, global: 1/K", ha="right", fontsize=9)
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, strategy: str, label: str) -> None:
    colour, marker, line = _STRATEGIES[strategy]
    size = 7 if line == "none" else 5
    axes.plot(rows.K, rows.variance, color=colour, marker=marker, ms=size, ls=line, lw=1.5, label=label)
    if line != "none":
        draw_band(axes, rows.K, rows.variance_low, rows.variance_high, colour)
