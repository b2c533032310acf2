"""A small conditional diffusion model, and its loss twice: as this project's, and written out for others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from carv_distill.attribution.gradients.loss import SampleLoss
from carv_distill.attribution.gradients.projection import NoProjector, Projector
from carv_distill.attribution.gradients.vmapped import VmapGradients
from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.schedule import EDMSchedule

LOW, HIGH, DEVIATION = 0.05, 5.0, 0.6


class Network(nn.Module):
    """F(x, c_noise, label) of pictures 1×6×6; 1,100 parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.label = nn.Embedding(3, 8)
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.mix, self.level = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(1, 8)
        self.register_buffer("gain", torch.tensor(1.5))

    def forward(self, x: Tensor, c_noise: Tensor, label: Any) -> Tensor:
        by_sample = (self.label(label) + self.level(c_noise[:, None]))[..., None, None]
        hidden = torch.tanh(self.gain * self.first(x) + by_sample)
        return self.last(torch.tanh(self.mix(hidden)))


def losses(network: Any, x: Tensor, u: Tensor, eps: Tensor, label: Tensor) -> Tensor:
    """The EDM loss of each draw, [K]: mean (F − (x − c_skip x_t)/c_out)², σ(u) with ρ = 7."""
    sigma = (LOW ** (1 / 7) + u * (HIGH ** (1 / 7) - LOW ** (1 / 7))) ** 7
    s = sigma.view(-1, 1, 1, 1)
    total = s.square() + DEVIATION**2
    x_t = x + s * eps
    ideal = (x - DEVIATION**2 / total * x_t) / (s * DEVIATION / total.sqrt())
    return (network(x_t / total.sqrt(), sigma.log() / 4, label) - ideal).square().mean((1, 2, 3))


def pictures(count: int, name: str) -> tuple[Tensor, Tensor]:
    """x [n, 1, 6, 6] and labels, float64."""
    g = stream("pictures", name)
    x = DEVIATION * torch.randn(count, 1, 6, 6, generator=g, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=g)


def drawn(seed: int, draws: int = 6) -> Draws:
    """Draws by importance and strata, float64."""
    sampler = NoiseLevelSampler(Proposal.from_weights(torch.linspace(1, 3, 40)))
    return sampler.draw(1, draws, (1, 6, 6), stream("draws", seed), dtype=torch.float64)


def own_features(
    network: Network, sample: tuple[Tensor, Tensor], draws: Draws, projector: Projector | None = None
) -> Tensor:
    """ḡ of each sample by this project, [n, d], or projected, [n, m]."""
    denoiser = NetworkDenoiser(network, EDMPreconditioning(DEVIATION))
    loss = SampleLoss(denoiser, EDMSchedule(LOW, HIGH))
    projector = projector or NoProjector()
    return VmapGradients(loss)(
        SampleBatch(*sample), draws.row(0), lambda rows: projector.begin(loss.layout, rows)
    )
