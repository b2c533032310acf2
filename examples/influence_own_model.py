"""Data attribution on someone else's diffusion model: a small network on points in the plane.

    python examples/influence_own_model.py

The network is any module F(x, c_noise, cond); here it has just learned three rings of points. What shaped its
loss at a new point? K draws of noise level and noise, the same for all points, by a sampler that a pilot
chose; gradients sample by sample; cosines of their means.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from carv_distill.attribution.features.draws import shared_draws
from carv_distill.attribution.features.pilot import pilot_sampler
from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import build_projector
from carv_distill.attribution.gradients.sample_gradients import attribution_pipeline, sample_features
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.ranking.reliability import half_width
from carv_distill.attribution.ranking.scores import GroupProducts
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import stream
from carv_distill.teachers.denoiser import NetworkDenoiser, denoising_losses
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.schedule import LogNormalSchedule

LEVELS = LogNormalSchedule(-1.2, 1.2, 0.02, 10.0)  # u in [0, 1) → σ, as the network was trained
RADII = (0.3, 0.9, 1.5)
DRAWS, GROUPS = 32, 4


class Network(nn.Module):
    """F(x, c_noise, cond), [n, 2] → [n, 2]; this one has no conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        return self.layers(torch.cat([x, c_noise[:, None]], 1))


def rings(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points [3 · count, 2], and the ring of each."""
    ring = torch.arange(3).repeat_interleave(count)
    angle = 2 * torch.pi * torch.rand(3 * count, generator=generator)
    radius = torch.tensor(RADII)[ring] + 0.03 * torch.randn(3 * count, generator=generator)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), ring


def train(x: Tensor, steps: int = 1500) -> NetworkDenoiser:
    """Denoising training, as anyone's."""
    torch.manual_seed(0)
    denoiser = NetworkDenoiser(Network(), EDMPreconditioning(sigma_data=0.7))
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    for step in range(steps):
        g = stream("train", step)
        batch = x[torch.randint(len(x), (128,), generator=g)]
        sigma = LEVELS.sigma(torch.rand(128, generator=g))
        loss = denoising_losses(denoiser, batch, sigma, torch.randn(128, 2, generator=g), None).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoiser.requires_grad_(False)


def main() -> tuple[list[float], str]:
    """Shares of each query's own ring among its ten most influential points, and the chosen sampler."""
    x, ring = rings(100, stream("data"))
    queries, asked = rings(4, stream("queries"))
    gradients = VmapGradients(SampleLoss(train(x), LEVELS))
    projector = build_projector("countsketch", 2048, 0)

    pipeline = attribution_pipeline(gradients, projector, SampleBatch(x), chunk=64)
    sampler = pilot_sampler(pipeline, DRAWS // GROUPS, 0, torch.device("cpu"))
    chosen = f"{sampler.strategy} levels, {sampler.noise} noise"
    print(f"the pilot chose {chosen}")

    draws = shared_draws(sampler, DRAWS, GROUPS, (2,), seed=0)
    train_features, query_features = (
        sample_features(gradients, projector, SampleBatch(points), draws, chunk=64) for points in (x, queries)
    )
    products = GroupProducts.of(query_features, train_features)
    scores, half = products.cosine(debias=True), half_width(partial(products.cosine, True), GROUPS, least=2)
    top = scores.argsort(dim=1, descending=True)[:, :10]
    shares = []
    for q in range(len(queries)):
        shares.append((ring[top[q]] == asked[q]).float().mean().item())
        best = int(top[q, 0])
        print(
            f"query on ring {asked[q]} at ({queries[q, 0]:+.2f}, {queries[q, 1]:+.2f}): "
            f"{shares[-1]:.0%} of its top ten lie on that ring; the first at ({x[best, 0]:+.2f}, "
            f"{x[best, 1]:+.2f}), cosine {scores[q, best]:.2f} ± {half[q, best]:.2f}"
        )
    return shares, chosen


if __name__ == "__main__":
    main()
