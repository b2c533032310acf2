"""The networks of distribution matching distillation, and what each of them descends."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from carv_distill.carv import (
    AdaptiveProposal,
    Chunk,
    Draws,
    NoiseLevelSampler,
    Proposal,
    average_residual,
    stream,
    surrogate,
)
from carv_distill.carv.estimator import Observer, Residual
from carv_distill.engine.ema import frozen_copy
from carv_distill.processes import Share
from carv_distill.teachers.bfloat16 import Bfloat16Network
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.loss import denoising_loss
from carv_distill.teachers.schedule import NoiseSchedule
from carv_distill.teachers.teacher import Teacher

from .discriminator import GANHead, discriminator_loss, generator_direction
from .options import DMDOptions
from .residual import dmd_residual


class DMDObjective(LightningModule):
    """Student, fake score and frozen teacher, with the losses of one share of an update's batch.

    All randomness is a function of (seed, share, update), whichever process works the share through.

    Args:
        teacher: frozen; student and fake score start as copies of its network.
        sampler: draws the noise levels and noises of the student's gradient.
        upstream: R, student samples of a share.
        draws: K, re-noisings of each.
        options: see :class:`DMDOptions`.
        classes: labels are drawn uniformly from 0 … classes − 1.
        seed: names the random streams.
        chunk: re-noisings per call of the frozen networks; None is all R·K, fewer where memory ends.
        guidance: classifier-free guidance of the teacher; 1 is none.
        adaptive: learns the sampler's proposal from the residuals of past updates, of all shares.
        teacher_bfloat16: keep the frozen teacher's weights in bfloat16.
        accumulate: shares that each process works through, one after the other, in an update.
    """

    def __init__(
        self,
        teacher: Teacher,
        sampler: NoiseLevelSampler,
        upstream: int,
        draws: int,
        options: DMDOptions,
        classes: int,
        seed: int,
        chunk: int | None = None,
        guidance: float = 1.0,
        adaptive: AdaptiveProposal | None = None,
        teacher_bfloat16: bool = False,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.sampler, self.upstream, self.draws, self.chunk = sampler, upstream, draws, Chunk(chunk)
        self.options, self.classes, self.seed, self.adaptive = options, classes, seed, adaptive
        self.accumulate = accumulate
        self.fake_sampler = NoiseLevelSampler(Proposal.uniform(), options.fake_strategy)
        self.schedule: NoiseSchedule = teacher.schedule
        self.scheduler_config = teacher.scheduler_config
        self.shape = (teacher.channels, teacher.size, teacher.size)
        self.teacher = teacher.guided(guidance, classes)
        precondition = teacher.denoiser.precondition
        self.student = NetworkDenoiser(teacher.network.trainable_copy(), precondition)
        self.fake = NetworkDenoiser(teacher.network.trainable_copy(), precondition)
        self.student_ema = frozen_copy(self.student)
        self.gan_head = GANHead(teacher.network.bottleneck_channels, seed) if options.gan.on else None
        if teacher_bfloat16:  # once student and fake score have their copies
            self.teacher.network = Bfloat16Network(teacher.network)
        self.latest_discriminator: Tensor | None = None
        """Its loss in the last update, of the last share; 2 ln 2 where it cannot tell."""
        # Walking a module's tree costs as much as an optimiser step of a small network: walked once.
        self._student_parameters = list(self.student.parameters())
        self._fake_parameters = [
            *self.fake.parameters(),
            *(self.gan_head.parameters() if self.gan_head is not None else ()),
        ]
        self._ema_parameters = list(self.student_ema.parameters())

    # ---------------------------------------------------------------- shares of the batch

    @property
    def world_size(self) -> int:
        """Processes that share the batch; 1 outside a trainer."""
        return self.trainer.world_size if self._trainer is not None else 1

    @property
    def shares(self) -> list[Share]:
        """What this process works through in an update."""
        return Share.of_process(self.global_rank, self.world_size, self.accumulate)

    def streams(self, share: Share, *key: int | str) -> tuple[torch.Generator, torch.Generator]:
        """(this share's stream, the stream all shares have in common) under a name."""
        own = stream(self.seed, share.index, *key, device=self.device)
        return own, stream(self.seed, "shared", *key, device=self.device)

    # ---------------------------------------------------------------- what is sampled

    def upstream_noise(self, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents z [n, C, H, W] and labels [n]."""
        dtype = self._student_parameters[0].dtype
        z = torch.randn(count, *self.shape, generator=g, device=self.device, dtype=dtype)
        return z, torch.randint(max(self.classes, 1), (count,), generator=g, device=self.device)

    def generate(self, student: NetworkDenoiser, z: Tensor, labels: Tensor) -> Tensor:
        """x = D_G(σ_max z; σ_max, y)."""
        sigma = z.new_full((z.shape[0],), self.schedule.sigma_max)
        return student(self.schedule.sigma_max * z, sigma, labels)

    @torch.no_grad()
    def student_samples(self, own: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples and labels for the fake score to learn from."""
        z, labels = self.upstream_noise(self.options.fake_batch, own)
        return self.generate(self.student, z, labels), labels

    def residual(self, labels: Tensor) -> Residual:
        """The DMD residual of student samples with these labels, for :func:`average_residual`."""

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            return dmd_residual(self.fake, self.teacher, x, self.schedule.sigma(u), eps, labels[index])

        return residual

    def pipeline(self, count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        """Student samples and their residual: the face that measures of variance take."""
        z, labels = self.upstream_noise(count, generator)
        return self.generate(self.student, z, labels), self.residual(labels)

    def sampler_at(self, step: int) -> NoiseLevelSampler:
        """The configured sampler, with the proposal that past updates taught where it is adaptive."""
        if self.adaptive is None:
            return self.sampler
        return replace(self.sampler, proposal=self.adaptive.proposal(step))

    # ---------------------------------------------------------------- the two losses

    def student_loss(
        self,
        share: Share,
        upstream: torch.Generator,
        draws: torch.Generator,
        shared: torch.Generator,
        sampler: NoiseLevelSampler,
        count: int,
        observe: Observer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(surrogate loss, direction) of R fresh samples × K = `count` draws, from the given streams.

        `observe(u, residual, index)` is told of every draw.
        """
        z, labels = self.upstream_noise(self.upstream, upstream)
        x = self.generate(self.student, z, labels)
        drawn = self._drawn(sampler, count, share, x, draws, shared)
        direction = average_residual(self.residual(labels), x, drawn, self.chunk, observe)
        if self.gan_head is not None and self.options.gan.student_weight:
            sigma, eps = self._fake_draw(share, x, draws, shared)
            pull = generator_direction(self.fake, self.gan_head, x, sigma, eps, labels)
            direction = direction + self.options.gan.student_weight * x[0].numel() * pull
        return surrogate(x, direction), direction

    def fake_loss(
        self,
        share: Share,
        x: Tensor,
        labels: Tensor,
        own: torch.Generator,
        shared: torch.Generator,
        real: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Denoising loss of the fake score on student samples, one noise level each, uniform in u; with real
        images and their labels, the discriminator's loss on top."""
        sigma, eps = self._fake_draw(share, x, own, shared)
        loss = denoising_loss(self.fake, x, sigma, eps, labels)
        if self.gan_head is None or real is None:
            return loss
        images, real_labels = real
        levels = [self._fake_draw(share, seen, own, shared) for seen in (x, images)]
        logits = (
            self.gan_head.logits(self.fake, seen, *level, cond)
            for seen, level, cond in zip((x, images), levels, (labels, real_labels), strict=True)
        )
        told_apart = discriminator_loss(*logits)
        self.latest_discriminator = told_apart.detach()
        return loss + self.options.gan.fake_weight * told_apart

    def _fake_draw(
        self, share: Share, x: Tensor, own: torch.Generator, shared: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(σ [n], ε [n, …]) for pictures that are noised once each."""
        drawn = self._drawn(self.fake_sampler, 1, share, x, own, shared)
        return self.schedule.sigma(drawn.u[:, 0]), drawn.eps[:, 0]

    def _drawn(
        self,
        sampler: NoiseLevelSampler,
        count: int,
        share: Share,
        x: Tensor,
        own: torch.Generator,
        shared: torch.Generator,
    ) -> Draws:
        """A share's `count` draws of each x, dealt out over all shares."""
        return sampler.draw(
            len(x), count, self.shape, own, share.index, share.count, shared=shared, dtype=x.dtype
        )

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The trainer's precision, outside of `training_step` too."""
        if self._trainer is None:
            return contextlib.nullcontext()
        return self.trainer.precision_plugin.forward_context()
