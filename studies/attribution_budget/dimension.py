"""How the gain of strata grows with the number of pixels: one convolutional model on ever larger mosaics.

The noise averages itself out over a picture, while what depends on the level alone does not: so the share of
the level in a draw's variance grows with the dimension, and with it what strata are worth.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors.torch import load, save
from torch import Tensor

from carv_distill.attribution.gradients import SampleGradients
from carv_distill.attribution.latents import digest
from carv_distill.attribution.pipeline import attribution_pipeline
from carv_distill.attribution.projection import build_projector
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.data.images import load_images
from carv_distill.files import atomic_file
from carv_distill.teachers.denoiser import EDMPreconditioning, NetworkDenoiser
from carv_distill.teachers.loss import denoising_loss
from carv_distill.teachers.network import UNetNetwork
from carv_distill.variance import Estimate, VarianceBudget, mean_estimate, paired_ratio
from studies.attribution_budget.models import DIGITS_LEVELS

SIZES = (8, 16, 32, 64, 128)
"""Pixels along one side of a mosaic of 8×8 digits."""
BUDGETS = (4, 16, 64)
SAMPLERS = {
    "Strat": NoiseLevelSampler(Proposal.uniform(), "stratified"),
    "pairs": NoiseLevelSampler(Proposal.uniform(), "paired", "antithetic"),
}
IID_DRAWS = 16
"""Single draws of a replicate, whose variance over K is that of K iid draws."""
PIXELS = 2**18
"""Of a network call."""


def mosaic(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random digits side by side, [count, 1, size, size]."""
    side = size // 8
    images = load_images("digits").images
    pick = torch.randint(len(images), (count, side, side), generator=generator)
    return images[pick].permute(0, 3, 1, 4, 2, 5).reshape(count, 1, size, size)


def _network() -> UNet2DModel:
    """Convolutions alone, for pictures of any size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=32,
            in_channels=1,
            out_channels=1,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            add_attention=False,
        )


def train(path: str, steps: int, seed: int) -> dict[str, Any]:
    """Trains the model on 32×32 mosaics and keeps its weights; the mean loss of the last tenth."""
    denoiser = NetworkDenoiser(UNetNetwork(_network()), EDMPreconditioning(0.75)).train()
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
    with atomic_file(Path(path)) as file:
        file.write(save({k: v.contiguous() for k, v in denoiser.state_dict().items()}))
    last = losses[-max(1, steps // 10) :]
    return {"loss": sum(last) / len(last), "weights": digest(denoiser.state_dict().values())}


@cache
def _gradients(path: str) -> SampleGradients:
    denoiser = NetworkDenoiser(UNetNetwork(_network()), EDMPreconditioning(0.75))
    denoiser.load_state_dict(load(Path(path).read_bytes()))
    return SampleGradients(denoiser.requires_grad_(False).eval(), DIGITS_LEVELS)


def replicate(path: str, weights: str, size: int, number: int, seed: int) -> dict[str, Any]:
    """One mosaic: the variance of single iid draws, and ‖ḡ − ḡ'‖²/2 of every sampler at every K.

    `weights` is the digest of the file: gradients of another model are others.
    """
    gradients = _gradients(path)
    x = mosaic(1, size, stream(seed, "dimension", size, number))

    def mean(draws: Draws) -> Tensor:
        total: Tensor | float = 0.0
        count = draws.u.shape[1]
        at_once = max(1, PIXELS // size**2)
        for start in range(0, count, at_once):
            part = slice(start, start + at_once)
            u, weight, eps = draws.u[0, part], draws.weight[0, part], draws.eps[0, part]
            total = total + gradients(x, None, u, weight, eps)[0].double() * (len(u) / count)
        assert isinstance(total, Tensor)
        return total

    def key(*name: int | str) -> torch.Generator:
        return stream(seed, "dimension", size, number, *name)

    single = NoiseLevelSampler(Proposal.uniform(), "iid")
    alone = torch.stack([mean(single.draw(1, 1, x.shape[1:], key("iid", i))) for i in range(IID_DRAWS)])
    found = {"iid": alone.var(0).sum().item()}
    for name, sampler in SAMPLERS.items():
        for k in BUDGETS:
            pair = [mean(sampler.draw(1, k, x.shape[1:], key(name, k, half))) for half in (0, 1)]
            found[f"{name} {k}"] = (pair[0] - pair[1]).square().sum().item() / 2
    return found


def budget(path: str, weights: str, size: int, samples: int, seed: int) -> dict[str, Any]:
    """V_level and V_noise of a single draw, [value, low, high]."""
    x = mosaic(max(samples, 64), size, stream(seed, "dimension", "budget", size))
    pipeline = attribution_pipeline(
        _gradients(path), build_projector("none", 1, 0), x, None, max(1, min(8, PIXELS // size**2))
    )
    g = stream(seed, "dimension", "budget draws", size)
    found = VarianceBudget.measure(pipeline, (), g, upstreams=samples, levels=4, noises=2)
    parts = {"level": found.within_level, "noise": found.within_noise}
    return {name: [e.value, e.low, e.high] for name, e in parts.items()}


def gains(replicates: list[dict[str, Any]]) -> dict[tuple[str, int], Estimate]:
    """ECM over iid draws, Var_iid/K over the sampler's variance, for every sampler and K."""
    found = {}
    for name in SAMPLERS:
        for k in BUDGETS:
            base = mean_estimate([r["iid"] / k for r in replicates], positive=True)
            own = mean_estimate([r[f"{name} {k}"] for r in replicates], positive=True)
            found[name, k] = paired_ratio(base, own)
    return found
