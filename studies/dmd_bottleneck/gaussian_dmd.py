"""Distribution matching with everything known: a Gaussian teacher and a student whose density is Gaussian.

    data      N(μ, diag s²)                       teacher D_T exact
    student   x = a ⊙ z + b,  z ~ N(0, I)         so x ~ N(b, diag a²), whatever a and b
    fake      exact: the denoiser of N(b, diag a²); learned: that of N(m, diag v), both trained

The learned fake score has the right form, so all of its error is lag and noise, none of it is capacity. With
the exact one as control, the error of the student's gradient splits into a Monte-Carlo part and a part that
comes from the fake score; with the exact one as trainer, only the Monte-Carlo part is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from carv_distill.carv import NoiseLevelSampler, Proposal, average_residual, stream
from carv_distill.carv.estimator import Residual
from carv_distill.distillation.objective import dmd_residual
from carv_distill.teachers.denoiser import Denoiser, GaussianDenoiser
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.variance import PairedVariance

SCHEDULE = EDMSchedule(0.02, 20.0)
DIM = 8


@dataclass(frozen=True)
class Estimator:
    """Of the student's gradient."""

    upstream: int
    draws: int
    strategy: str

    @property
    def name(self) -> str:
        """As "(8,16) stratified"."""
        return f"({self.upstream},{self.draws}) {self.strategy}"

    @property
    def sampler(self) -> NoiseLevelSampler:
        """Of the noise levels."""
        return NoiseLevelSampler(Proposal.uniform(), self.strategy)


class ExactDMD:
    """One training run; everything random is a function of (seed, update).

    Args:
        estimator: of the student's gradient.
        fake_updates: of the learned fake score before each student update; 0 takes the exact one.
        seed: names the streams and the teacher's spectrum.
        student_lr, fake_lr: of Adam with β = (0, 0.99), as in the main job.
        fake_batch: student samples per fake-score update.
    """

    def __init__(
        self,
        estimator: Estimator,
        fake_updates: int,
        seed: int,
        student_lr: float = 0.01,
        fake_lr: float = 0.02,
        fake_batch: int = 48,
    ) -> None:
        self.estimator, self.fake_updates, self.seed = estimator, fake_updates, seed
        self.fake_batch = fake_batch
        self.mean = torch.randn(DIM, generator=stream(seed, "mean"), dtype=torch.float64)
        self.scale = torch.logspace(-1, 0, DIM, dtype=torch.float64)
        self.teacher = GaussianDenoiser(self.mean, self.scale.square())
        self.b = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
        self.a = torch.ones(DIM, dtype=torch.float64, requires_grad=True)
        self.fake_mean = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
        self.fake_log_variance = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
        self.student_optimizer = Adam([self.a, self.b], student_lr, (0.0, 0.99))
        self.fake_optimizer = Adam([self.fake_mean, self.fake_log_variance], fake_lr, (0.0, 0.99))
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

    def gradient(self, fake: Denoiser, of: Estimator, up: torch.Generator, g: torch.Generator) -> Tensor:
        """One estimate of the gradient by (a, b), [2, DIM]: the mean of (d ⊙ z, d) over samples."""
        z, x = self.samples(of.upstream, up)
        drawn = of.sampler.draw(of.upstream, of.draws, (DIM,), g, dtype=x.dtype)
        d = average_residual(self.residual(fake), x, drawn)
        return torch.stack([(d * z).mean(0), d.mean(0)])

    def fake_loss(self, x: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
        """EDM's denoising loss, weight (σ² + σ_d²)/(σ σ_d)², of the learned fake score; σ_d = 1/2."""
        error = self.fake_score()(x + sigma[:, None] * eps, sigma) - x
        weight = (sigma.square() + 0.25) / (0.5 * sigma).square()
        return (weight[:, None] * error.square()).mean()

    def learn_fake(self) -> None:
        """The fake score's part of an update, on samples of the student as it is."""
        n = self.updates
        if not self.fake_updates:
            return
        _, x = self.samples(self.fake_batch, stream(self.seed, n, "samples"))
        levels = NoiseLevelSampler(Proposal.uniform(), "global")
        for i in range(self.fake_updates):
            drawn = levels.draw(len(x), 1, (DIM,), stream(self.seed, n, "fake", i), dtype=x.dtype)
            loss = self.fake_loss(x, SCHEDULE.sigma(drawn.u[:, 0]), drawn.eps[:, 0])
            self.fake_optimizer.zero_grad()
            loss.backward()
            self.fake_optimizer.step()

    def learn_student(self) -> None:
        """The student's part of an update, with the fake score that has just learned."""
        own = stream(self.seed, self.updates, "student")
        self.a.grad, self.b.grad = self.gradient(self.fake_score(), self.estimator, own, own)
        self.student_optimizer.step()
        self.updates += 1

    def fake_score(self) -> Denoiser:
        """The fake score that the student's gradient meets: N(m, diag v)'s denoiser, or the exact one."""
        if not self.fake_updates:
            return self.exact_fake()
        return GaussianDenoiser(self.fake_mean, self.fake_log_variance.exp())

    def errors(
        self, estimators: Sequence[Estimator], pairs: int = 32, samples: int = 1024
    ) -> dict[str, float]:
        """The parts of the gradient's error in this state, squared norms; take it before `learn_student`.

            gradient            ‖g*‖² of the exact gradient g*, with the exact fake score
            fake                ‖E ĝ − g*‖², what the fake score's error makes of it
            (R,K) strategy      tr Cov ĝ of each estimator, with the fake score that is met

        Exact and met fake score are compared on one large sample, half by half, and a squared norm is the
        inner product of two independent halves: no Monte-Carlo error adds to it, and it may fall below zero.
        """
        variances = {}
        for of in estimators:
            variance = PairedVariance()
            for pair in range(pairs):
                key = (self.seed, self.updates, "pair", pair)
                halves = (
                    self.gradient(self.fake_score(), of, stream(*key), stream(*key, half))
                    for half in range(2)
                )
                variance.update(*halves)
            variances[of.name] = variance.total().value
        fine, compared = Estimator(samples, 16, "stratified"), []
        for half in range(2):
            exact, learned = (
                self.gradient(
                    fake, fine, *(stream(self.seed, self.updates, name, half) for name in ("x", "u"))
                )
                for fake in (self.exact_fake(), self.fake_score())
            )
            compared.append((exact, learned - exact))
        (g1, f1), (g2, f2) = compared
        return {"gradient": float((g1 * g2).sum()), "fake": float((f1 * f2).sum()), **variances}
