"""evaluate.py variance: where a gradient's variance comes from, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carv_distill.errors import UserError
from carv_distill.options import at_least

from .command import Command, Measurement, RunOptions


@dataclass(frozen=True)
class VarianceCommandOptions(RunOptions):
    """What `evaluate.py variance` is told."""

    upstream: int | None = at_least(1, None)
    """R of every sampler, at most the run's own; without: 8, or the run's own if that is less"""
    draws: tuple[int, ...] = at_least(1, (1, 2, 4, 8, 16))
    """K"""
    pairs: int | None = at_least(3, None)
    """pairs of gradients per row; without: 16, and 128/R at fewer than 8 samples"""
    samples: int = at_least(3, 32)
    """upstream samples of the budget"""


def _measure(options: VarianceCommandOptions, runs: list[Path], device: str) -> Measurement:
    from carv_distill.engine.devices import float32_matmul
    from carv_distill.variance import analyse, analysis_dict, analysis_report, analysis_summary

    from .advised import advised_training
    from .variance_figures import draw_analysis

    o, (run,) = options, runs
    task, config = VARIANCE.open(run, options)
    assert task.gradient is not None
    gradient = task.gradient(config, run, device, None)
    if min(o.draws) > gradient.draws:
        raise UserError(
            f"--draws: {' '.join(map(str, o.draws))}; all are above the run's own K, whose variance must be "
            f"known to say what is better: add {gradient.draws}"
        )
    if o.upstream is not None and o.upstream > gradient.upstream:
        raise UserError(
            f"--upstream: {o.upstream} is above the run's own R, {gradient.upstream}, whose variance must be "
            "known to say what is better"
        )
    with float32_matmul(config.trainer):
        analysis = analyse(gradient, o.upstream, o.draws, o.pairs, o.samples)
    folder = o.out.with_suffix("") if o.out else run / "figures"
    drawn = draw_analysis(analysis.comparison, analysis.profile, analysis.proposals, folder)
    title = f"run {run} at update {analysis.step}"
    shown = [f"{part}\n" for part in (title, *analysis_summary(analysis))]
    shown.append(f"drawn: {folder}/{', '.join(path.name for path in drawn)}")
    result, best = analysis_dict(analysis), analysis.advice[analysis.best]
    sampler = {row.arm: row.sampler for row in analysis.comparison.rows}[analysis.best]
    place, known = (best.upstream, best.draws), gradient.importance is not None
    # of one share of an iteration R is not all that the run's configuration says
    if analysis.shares == 1 and (line := advised_training(run, analysis.best, sampler, *place, known)):
        result["train"] = line
        shown.append(f"to train so: {line}")
    return Measurement(shown, result, f"{title}\n\n{analysis_report(analysis)}\n")


VARIANCE = Command("variance", "variance, compute and advice", VarianceCommandOptions, _measure, "gradient")
