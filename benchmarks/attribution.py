"""Per-sample gradients on the digits teacher: python -m benchmarks.attribution [--rounds 12]

Ratios, each measured in this process by alternating the two sides and taking medians:

- seconds of an evaluation, a draw of a sample, in features of 16 draws each as `evaluate.py influence` makes
  them, against those of a plain loop of backward() for each sample and draw (at most 1/3);
- seconds of the projection against those of the features that it is part of (at most 0.1);
- peak of the memory that torch holds for 64 samples against 16, both in chunks of 16 (at most 1.1).
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from benchmarks.measure import peak_bytes, ratio_of
from benchmarks.report import options, report
from carv_distill.attribution.draws import shared_draws
from carv_distill.attribution.gradients import SampleGradients, sample_features
from carv_distill.attribution.projection import build_projector
from carv_distill.carv import NoiseLevelSampler, Proposal
from carv_distill.data.images import load_images
from carv_distill.teachers.denoiser import denoising_losses
from carv_distill.teachers.teacher import load_teacher

DRAWS, SAMPLES, LOOPED, CHUNK = 16, 32, 2, 16
WARM_UP = 2
BOUNDS = {"evaluation": 1 / 3, "projection": 0.1, "memory": 1.1}


def main() -> None:
    arguments = options(__doc__, rounds=12)
    teacher, data = load_teacher("checkpoints/digits-teacher"), load_images("digits")
    gradients = SampleGradients(teacher.denoiser, teacher.schedule)
    projector = build_projector("countsketch", 4096, 0)
    draws = shared_draws(NoiseLevelSampler(Proposal.uniform()), DRAWS, 1, (1, 8, 8), 0)
    x, labels = data.images, data.labels
    looped = load_teacher("checkpoints/digits-teacher").denoiser.requires_grad_(True)

    def loop() -> None:
        for i in range(LOOPED):
            for k in range(DRAWS):
                for p in looped.parameters():
                    p.grad = None
                sigma = teacher.schedule.sigma(draws.u[0, k : k + 1])
                part = x[i : i + 1], sigma, draws.eps[0, k : k + 1], labels[i : i + 1]
                denoising_losses(looped, *part).mean().backward()

    def features(count: int = SAMPLES) -> torch.Tensor:
        return sample_features(gradients, projector, x[:count], labels[:count], draws, CHUNK)

    some = torch.randn(SAMPLES, gradients.dimension)
    sides: dict[str, Callable[[], object]] = {
        "loop": loop,
        "features": features,
        "projection": lambda: projector.project(some, 0),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for step in range(arguments.rounds + WARM_UP):
        for name in random.Random(step).sample(list(sides), len(sides)):
            start = time.perf_counter()
            sides[name]()
            if step >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    each = {
        "loop": [s / (LOOPED * DRAWS) for s in seconds["loop"]],
        "features": [s / (SAMPLES * DRAWS) for s in seconds["features"]],
    }
    memory = peak_bytes(lambda: features(64)) / peak_bytes(lambda: features(16))
    results = {
        "evaluation": ratio_of(each["features"], each["loop"]),
        "projection": ratio_of(seconds["projection"], seconds["features"]),
        "memory": (memory, memory, memory),
    }
    report("Attribution", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
