"""How the gain of strata grows with the number of pixels: one convolutional model on ever larger mosaics.

The noise averages itself out over a picture, while what depends on the level alone does not: so the share of
the level in a draw's variance grows with the dimension, and with it what strata are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import attribution_pipeline
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.data.images import load_images
from carv_distill.teachers.denoiser import NetworkDenoiser, denoising_loss
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.variance import Estimate, VarianceBudget, mean_estimate, paired_ratio
from studies.attribution_budget.arms import DIGITS_LEVELS, Weights
from studies.attribution_budget.draws_table import PAPER_ECM
from studies.cached import Compute
from studies.sentences import estimate, sentence
from studies.study import Row, columns

BUDGETS = (4, 16, 64)
SAMPLERS = {
    "Strat": NoiseLevelSampler(Proposal.uniform(), "stratified"),
    "pairs": NoiseLevelSampler(Proposal.uniform(), "paired", "antithetic"),
}
IID_DRAWS = 16
"""Single draws of a replicate, whose variance over K is that of K iid draws."""
PIXELS = 2**18
"""Of a network call."""

Terms = dict[tuple[str, int], float]
"""By sampler and K."""


FULL = SimpleNamespace(steps=1500, samples=12, replicates={8: 48, 16: 32, 32: 24, 64: 12, 128: 8})
QUICK = SimpleNamespace(steps=30, samples=3, replicates={8: 3, 16: 3})
"""Steps of the training, samples of a budget of variance, replicates by size."""


def mosaic(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random digits side by side, [count, 1, size, size]."""
    side = size // 8
    images = load_images("digits").images
    pick = torch.randint(len(images), (count, side, side), generator=generator)
    return images[pick].permute(0, 3, 1, 4, 2, 5).reshape(count, 1, size, size)


def _denoiser() -> NetworkDenoiser:
    """Convolutions alone, for pictures of any size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=32, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8, add_attention=False,
        )  # fmt: skip
    return NetworkDenoiser(UNetNetwork(network), EDMPreconditioning(0.75))


def train(steps: int, seed: int) -> tuple[Weights, float]:
    """Trains the model on 32×32 mosaics: its weights, and the mean loss of the last tenth."""
    denoiser = _denoiser().train()
    optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps):
        g = stream(seed, "dimension", "train", step)
        x = mosaic(16, 32, g)
        sigma = DIGITS_LEVELS.sigma(torch.rand(len(x), generator=g))
        none = torch.zeros(len(x), dtype=torch.long)
        loss = denoising_loss(denoiser, x, sigma, torch.randn(x.shape, generator=g), none)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return Weights.of(denoiser), sum(last) / len(last)


def replicate(weights: Weights, size: int, number: int, seed: int) -> Terms:
    """One mosaic: the variance of single iid draws, and ‖ḡ − ḡ'‖²/2 of every sampler at every K."""
    gradients = weights.gradients(_denoiser(), DIGITS_LEVELS)
    x = mosaic(1, size, stream(seed, "dimension", size, number))

    def mean(draws: Draws) -> Tensor:
        mine, at_once = draws.row(0), max(1, PIXELS // size**2)
        parts = [mine[start : start + at_once] for start in range(0, len(mine.u), at_once)]
        shares = [gradients(SampleBatch(x), part)[0].double() * (len(part.u) / len(mine.u)) for part in parts]
        return sum(shares, torch.zeros(()))

    def key(*name: int | str) -> torch.Generator:
        return stream(seed, "dimension", size, number, *name)

    single = NoiseLevelSampler(Proposal.uniform(), "iid")
    alone = torch.stack([mean(single.draw(1, 1, x.shape[1:], key("iid", i))) for i in range(IID_DRAWS)])
    terms: Terms = {("iid", 1): alone.var(0).sum().item()}
    for name, sampler in SAMPLERS.items():
        for k in BUDGETS:
            pair = [mean(sampler.draw(1, k, x.shape[1:], key(name, k, half))) for half in (0, 1)]
            terms[name, k] = (pair[0] - pair[1]).square().sum().item() / 2
    return terms


def budget(weights: Weights, size: int, samples: int, seed: int) -> VarianceBudget:
    """Of a single draw."""
    x = mosaic(max(samples, 64), size, stream(seed, "dimension", "budget", size))
    chunk = max(1, min(8, PIXELS // size**2))
    gradients = weights.gradients(_denoiser(), DIGITS_LEVELS)
    pipeline = attribution_pipeline(gradients, build_projector("none", 1, 0), SampleBatch(x), chunk)
    g = stream(seed, "dimension", "budget draws", size)
    return VarianceBudget.measure(pipeline, (), g, upstreams=samples, levels=4, noises=2)


def measure(compute: Compute, sizes: SimpleNamespace, seed: int) -> dict[int, dict[str, Any]]:
    """Budget and replicates of every size of picture."""
    weights, _ = compute(partial(train, sizes.steps, seed))
    calls = {
        size: {
            "budget": partial(budget, weights, size, sizes.samples, seed),
            "replicates": [partial(replicate, weights, size, i, seed) for i in range(count)],
        }
        for size, count in reversed(sizes.replicates.items())  # the longer ones first
    }
    return dict(reversed(compute(calls).items()))


def gains(replicates: Sequence[Terms]) -> dict[tuple[str, int], Estimate]:
    """ECM over iid draws, Var_iid/K over the sampler's variance, for every sampler and K."""
    estimates = {}
    for name, k in product(SAMPLERS, BUDGETS):
        base = mean_estimate([r["iid", 1] / k for r in replicates], positive=True)
        own = mean_estimate([r[name, k] for r in replicates], positive=True)
        estimates[name, k] = paired_ratio(base, own)
    return estimates


def rows(measured: Mapping[int, Mapping[str, Any]]) -> list[Row]:
    """V_level/V_noise and ECM of strata and of pairs by size of the mosaic."""
    table = []
    for size, content in measured.items():
        own = content["budget"]
        row: Row = {
            "size": size,
            "dimension": size**2,
            "level_over_noise": own.within_level.value / own.within_noise.value,
            "replicates": len(content["replicates"]),
        }
        for (name, k), e in gains(content["replicates"]).items():
            row |= columns(f"{name}_{k}", e)
        table.append(row)
    return table


def verdict(mosaics: Sequence[Row]) -> list[str]:
    """What the mosaics say."""
    return [
        sentence(
            f"ECM of strata on mosaics at K = {k} (paper, on video latents: {paper})",
            {f"{r['dimension']:,} pixels": estimate(r, f"Strat_{k}") for r in mosaics},
            paper,
            "below",
            "as much",
        )
        for k, paper in PAPER_ECM.items()
    ]
