"""What several processes and accumulated gradients cost: python -m benchmarks.scale [--rounds 20]

- gradient: of the first update, two gloo processes against one that works through both shares; greatest
  difference over greatest entry (at most 1e-6);
- two processes: seconds of their update against those of one process that works through both shares;
- exchange: seconds of the two processes' exchanges, waiting included, over those of their update;
- memory: peak of an update's tensors at 32 shares of R = 8 against 2 (at most 1.05).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

import carv_distill.distillation.module as dmd_module
from benchmarks.measure import peak_bytes, ratio_of
from benchmarks.report import options, report
from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.console import quiet_libraries
from carv_distill.processes import average_over_ranks
from carv_distill.tasks import load_config

WARM_UP = 3
UPSTREAM = 8
BOUNDS = {"gradient": 1e-6, "two processes": 1.0, "exchange": 1.0, "memory": 1.05}


class Timed(DMDModule):
    """Notes the seconds of its updates and of their exchanges, and the first gradient."""

    def on_train_start(self) -> None:
        self.updates, self.exchanges, self.waited = list[float](), list[float](), 0.0
        self.first = torch.zeros(())

        def timed(vector: Tensor, world_size: int) -> None:
            start = time.perf_counter()
            average_over_ranks(vector, world_size)
            self.waited += time.perf_counter() - start

        dmd_module.average_over_ranks = timed

    def training_step(self, batch: Any, batch_idx: int) -> None:
        start, self.waited = time.perf_counter(), 0.0
        super().training_step(batch, batch_idx)
        self.updates.append(time.perf_counter() - start)
        self.exchanges.append(self.waited)
        if batch_idx == 0:
            assert self.student_vector.theta.grad is not None
            self.first = self.student_vector.theta.grad.clone()


def build(config: str, shares: int, processes: int = 1) -> Timed:
    """The module of a configuration, for so many shares of R = 8."""
    words = (f"estimator.upstream={UPSTREAM}", f"dmd.fake_batch={UPSTREAM}", "dmd.lr_decay=none")
    loaded = load_config(config, [*words, f"dmd.global_batch={shares * UPSTREAM}"])
    assert isinstance(loaded, DMDConfig)
    module = build_module(loaded, load_images(loaded.data.name), processes)
    module.__class__ = Timed
    assert isinstance(module, Timed)
    return module


def fit(module: Timed, steps: int, processes: int = 1) -> Timed:
    """The module after so many updates in a trainer that does nothing else."""
    Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)
    return module


def work(config: str, rounds: int, out: Path) -> None:
    """One of two processes: what rank 0 measured goes into a file."""
    module = fit(build(config, 2, 2), rounds + WARM_UP, 2)
    if module.global_rank == 0:
        torch.save((module.first, module.updates, module.exchanges), out)


def two_processes(config: str, rounds: int) -> tuple[Tensor, list[float], list[float]]:
    """(first gradient, seconds of updates, seconds of exchanges) of two gloo processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "measured.pt")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        words = ["-m", "benchmarks.scale", "--config", config, "--rounds", str(rounds), "--out", str(out)]
        subprocess.run([*launch, *words], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        first, updates, exchanges = torch.load(out, weights_only=True)
    return first, updates, exchanges


def memory_ratio(config: str) -> float:
    """Peak of what torch holds in an update of 32 shares over that of 2: of one share alone it is less, as no
    gradient waits while the next share's is made."""
    peaks = []
    for shares in (32, 2):
        module = build(config, shares)
        peaks.append(_peak_of_last_update(module))
    return peaks[0] / peaks[1]


def _peak_of_last_update(module: Timed) -> int:
    peaks: list[int] = []
    step = DMDModule.training_step

    def measured(self: Timed, batch: Any, batch_idx: int) -> None:
        peaks.append(peak_bytes(lambda: step(self, batch, batch_idx)))

    module.__class__ = type("Measured", (Timed,), {"training_step": measured})
    fit(module, 3)
    return peaks[-1]


def main() -> None:
    arguments = options(__doc__, rounds=20)
    quiet_libraries()
    torch.set_num_threads(1)
    config = str(arguments.config)
    if torch.distributed.is_torchelastic_launched():
        work(config, arguments.rounds, arguments.out)
        return
    first, updates, exchanges = two_processes(config, arguments.rounds)
    one = fit(build(config, 2), arguments.rounds + WARM_UP)
    error = float((first - one.first).abs().max() / one.first.abs().max())
    memory = memory_ratio(config)
    results = {
        "gradient": (error,) * 3,
        "two processes": ratio_of(updates[WARM_UP:], one.updates[WARM_UP:]),
        "exchange": ratio_of(exchanges[WARM_UP:], updates[WARM_UP:]),
        "memory": (memory,) * 3,
    }
    report("Scale", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
