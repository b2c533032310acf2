"""Per-sample gradients: python -m benchmarks.attribution [--rounds 12]

Ratios, each measured in this process by alternating the two sides and taking medians; of CPU-seconds, which
other work on the machine does not lengthen. On the digits teacher, by vmap:

- evaluation: seconds of a draw of a sample, in features of 16 draws each as `evaluate.py influence` makes
  them, against those of a plain loop of backward() for each sample and draw (at most 1/3);
- projection: its seconds against those of the features that it is part of (at most 0.1);
- memory: peak of what torch holds for 64 samples against 16, both in chunks of 16 (at most 1.1).

On a miniature Wan transformer of half a million parameters, by backward with hooks:

- clips: seconds of features of six draws each against those of a plain loop of backward() for each sample and
  draw that joins and projects the mean gradient (at most 1);
- hooks: the same against a loop of one backward() for all draws of a sample: what it costs to take gradients
  one by one (at most 1.1);
- gradients: peak of what torch holds for one draw of a clip so small that gradients are most of it, against
  that of the loop without the copy that joins them (at most 0.3).
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from benchmarks.measure import peak_bytes, ratio_of
from benchmarks.report import options, report
from carv_distill.attribution.features.draws import shared_draws
from carv_distill.attribution.gradients.backward import BackwardGradients
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import sample_features
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal
from carv_distill.data.images import load_images
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import NetworkDenoiser, denoising_losses
from carv_distill.teachers.parametrisation import FlowPreconditioning
from carv_distill.teachers.pipelines.wan import WanNetwork
from carv_distill.teachers.schedule import FlowSchedule
from carv_distill.teachers.teacher import load_teacher
from carv_distill.variance import CountSketch

DRAWS, SAMPLES, LOOPED, CHUNK = 16, 32, 2, 16
CLIPS, CLIP_DRAWS = 2, 6
CLIP, TINY_CLIP = (16, 5, 16, 16), (16, 1, 2, 2)
LEVELS = FlowSchedule(1000)
WARM_UP = 2
SIZE = 4096
BOUNDS = {
    "evaluation": 1 / 3, "projection": 0.1, "memory": 1.1, "clips": 1.0, "hooks": 1.1, "gradients": 0.3,
}  # fmt: skip
Ratio = tuple[float, float, float]


def seconds_of(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU-seconds of each side, in random order within a round."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for step in range(rounds + WARM_UP):
        for name in random.Random(step).sample(list(sides), len(sides)):
            start = time.process_time()
            sides[name]()
            if step >= WARM_UP:
                seconds[name].append(time.process_time() - start)
    return seconds


def digits(rounds: int) -> dict[str, Ratio]:
    """Of the digits teacher."""
    teacher, data = load_teacher("checkpoints/digits-teacher"), load_images("digits")
    gradients = VmapGradients(SampleLoss(teacher.denoiser, teacher.schedule))
    layout, projector = gradients.loss.layout, build_projector("countsketch", SIZE, 0)
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

    def features(count: int = SAMPLES) -> Tensor:
        return sample_features(gradients, projector, SampleBatch(x[:count], labels[:count]), draws, CHUNK)

    some = {name: torch.randn(CHUNK, size) for name, size in layout.sizes.items()}

    def projection() -> None:
        for _ in range(SAMPLES // CHUNK):
            total = projector.begin(layout, CHUNK)
            for name, gradient in some.items():
                total.add(name, gradient)
            total.features()

    seconds = seconds_of({"loop": loop, "features": features, "projection": projection}, rounds)
    each = {
        "loop": [s / (LOOPED * DRAWS) for s in seconds["loop"]],
        "features": [s / (SAMPLES * DRAWS) for s in seconds["features"]],
    }
    memory = peak_bytes(lambda: features(64)) / peak_bytes(lambda: features(16))
    return {
        "evaluation": ratio_of(each["features"], each["loop"]),
        "projection": ratio_of(seconds["projection"], seconds["features"]),
        "memory": (memory, memory, memory),
    }


def clips(rounds: int) -> dict[str, Ratio]:
    """Of a miniature Wan transformer on random latents."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=24, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=288, num_layers=3, rope_max_seq_len=32,
    ).eval()  # fmt: skip
    denoiser = NetworkDenoiser(WanNetwork(model, CLIP), FlowPreconditioning(LEVELS))
    gradients = BackwardGradients(SampleLoss(denoiser, LEVELS))
    loss, projector, sketch = gradients.loss, build_projector("countsketch", SIZE, 0), CountSketch(SIZE, 0)
    looped = [*denoiser.parameters()]
    cond = Condition(torch.randn(CLIPS, 8, 32))

    def loop(x: Tensor, draws: Draws, at_once: int, join: bool = True) -> None:
        k = draws.u.shape[1]
        for i in range(len(x)):
            for p in looped:
                p.grad = None
            for start in range(0, k, at_once):
                part = draws.row(0)[start : start + at_once]
                (loss(x[i], cond[i], None, part) * (at_once / k)).backward()
            if join:
                sketch(torch.cat([p.grad.flatten() for p in looped if p.grad is not None])[None])
        for p in looped:
            p.grad = None

    def hooks(x: Tensor, draws: Draws) -> None:
        sample_features(gradients, projector, SampleBatch(x, cond[: len(x)]), draws)

    def case(count: int, shape: Sequence[int], k: int) -> tuple[Tensor, Draws]:
        sampler = NoiseLevelSampler(Proposal.uniform())
        return torch.randn(count, *shape), shared_draws(sampler, k, 1, shape, 0)

    many, one = case(CLIPS, CLIP, CLIP_DRAWS), case(1, TINY_CLIP, 1)
    sides: dict[str, Callable[[], object]] = {
        "hooks": lambda: hooks(*many),
        "draw by draw": lambda: loop(*many, at_once=1),
        "by sample": lambda: loop(*many, at_once=CLIP_DRAWS),
    }
    seconds = seconds_of(sides, rounds)
    hooks(*one)  # keeps the signs
    memory = peak_bytes(lambda: hooks(*one)) / peak_bytes(lambda: loop(*one, at_once=1, join=False))
    return {
        "clips": ratio_of(seconds["hooks"], seconds["draw by draw"]),
        "hooks": ratio_of(seconds["hooks"], seconds["by sample"]),
        "gradients": (memory, memory, memory),
    }


def main() -> None:
    arguments = options(__doc__, rounds=12)
    results = digits(arguments.rounds) | clips(arguments.rounds)
    report("Attribution", results, BOUNDS, arguments.rounds, arguments.out)


if __name__ == "__main__":
    main()
