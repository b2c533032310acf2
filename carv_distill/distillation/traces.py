"""The trace of the gradient's variance, and its figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.distillation.figures import draw_variance_vs_fid
from carv_distill.distillation.gradient import measure_variance
from carv_distill.distillation.module import DMDModule
from carv_distill.engine.callbacks import write_metrics
from carv_distill.engine.metrics import read_metrics
from carv_distill.variance import Estimate, PairedVariance


class VarianceTrace(Callback):
    """Measures the gradient's variance every few updates and after the last one, for the configured sampler
    and for (R, 1) iid.

    Its random streams are its own, and gradients are taken aside: a traced run and an untraced one train
    the same. Columns: ``variance/<arm>/<quantity>`` with ``_low`` and ``_high`` (95 %), where arm is
    ``carv`` or ``iid`` and quantity is total, within, between, squared_norm or snr.
    """

    def __init__(self, every: int, pairs: int) -> None:
        self.every, self.pairs = every, pairs

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every and trainer.global_step != trainer.max_steps:
            return
        module: DMDModule = pl_module
        iid = NoiseLevelSampler(Proposal.uniform(module.sampler.proposal.bins), "iid")
        values: dict[str, float] = {}
        ours = module.sampler_at(trainer.global_step)
        for arm, sampler, draws in (("carv", ours, module.draws), ("iid", iid, 1)):
            key = (trainer.global_step, "variance")
            measured = measure_variance(module, sampler, draws, self.pairs, key)
            values |= _columns(f"variance/{arm}", measured)
        write_metrics(trainer, values)
        for arm in ("carv", "iid"):
            pl_module.log(f"variance/{arm}", values[f"variance/{arm}/total"], logger=False)


def _columns(prefix: str, measured: PairedVariance) -> dict[str, float]:
    quantities: dict[str, Estimate] = {
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


class TraceFigure(Callback):
    """Redraws `figures/variance_vs_fid.png` after every measurement."""

    def __init__(self, metrics: Path, figure: Path, every: tuple[int, ...]) -> None:
        self.metrics, self.figure = metrics, figure
        self.every = [e for e in every if e]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if any(trainer.global_step % e == 0 for e in self.every):
            self._draw(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._draw(pl_module)

    @rank_zero_only
    def _draw(self, module: DMDModule) -> None:
        r, k, strategy = module.upstream, module.draws, module.sampler.strategy
        rows = read_metrics(self.metrics)
        draw_variance_vs_fid(rows, self.figure, f"({r}, {k}) {strategy}", f"({r}, 1) iid")
