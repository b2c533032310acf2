"""What a step of text-to-3D costs beside its bare parts: python -m benchmarks.sds_step [--rounds 30]

Ratios, each measured in this process by alternating the two sides and taking medians:

- a step at (1, 8), and at (1, 16), against its bare parts, made by hand: render, encode, network call on 8 or
  16 guided draws, backward (at most 1.05);
- peak of the memory that torch holds in a step at R = 16, four renders at a time, against R = 4
  (at most 1.1);
- the same at K = 64 in chunks of 8 draws against K = 8 (at most 1.1).
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import bare_fit, peak_bytes, ratio_of
from benchmarks.report import options, report
from carv_distill.carv import stream
from carv_distill.engine.console import quiet_libraries
from carv_distill.tasks import load_config
from carv_distill.teachers.condition import repeated
from carv_distill.text_to_3d.module import SDSModule
from carv_distill.text_to_3d.options import SDSConfig
from carv_distill.text_to_3d.preparation import build_module

WARM_UP = 3
DRAWS = (8, 16)
BOUNDS = {f"step at (1, {k})": 1.05 for k in DRAWS} | {"memory over R": 1.1, "memory over K": 1.1}


def build(config: Path, *overrides: str) -> SDSModule:
    """The module of a configuration, outside a trainer."""
    loaded = load_config(config, overrides)
    assert isinstance(loaded, SDSConfig)
    return build_module(loaded, "cpu")


class Timed(SDSModule):
    """Times its own steps, inside a real trainer, against the bare parts they consist of."""

    seconds: dict[str, list[float]]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step, k, o = self.global_step, self.estimator.draws, self.objective
        cameras = o.camera_sampler.sample(1, stream(0))
        noisy = torch.randn(2 * k, *o.teacher.shape)
        cond = repeated(o.conditions(cameras)[0], 2 * k)
        levels = torch.linspace(1, 999, 2 * k)

        def bare() -> None:
            x = o.encoded(o.rendered(cameras, stream(1)), stream(2))
            with torch.no_grad():
                o.denoiser.network(noisy, levels, cond)
            x.sum().backward()

        sides: dict[str, Callable[[], object]] = {
            "step": lambda: SDSModule.training_step(self, batch, batch_idx),
            "bare": bare,
        }
        # In a new order each round: what ran before leaves the caches as it does.
        for name in random.Random(step).sample(list(sides), len(sides)):
            start = time.perf_counter()
            sides[name]()
            if step >= WARM_UP:
                self.seconds[name].append(time.perf_counter() - start)
            self.zero_grad()


class Weighed(SDSModule):
    """Weighs the memory of its second step: the first makes the optimiser's state."""

    peak: int

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.peak = peak_bytes(lambda: SDSModule.training_step(self, batch, batch_idx))


def timed(module: SDSModule, rounds: int) -> dict[str, list[float]]:
    """Seconds of both sides, `rounds` times each after the warm-up."""
    module.__class__ = Timed
    assert isinstance(module, Timed)
    module.seconds = defaultdict(list)
    bare_fit(module, rounds + WARM_UP)
    return module.seconds


def peak(config: Path, *overrides: str) -> int:
    """Peak of the memory of one step."""
    module = build(config, *overrides)
    module.__class__ = Weighed
    assert isinstance(module, Weighed)
    bare_fit(module, 2)
    return module.peak


def main() -> None:
    arguments = options(__doc__, rounds=30, config="configs/sds_carv.yaml")
    quiet_libraries()
    c = arguments.config
    results = {}
    for k in DRAWS:
        seconds = timed(build(c, "estimator.upstream=1", f"estimator.draws={k}"), arguments.rounds)
        results[f"step at (1, {k})"] = ratio_of(seconds["step"], seconds["bare"])
    over_r = peak(c, "estimator.upstream=16", "estimator.draws=1") / peak(
        c, "estimator.upstream=4", "estimator.draws=1"
    )
    chunk = "estimator.chunk=8"
    over_k = peak(c, "estimator.draws=64", chunk) / peak(c, "estimator.draws=8", chunk)
    results |= {"memory over R": (over_r, over_r, over_r), "memory over K": (over_k, over_k, over_k)}
    report("Step of text-to-3D", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
