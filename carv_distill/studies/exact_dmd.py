"""Distribution matching with everything known: a Gaussian teacher and a student whose density is Gaussian.

    data      N(μ, diag s²)                       teacher D_T exact
    student   x = a ⊙ z + b,  z ~ N(0, I)         so x ~ N(b, diag a²), whatever a and b
    fake      exact: the denoiser of N(b, diag a²); learned: that of N(m, diag v), both trained

The learned fake score has the right form, so all of its error is lag and noise, none of it is capacity. With
the exact one as control, the error of the student's gradient splits into a Monte-Carlo part and a part that
comes from the fake score; with the exact one as trainer, only the Monte-Carlo part is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from carv_distill.carv import NoiseLevelSampler, PairedVariance, Proposal, average_residual, stream
from carv_distill.carv.estimator import Residual
from carv_distill.diffusion import EDMSchedule
from carv_distill.diffusion.denoiser import Denoiser
from carv_distill.diffusion.exact import GaussianDenoiser
from carv_distill.dmd.losses import dmd_residual

SCHEDULE = EDMSchedule(0.02, 20.0)
DIM = 8


class LearnedGaussian(Denoiser):
    """The denoiser of N(m, diag v) with m and log v as parameters."""

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(mean.clone())
        self.log_variance = torch.nn.Parameter(variance.log())

    def forward(self, x_t: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        v, level2 = self.log_variance.exp(), sigma.view(-1, 1).square()
        return (level2 * self.mean + v * x_t) / (v + level2)


@dataclass(frozen=True)
class ExactArm:
    """An estimator of the student's gradient and the fake score it meets."""

    name: str
    upstream: int
    draws: int
    strategy: str
    fake_updates: int
    """Of the learned fake score before each student update; 0 takes the exact one."""

    @property
    def sampler(self) -> NoiseLevelSampler:
        """Of the student's noise levels."""
        return NoiseLevelSampler(Proposal.uniform(), self.strategy)


@dataclass(frozen=True)
class Errors:
    """Parts of the student's gradient error at one moment of the training, squared norms."""

    gradient: float
    """‖g*‖² of the exact gradient g*, with the exact fake score."""
    monte_carlo: float
    """tr Cov ĝ of the arm's estimator, with the fake score that it meets."""
    fake: float
    """‖E ĝ − g*‖², what the fake score's error makes of it; without bias, it may fall below zero."""


class ExactDMD:
    """One training run; everything random is a function of (seed, update).

    Args:
        arm: see :class:`ExactArm`.
        seed: names the streams and the teacher's spectrum.
        student_lr, fake_lr: of Adam with β = (0, 0.99), as in the main job.
        fake_batch: student samples per fake-score update.
    """

    def __init__(
        self, arm: ExactArm, seed: int, student_lr: float = 0.01, fake_lr: float = 0.02, fake_batch: int = 48
    ) -> None:
        self.arm, self.seed, self.fake_batch = arm, seed, fake_batch
        self.mean = torch.randn(DIM, generator=stream(seed, "mean"), dtype=torch.float64)
        self.scale = torch.logspace(-1, 0, DIM, dtype=torch.float64)
        self.teacher = GaussianDenoiser(self.mean, self.scale.square())
        self.b = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
        self.a = torch.ones(DIM, dtype=torch.float64, requires_grad=True)
        self.fake = LearnedGaussian(self.b.detach(), self.a.detach().square())
        self.student_optimizer = Adam([self.a, self.b], student_lr, (0.0, 0.99))
        self.fake_optimizer = Adam(self.fake.parameters(), fake_lr, (0.0, 0.99))
        self.updates = 0

    @property
    def distance(self) -> float:
        """Squared Wasserstein distance of student and data, |b − μ|² + ||a| − s|²: Fréchet's."""
        with torch.no_grad():
            return float((self.b - self.mean).square().sum() + (self.a.abs() - self.scale).square().sum())

    def exact_fake(self) -> Denoiser:
        """The denoiser of the student's own density."""
        return GaussianDenoiser(self.b.detach().clone(), self.a.detach().square())

    def residual(self, fake: Denoiser) -> Residual:
        """The DMD residual with this fake score."""

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            return dmd_residual(fake, self.teacher, x, SCHEDULE.sigma(u), eps, None)

        return residual

    def samples(self, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents z and samples x = a ⊙ z + b, [count, DIM], without a graph."""
        z = torch.randn(count, DIM, generator=g, dtype=torch.float64)
        return z, (self.a * z + self.b).detach()

    def gradient(
        self,
        fake: Denoiser,
        sampler: NoiseLevelSampler,
        r: int,
        k: int,
        up: torch.Generator,
        g: torch.Generator,
    ) -> Tensor:
        """One estimate of the gradient by (a, b), [2, DIM]: the mean of (d ⊙ z, d) over samples."""
        z, x = self.samples(r, up)
        d = average_residual(self.residual(fake), x, sampler.draw(r, k, (DIM,), g, dtype=x.dtype))
        return torch.stack([(d * z).mean(0), d.mean(0)])

    def fake_loss(self, x: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
        """EDM's denoising loss, weight (σ² + σ_d²)/(σ σ_d)², of the learned fake score; σ_d = 1/2."""
        error = self.fake(x + sigma[:, None] * eps, sigma) - x
        weight = (sigma.square() + 0.25) / (0.5 * sigma).square()
        return (weight[:, None] * error.square()).mean()

    def update(self) -> None:
        """The fake score's updates, then one of the student."""
        n = self.updates
        if self.arm.fake_updates:
            _, x = self.samples(self.fake_batch, stream(self.seed, n, "samples"))
            levels = NoiseLevelSampler(Proposal.uniform(), "global")
            for i in range(self.arm.fake_updates):
                drawn = levels.draw(len(x), 1, (DIM,), stream(self.seed, n, "fake", i), dtype=x.dtype)
                loss = self.fake_loss(x, SCHEDULE.sigma(drawn.u[:, 0]), drawn.eps[:, 0])
                self.fake_optimizer.zero_grad()
                loss.backward()
                self.fake_optimizer.step()
        own = stream(self.seed, n, "student")
        arm = self.arm
        self.a.grad, self.b.grad = self.gradient(self.met(), arm.sampler, arm.upstream, arm.draws, own, own)
        self.student_optimizer.step()
        self.updates += 1

    def met(self) -> Denoiser:
        """The fake score that the student's gradient meets."""
        return self.fake if self.arm.fake_updates else self.exact_fake()

    def errors(self, pairs: int = 32, samples: int = 1024) -> Errors:
        """The parts of the gradient's error now.

        Exact and met fake score are compared on one large sample, half by half, and a squared norm is the
        inner product of two independent halves, so no Monte-Carlo error adds to it.
        """
        arm, variance = self.arm, PairedVariance()
        for pair in range(pairs):
            variance.update(
                *(
                    self.gradient(
                        self.met(),
                        arm.sampler,
                        arm.upstream,
                        arm.draws,
                        stream(self.seed, self.updates, "pair", pair),
                        stream(self.seed, self.updates, "pair", pair, half),
                    )
                    for half in range(2)
                )
            )
        fine = NoiseLevelSampler(Proposal.uniform(), "stratified")
        halves = []
        for half in range(2):
            exact, met = (
                self.gradient(
                    fake, fine, samples, 16, *(stream(self.seed, self.updates, name, half) for name in "xu")
                )
                for fake in (self.exact_fake(), self.met())
            )
            halves.append((exact, met - exact))
        (g1, f1), (g2, f2) = halves
        return Errors(float((g1 * g2).sum()), variance.total().value, float((f1 * f2).sum()))
