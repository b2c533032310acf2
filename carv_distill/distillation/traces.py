"""The trace of the gradient's variance, and the picture of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.engine.callbacks import Periodic, write_metrics
from carv_distill.engine.metrics import Row, read_metrics
from carv_distill.figures import (
    BLUE,
    GREY,
    ORANGE,
    draw_line,
    new_figure,
    save_figure,
    use_logarithm,
    use_whole_numbers,
)
from carv_distill.variance import PairedVariance

from .gradient import measure_variance
from .module import DMDModule

FIGURES = {"variance_vs_fid.png", "fid.png", "variance.png"}


class VarianceTrace(Periodic):
    """Measures the gradient's variance every few updates and after the last one, for the configured sampler
    and for (R, 1) iid.

    Its random streams are its own, and gradients are taken aside: a traced run and an untraced one train
    the same. Columns: ``variance/<arm>/<quantity>`` with ``_low`` and ``_high`` (95 %), where arm is
    ``carv`` or ``iid`` and quantity is total, within, between, squared_norm or snr.
    """

    def __init__(self, every: int, pairs: int) -> None:
        super().__init__(every, last=True)
        self.pairs = pairs

    def act(self, trainer: Trainer, module: DMDModule) -> None:
        step, e = trainer.global_step, module.estimator
        iid = NoiseLevelSampler(Proposal.uniform(e.sampler.proposal.bins), "iid")
        values: dict[str, float] = {}
        for arm, sampler, draws in (("carv", e.sampler_at(step), e.draws), ("iid", iid, 1)):
            # by no name: a network's mean gradient would stay through the next arm
            values |= _columns(
                f"variance/{arm}", measure_variance(module, sampler, draws, self.pairs, (step, "variance"))
            )
        write_metrics(trainer, values)
        for arm in ("carv", "iid"):
            module.log(f"variance/{arm}", values[f"variance/{arm}/total"], logger=False)


def _columns(prefix: str, measured: PairedVariance) -> dict[str, float]:
    quantities = {
        "total": measured.total(),
        "within": measured.within(),
        "between": measured.between(),
        "squared_norm": measured.squared_norm(),
        "snr": measured.signal_to_noise(),
    }
    return {
        f"{prefix}/{name}{suffix}": value
        for name, e in quantities.items()
        for suffix, value in (("", e.value), ("_low", e.low), ("_high", e.high))
    }


class TraceFigure(Periodic):
    """Redraws the run's figure after every measurement."""

    def __init__(self, run: Path, every: tuple[int, ...]) -> None:
        super().__init__(*every)
        self.run = run

    @rank_zero_only
    def act(self, trainer: Trainer, module: DMDModule) -> None:
        draw_run(self.run, module)


def draw_run(run: Path, module: DMDModule) -> None:
    """The figure of what metrics.csv holds."""
    e = module.estimator
    iid, own = f"({e.upstream}, 1) iid", f"({e.upstream}, {e.draws}) {e.sampler.strategy}"
    own = own if own == iid else f"CARV {own}"
    draw_traces(read_metrics(run / "metrics.csv"), run / "figures", own, iid)


def draw_traces(rows: Sequence[Row], folder: Path, carv: str, iid: str) -> None:
    """Variance of the student's gradient, in total and with the upstream held fixed, and FID, side by side
    over student updates, as `variance_vs_fid.png`; where only one of the two was measured, as `variance.png`
    or `fid.png`.

    Bands: 95 % intervals. Without two measurements of one of them there is no curve, and nothing is drawn.
    `carv` and `iid`: what the legend calls the configured estimator and its baseline, which have one curve
    where they are the same.
    """
    fid = [(r["step"], r["fid/fid"]) for r in rows if "fid/fid" in r and r["step"] > 0]
    measured = [r for r in rows if "variance/carv/total" in r]
    if max(len(fid), len(measured)) < 2:
        return
    name = "variance_vs_fid.png" if fid and measured else "fid.png" if fid else "variance.png"
    for earlier in FIGURES - {name}:  # of when the other was not measured yet
        (folder / earlier).unlink(missing_ok=True)
    parts = {"total": "variance of the gradient, in total", "within": "… with the upstream held fixed"}
    titles = [*(parts.values() if measured else ()), *(["FID of the one-step student"] if fid else ())]
    figure = new_figure(3.6, 4 * len(titles))
    every = figure.subplots(1, len(titles), sharex=True, squeeze=False)[0]
    for axes, title in zip(every, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="student updates")
        use_logarithm(axes, "y")
        use_whole_numbers(axes)
        axes.grid(alpha=0.25)
    for part, axes in zip(parts if measured else (), every, strict=False):
        if carv != iid:
            draw_line(axes, measured, "step", f"variance/iid/{part}", ORANGE, iid, "--")
        draw_line(axes, measured, "step", f"variance/carv/{part}", BLUE, carv)
        axes.sharey(every[0])
    if fid:
        every[-1].plot(*zip(*fid, strict=True), color=GREY, marker="o", ms=3.5, lw=1.5)
    if measured:
        handles = every[0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, folder / name)
