"""What several processes and accumulated gradients cost: python -m benchmarks.scale [--rounds 20]

- gradient: of the first update, two gloo processes against one that works through both shares; greatest
  difference over greatest entry (at most 1e-6);
- two processes: seconds of their update against those of one process that works through both shares;
- exchange: seconds of the two processes' exchanges, waiting included, over those of their update;
- memory: peak of an update's tensors at 32 shares of R = 8 against 2 (at most 1.05);
- sharded gradient, sharded: the first two of two processes with trainer.sharding: fsdp (at most 3 times the
  seconds: of a small network, through gloo, joining the blocks costs as much as they do);
- sharded gradient, float64: the same in double precision, where it is the arithmetic and not its rounding;
- sharded bytes: parameters, gradients and moments that one of two such processes holds, over those of one
  process with whole networks (at most 0.52).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from benchmarks.measure import held_bytes, own_part, peak_bytes, ratio_of
from benchmarks.report import options, report
from carv_distill.distillation.building import build_module, load_data
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine import optimisation
from carv_distill.engine.console import quiet_libraries
from carv_distill.engine.sharded_strategy import ShardedStrategy
from carv_distill.engine.strategies import UnwrappedStrategy
from carv_distill.processes import average_over_ranks
from carv_distill.tasks import load_config

WARM_UP = 3
UPSTREAM = 8
SHARDED, PRECISION = "CARV_DISTILL_BENCHMARK_SHARDED", "CARV_DISTILL_BENCHMARK_PRECISION"
"""Tell the two processes which kind they are."""
Precision = Literal["32-true", "64-true"]
FLOAT32: Precision = "32-true"
FLOAT64: Precision = "64-true"
BOUNDS = {
    "gradient": 1e-6,
    "two processes": 1.0,
    "exchange": 1.0,
    "memory": 1.05,
    "sharded gradient": 1e-6,
    "sharded gradient, float64": 1e-12,
    "sharded": 3.0,
    "sharded bytes": 0.52,
}


class Timed(DMDModule):
    """Notes the seconds of its updates and of their exchanges, and the first gradient."""

    def on_train_start(self) -> None:
        self.updates, self.exchanges, self.waited = list[float](), list[float](), 0.0
        self.first = torch.zeros(())

        def timed(vector: Tensor, world_size: int) -> None:
            start = time.perf_counter()
            average_over_ranks(vector, world_size)
            self.waited += time.perf_counter() - start

        optimisation.average_over_ranks = timed

    def training_step(self, batch: Any, batch_idx: int) -> None:
        start, self.waited = time.perf_counter(), 0.0
        super().training_step(batch, batch_idx)
        self.updates.append(time.perf_counter() - start)
        self.exchanges.append(self.waited)
        if batch_idx == 0:
            self.first = self.first_gradient()

    def first_gradient(self) -> Tensor:
        """Adam's first moment over 1 − β after one update, [d] on rank 0."""
        optimizer, theta = self.trainer.optimizers[0], self.student_vector
        moments = [own_part(optimizer.state[p]["exp_avg"]) for p in theta.tensors]
        return theta.whole(moments).clone() / (1 - self.options.beta1)

    def on_train_end(self) -> None:
        self.held = held_bytes(self, self.trainer.optimizers)


def build(config: str, shares: int, processes: int = 1) -> Timed:
    """The module of a configuration, for so many shares of R = 8."""
    words = (f"estimator.upstream={UPSTREAM}", f"dmd.fake_batch={UPSTREAM}", "dmd.lr_decay=none")
    loaded = load_config(config, [*words, f"dmd.global_batch={shares * UPSTREAM}"])
    assert isinstance(loaded, DMDConfig)
    module = build_module(loaded, load_data(loaded), processes)
    module.__class__ = Timed
    assert isinstance(module, Timed)
    return module


def fit(
    module: Timed, steps: int, processes: int = 1, sharded: bool = False, precision: Precision = FLOAT32
) -> Timed:
    """The module after so many updates in a trainer that does nothing else."""
    several = ShardedStrategy() if sharded else UnwrappedStrategy()
    Trainer(
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=processes,
        strategy=several if processes > 1 else "auto",
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)
    return module


def work(config: str, rounds: int, out: Path, sharded: bool, precision: Precision) -> None:
    """One of two processes: what rank 0 measured goes into a file."""
    module = fit(build(config, 2, 2), rounds + WARM_UP, 2, sharded, precision)
    if module.global_rank == 0:
        torch.save((module.first, module.updates, module.exchanges, module.held), out)


def two_processes(
    config: str, rounds: int, sharded: bool = False, precision: Precision = FLOAT32
) -> tuple[Tensor, list[float], list[float], int]:
    """(first gradient, seconds of updates, seconds of exchanges, bytes held) of two gloo processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "measured.pt")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        words = ["-m", "benchmarks.scale", "--config", config, "--rounds", str(rounds), "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", SHARDED: str(int(sharded)), PRECISION: precision}
        subprocess.run([*launch, *words], check=True, env=environment)
        first, updates, exchanges, held = torch.load(out, weights_only=True)
    return first, updates, exchanges, held


def sharded_error(config: str, precision: Precision = FLOAT32) -> float:
    """Of the first gradient of two processes that share every network: greatest difference from one
    process's over its greatest entry."""
    sharded, *_ = two_processes(config, 1, sharded=True, precision=precision)
    one = fit(build(config, 2), 1, precision=precision).first
    return relative(sharded, one)


def relative(gradient: Tensor, of: Tensor) -> float:
    """Greatest difference over greatest entry."""
    return float((gradient - of).abs().max() / of.abs().max())


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
        precision = cast(Precision, os.environ[PRECISION])
        work(config, arguments.rounds, arguments.out, os.environ[SHARDED] == "1", precision)
        return
    first, updates, exchanges, _ = two_processes(config, arguments.rounds)
    of_shards, sharded_updates, _, held = two_processes(config, arguments.rounds, sharded=True)
    one = fit(build(config, 2), arguments.rounds + WARM_UP)
    memory = memory_ratio(config)
    results = {
        "gradient": (relative(first, one.first),) * 3,
        "two processes": ratio_of(updates[WARM_UP:], one.updates[WARM_UP:]),
        "exchange": ratio_of(exchanges[WARM_UP:], updates[WARM_UP:]),
        "memory": (memory,) * 3,
        "sharded gradient": (relative(of_shards, one.first),) * 3,
        "sharded gradient, float64": (sharded_error(config, FLOAT64),) * 3,
        "sharded": ratio_of(sharded_updates[WARM_UP:], one.updates[WARM_UP:]),
        "sharded bytes": (held / one.held,) * 3,
    }
    report("Scale", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
