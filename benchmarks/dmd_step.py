"""What a DMD update costs beside its network calls: python -m benchmarks.dmd_step [--rounds 30]

Ratios, each measured in this process by alternating the two sides and taking medians:

- a student update against the bare network calls it consists of, made by hand (at most 1.04);
- a fake-score update against its bare network calls (at most 1.08);
- drawing noise levels and noises for R = 8, K = 16 against the student update of that size (at most 0.02);
- peak of the memory that torch holds at K = 64 in chunks of 8 draws per sample against K = 8 (at most 1.3).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import peak_bytes, ratio_of
from benchmarks.report import options, report
from benchmarks.updates import build, timed
from carv_distill.carv import average_residual, stream
from carv_distill.distillation.module import DMDModule
from carv_distill.engine.console import quiet_libraries

BOUNDS = {"student update": 1.04, "fake-score update": 1.08, "drawing": 0.02, "memory": 1.3}


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
