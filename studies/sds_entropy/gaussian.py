"""Text-to-3D under an exact teacher: what its gradient is, and fields that descend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, Residual, Upstream, carv_loss, stream
from carv_distill.data.solids import COLOURS
from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.geometry.solids import SOLIDS, trace
from carv_distill.teacher_training.networks import build_scheduler
from carv_distill.teachers.schedule import VPSchedule
from carv_distill.text_to_3d.guidance.timesteps import TimestepRange, timestep_weight
from carv_distill.text_to_3d.object.turntable import turntable
from carv_distill.text_to_3d.options import SDSOptions
from carv_distill.text_to_3d.scenes import VoxelScene

SIZE = 24
"""Pixels, voxels and points on a ray."""
EXTENT = 0.8
CAMERAS = CameraSampler((1.75, 1.75), (55.0, 55.0), (0.0, 30.0))
RATE = 0.02


@dataclass(frozen=True)
class GaussianTeacher:
    """N(μ, s² C) of a solid's pictures μ in [−1, 1], a view at a time; C is stationary, of unit variance.

    With S the spectrum of s² C, x_t = x + σ ε, F the Fourier transform and e the predicted noise,

        F(e − ε) = σ F(x − μ)/(S + σ²) − S F(ε)/(S + σ²):

    the first part is the signal, the second the noise, which a teacher without spread has not.
    """

    solid: str
    colour: str
    spread: float

    @cached_property
    def levels(self) -> TimestepRange:
        """Timesteps 0.02 … 0.98 of Stable Diffusion's schedule."""
        return TimestepRange.of_shares(VPSchedule(build_scheduler().betas), 0.02, 0.98)

    @cached_property
    def spectrum(self) -> Tensor:
        """S, of a real transform's entries, [SIZE, SIZE/2 + 1]; s² on average over the whole spectrum."""
        rows, columns = torch.fft.fftfreq(SIZE), torch.fft.fftfreq(SIZE)
        falls = (rows[:, None].square() + columns.square()).clamp(min=1 / SIZE**2).reciprocal()
        whole = self.spread**2 * falls / falls.mean()
        return whole[:, : SIZE // 2 + 1]

    def pictures(self, cameras: Cameras) -> Tensor:
        """μ, [n, 3, SIZE, SIZE]."""
        return 2 * trace(SOLIDS[self.solid], COLOURS[self.colour], cameras, SIZE) - 1

    def residual(self, cameras: Cameras) -> Residual:
        """w(t) (ε̂ − ε) of renders from these cameras, w = 1 − ᾱ."""
        target, spectrum = self.pictures(cameras), self.spectrum

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            sigma = self.levels.sigma(u)
            level = sigma.view(-1, 1, 1, 1)
            apart, noise = torch.fft.rfft2(x - target[index]), torch.fft.rfft2(eps)
            raw = (level * apart - spectrum * noise) / (spectrum + level.square())
            weight = timestep_weight(sigma, "sds").view(-1, 1, 1, 1)
            return weight * torch.fft.irfft2(raw, s=x.shape[2:])

        return residual

    def pipeline(self, scene: VoxelScene) -> Callable[[int, torch.Generator], Upstream]:
        """Renders with their residual."""

        def upstream(count: int, g: torch.Generator) -> Upstream:
            cameras = CAMERAS.sample(count, g)
            seen = scene.render(cameras, SIZE, SIZE, g)
            return Upstream(2 * seen.image - 1, self.residual(cameras))

        return upstream


@torch.no_grad()
def error(scene: VoxelScene, teacher: GaussianTeacher, views: int = 16) -> float:
    """Mean squared error of fixed views against the optimum's, which is the solid; colours in [0, 1]."""
    cameras = turntable(views)
    seen = scene.render(cameras, SIZE, 2 * SIZE).image
    return float((seen - (teacher.pictures(cameras) + 1) / 2).square().mean())


def train(
    teacher: GaussianTeacher, upstream: int, draws: int, steps: int, seed: int, every: int
) -> tuple[VoxelScene, list[float]]:
    """A field after so many steps of (R, K) iid, and its error after every few of them."""
    scene = VoxelScene(SIZE, EXTENT)
    optimiser = torch.optim.Adam(
        scene.parameter_groups(SDSOptions(density_lr=RATE, colour_lr=RATE)), betas=(0.9, 0.99), eps=1e-15
    )
    pipeline, sampler = teacher.pipeline(scene), NoiseLevelSampler(Proposal.uniform(teacher.levels.count))
    errors = []
    for step in range(steps):
        g = stream(seed, step, upstream, draws)
        sample = pipeline(upstream, g)
        drawn = sampler.draw(upstream, draws, sample.noise_shape, g)
        optimiser.zero_grad()
        carv_loss(sample, drawn, g)[0].backward()
        optimiser.step()
        if (step + 1) % every == 0:
            errors.append(error(scene, teacher))
    return scene, errors
