"""What a DMD update costs beside its network calls: python -m benchmarks.dmd_step [--rounds 30]

Ratios, each measured in this process by alternating the two sides and taking medians:

- a student update against the bare network calls it consists of, made by hand (at most 1.04);
- a fake-score update against its bare network calls (at most 1.08);
- drawing noise levels and noises for R = 8, K = 16 against the student update of that size (at most 0.02);
- peak of the memory that torch holds at K = 64 in chunks of 8 draws per sample against K = 8 (at most 1.3).
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import Optimizer

from benchmarks.measure import bare_fit, peak_bytes, ratio_of
from benchmarks.report import options, report
from carv_distill.carv import average_residual, stream
from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.console import quiet_libraries
from carv_distill.tasks import load_config

WARM_UP = 3
BOUNDS = {"student update": 1.04, "fake-score update": 1.08, "drawing": 0.02, "memory": 1.3}


def build(config: Path, *overrides: str) -> DMDModule:
    """The module of a configuration, outside a trainer."""
    loaded = load_config(config, overrides)
    assert isinstance(loaded, DMDConfig)
    module = build_module(loaded, load_images(loaded.data))
    assert isinstance(module, DMDModule)
    return module


class Timed(DMDModule):
    """Times its own updates, inside a real trainer, against the bare network calls they consist of."""

    seconds: dict[str, list[float]]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        fake_optimizers = cast(list[Optimizer], self.optimizers(use_pl_optimizer=False))[1:]
        student_optimizer = cast(list[LightningOptimizer], self.optimizers())[0]
        o, e = self.objective, self.estimator
        r, k, n = e.upstream, e.draws, self.options.fake_batch
        z, labels = o.upstream_noise(r, stream(0))
        x_fake, labels_fake = o.student_samples(stream(1))
        x_many = torch.randn(r * k, *o.shape)
        labels_many = labels.repeat_interleave(k)
        one = torch.ones(max(r * k, n))

        def bare_student() -> None:
            x = o.student.network(z, one[:r], labels)
            with torch.no_grad():
                o.teacher.network(x_many, one[: r * k], labels_many)
                o.fake.network(x_many, one[: r * k], labels_many)
            x.sum().backward()

        def bare_fake() -> None:
            o.fake.network(x_fake, one[:n], labels_fake).sum().backward()

        sides: dict[str, Callable[[], object]] = {
            "student update": lambda: self.student_update(student_optimizer, step),
            "bare student": bare_student,
            "fake-score update": lambda: self.fake_update(
                fake_optimizers, step, 0, [(x_fake, labels_fake)], [None]
            ),
            "bare fake": bare_fake,
            "drawing": lambda: e.sampler.draw(r, k, o.shape, generator=stream(0)),
        }
        # In a new order each round: what ran before leaves the caches as it does.
        for name in random.Random(step).sample(list(sides), len(sides)):
            side = sides[name]
            start = time.perf_counter()
            side()
            if step >= WARM_UP:
                self.seconds[name].append(time.perf_counter() - start)
            self.zero_grad()  # what a bare backward left is not the next side's to add to


def timed(module: DMDModule, rounds: int) -> dict[str, list[float]]:
    """Seconds of every side, measured in turn, `rounds` times each after the warm-up."""
    module.__class__ = Timed
    assert isinstance(module, Timed)
    module.seconds = defaultdict(list)
    bare_fit(module, rounds + WARM_UP)
    return module.seconds


def peak_memory(module: DMDModule, draws: int, chunk: int) -> int:
    """Peak of the bytes that torch holds beyond what it held before, while a direction is averaged."""
    o, e = module.objective, module.estimator
    z, labels = o.upstream_noise(e.upstream, stream(0))
    x = o.generate(o.student_ema, z, labels)

    def average() -> None:
        drawn = e.sampler.draw(e.upstream, draws, o.shape, generator=stream(1))
        average_residual(o.residual(labels), x, drawn, chunk)

    return peak_bytes(average)


def memory_ratio(config: Path) -> tuple[float, float, float]:
    """Peak at K = 64 over K = 8 for R = 8, both in chunks of 8 draws per upstream sample."""
    module = build(config, "estimator.upstream=8")
    value = peak_memory(module, 64, 8 * 8) / peak_memory(module, 8, 8 * 8)
    return value, value, value


def main() -> None:
    arguments = options(__doc__, rounds=30)
    quiet_libraries()
    seconds = timed(build(arguments.config), arguments.rounds)
    results = {
        "student update": ratio_of(seconds["student update"], seconds["bare student"]),
        "fake-score update": ratio_of(seconds["fake-score update"], seconds["bare fake"]),
    }
    sized = timed(build(arguments.config, "estimator.upstream=8", "estimator.draws=16"), arguments.rounds)
    results["drawing"] = ratio_of(sized["drawing"], sized["student update"])
    results["memory"] = memory_ratio(arguments.config)
    report("DMD step", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
