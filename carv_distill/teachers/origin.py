"""Where a one-step generator starts."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf

from torch import Tensor

from .condition import Cond
from .denoiser import NetworkDenoiser
from .schedule import NoiseSchedule


@dataclass(frozen=True)
class Origin:
    """x = D(σ z; σ) of a one-step generator, or, with `seen`, x̂ of a network that sees z itself.

    The first is that of published generators of labelled images, whose σ is so large that the two are the
    same to a thousandth. The second is finite at σ = ∞, and what stock samplers compute.
    """

    sigma: float
    seen: bool

    @classmethod
    def of_images(cls, schedule: NoiseSchedule) -> Origin:
        """That of a generator of labelled images: at the top of its schedule, seen where that is σ = ∞."""
        return cls(schedule.sigma_max, seen=isinf(schedule.sigma_max))

    def __call__(self, student: NetworkDenoiser, z: Tensor, cond: Cond) -> Tensor:
        """x of noise z [n, …]."""
        sigma = z.new_full((z.shape[0],), self.sigma)
        return student.of_noise(z, sigma, cond) if self.seen else student(self.sigma * z, sigma, cond)
