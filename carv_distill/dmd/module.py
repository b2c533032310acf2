"""One-step distillation as a LightningModule: what happens in one student update."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import AdamW, Optimizer

from carv_distill.carv import (
    AdaptiveProposal,
    NoiseLevelSampler,
    Proposal,
    average_residual,
    stream,
    surrogate,
)
from carv_distill.carv.estimator import Observer, Residual, observed
from carv_distill.diffusion import NetworkDenoiser, NoiseSchedule, Teacher
from carv_distill.diffusion.ema import ema_update, frozen_copy
from carv_distill.diffusion.loss import denoising_loss
from carv_distill.diffusion.network import RawNetwork
from carv_distill.options.dmd import DMDOptions
from carv_distill.parallel import average_over_ranks, gather_over_ranks, unsynchronised

from .card import student_card
from .export import save_student
from .losses import dmd_residual
from .vector import ParameterVector


class DMDModule(LightningModule):
    """Distribution matching distillation with the CARV estimator.

    One `training_step` is one student update: first `fake_updates_per_student` updates of the fake score
    on student samples, then one update of the student by

        g = 1/R Σ_r ∂x_r/∂θᵀ 1/K Σ_k ω_rk r(x_r, u_rk, ε_rk),   x_r = D_G(σ_max z_r; σ_max, y_r).

    Only the student's optimiser counts in Lightning's `global_step`, so that step and student update are
    one thing. All randomness is a function of (seed, rank, student update).

    Args:
        teacher: frozen; student and fake score start as copies of its network.
        sampler: draws the noise levels and noises of the student's gradient.
        upstream: R, student samples per update and process.
        draws: K, re-noisings of each.
        chunk: re-noisings per call of the frozen networks; None is all R·K.
        options: see :class:`DMDOptions`.
        classes: labels are drawn uniformly from 0 … classes − 1.
        guidance: classifier-free guidance of the teacher; 1 is none.
        seed: names the random streams.
        adaptive: learns the sampler's proposal from the residuals of past updates, of all processes.
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
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.sampler, self.upstream, self.draws, self.chunk = sampler, upstream, draws, chunk
        self.options, self.classes, self.seed, self.adaptive = options, classes, seed, adaptive
        self.fake_sampler = NoiseLevelSampler(Proposal.uniform(), options.fake_strategy)
        self.schedule: NoiseSchedule = teacher.schedule
        self.scheduler_config = teacher.scheduler_config
        self.shape = (teacher.channels, teacher.size, teacher.size)
        self.teacher = teacher.guided(guidance, classes)
        precondition = teacher.denoiser.precondition
        self.student = NetworkDenoiser(teacher.network.trainable_copy(), precondition)
        self.fake = NetworkDenoiser(teacher.network.trainable_copy(), precondition)
        self.student_ema = frozen_copy(self.student)
        # Walking a module's tree costs as much as an optimiser step of a small network: walked once.
        self._student_parameters = list(self.student.parameters())
        self._fake_parameters = list(self.fake.parameters())
        self._ema_parameters = list(self.student_ema.parameters())
        self.register_buffer("clipped", torch.zeros((), dtype=torch.long))
        self.latest_losses: dict[str, Tensor] = {}
        """What the last update saw of each network, on the device: for the log and the watch on NaN."""

    clipped: Tensor

    # ---------------------------------------------------------------- what is sampled

    def upstream_noise(self, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents z [n, C, H, W] and labels [n]."""
        dtype = self._student_parameters[0].dtype
        z = torch.randn(count, *self.shape, generator=g, device=self.device, dtype=dtype)
        return z, torch.randint(self.classes, (count,), generator=g, device=self.device)

    def generate(self, student: NetworkDenoiser, z: Tensor, labels: Tensor) -> Tensor:
        """x = D_G(σ_max z; σ_max, y)."""
        sigma = z.new_full((z.shape[0],), self.schedule.sigma_max)
        return student(self.schedule.sigma_max * z, sigma, labels)

    def residual(self, labels: Tensor) -> Residual:
        """The DMD residual of student samples with these labels, for :func:`average_residual`."""

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            return dmd_residual(self.fake, self.teacher, x, self.schedule.sigma(u), eps, labels[index])

        return residual

    def pipeline(self, count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        """Student samples and their residual: the face that measures of variance take."""
        z, labels = self.upstream_noise(count, generator)
        return self.generate(self.student, z, labels), self.residual(labels)

    def streams(self, *key: int | str) -> tuple[torch.Generator, torch.Generator]:
        """(this rank's stream, the stream all ranks share) under a name."""
        own = stream(self.seed, self.global_rank, *key, device=self.device)
        return own, stream(self.seed, "shared", *key, device=self.device)

    # ---------------------------------------------------------------- the two losses

    def sampler_at(self, step: int) -> NoiseLevelSampler:
        """The configured sampler, with the proposal that past updates taught where it is adaptive."""
        if self.adaptive is None:
            return self.sampler
        return replace(self.sampler, proposal=self.adaptive.proposal(step))

    def student_loss(
        self,
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
        x, residual = self.pipeline(self.upstream, upstream)
        drawn = sampler.draw(
            self.upstream,
            count,
            self.shape,
            generator=draws,
            rank=self.global_rank,
            world_size=self.world_size,
            shared=shared,
            dtype=x.dtype,
        )
        direction = average_residual(observed(residual, observe), x, drawn, self.chunk)
        return surrogate(x, direction), direction

    @torch.no_grad()
    def student_samples(self, own: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples and labels for the fake score to learn from."""
        z, labels = self.upstream_noise(self.options.fake_batch, own)
        return self.generate(self.student, z, labels), labels

    def fake_loss(self, x: Tensor, labels: Tensor, own: torch.Generator, shared: torch.Generator) -> Tensor:
        """Denoising loss of the fake score on student samples, one noise level each, uniform in u."""
        drawn = self.fake_sampler.draw(
            len(x),
            1,
            self.shape,
            generator=own,
            rank=self.global_rank,
            world_size=self.world_size,
            shared=shared,
            dtype=x.dtype,
        )
        return denoising_loss(self.fake, x, self.schedule.sigma(drawn.u[:, 0]), drawn.eps[:, 0], labels)

    # ---------------------------------------------------------------- one student update

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        # Raw optimiser for the fake score: only LightningOptimizer's steps count in global_step.
        fake_optimizer = cast(list[Optimizer], self.optimizers(use_pl_optimizer=False))[1]
        student_optimizer = cast(list[LightningOptimizer], self.optimizers())[0]
        self._set_learning_rates(fake_optimizer, student_optimizer)
        losses = []
        for i in range(self.options.fake_updates_per_student):
            if i == 0 or not self.options.fake_reuse:
                samples = self.student_samples(self.streams(step, "samples", i)[0])
            losses.append(self.fake_update(fake_optimizer, step, i, *samples))
        student = self.student_update(student_optimizer, step)
        self.latest_losses = {"fake": torch.stack(losses).mean(), "student": student}

    def _set_learning_rates(self, fake: Optimizer, student: LightningOptimizer) -> None:
        o = self.options
        if o.lr_decay == "none":
            return
        decay = (1 + math.cos(math.pi * self.global_step / self.trainer.max_steps)) / 2
        student.param_groups[0]["lr"] = decay * o.student_lr
        if o.lr_decay == "both":
            fake.param_groups[0]["lr"] = decay * o.fake_lr

    def fake_update(self, optimizer: Optimizer, step: int, i: int, x: Tensor, labels: Tensor) -> Tensor:
        """One fake-score update on these student samples; returns its loss."""
        own, shared = self.streams(step, "fake", i)
        loss = self.fake_loss(x, labels, own, shared)
        self._descend(optimizer, loss, self.fake_vector)
        return loss.detach()

    def student_update(self, optimizer: LightningOptimizer, step: int) -> Tensor:
        """One student update and its EMA; returns the mean norm of the direction."""
        own, shared = self.streams(step, "student")
        loss, direction = self.student_loss(
            own, own, shared, self.sampler_at(step), self.draws, self._observer(step)
        )
        self._descend(optimizer, loss, self.student_vector, self.options.clip_norm)
        ema_update([self.ema_vector.theta], [self.student_vector.theta], self.options.ema, step)
        return direction.flatten(1).norm(dim=1).mean()

    def _observer(self, step: int) -> Observer | None:
        if self.adaptive is None:
            return None
        learner = self.adaptive

        def observe(u: Tensor, residual: Tensor, index: Tensor) -> None:
            rows = learner.rows(u, residual, index)
            learner.add(step, gather_over_ranks(rows, self.world_size))

        return observe

    def _descend(
        self, optimizer: Any, loss: Tensor, vector: ParameterVector, clip_norm: float | None = None
    ) -> None:
        with unsynchronised(self.trainer.strategy):
            self.manual_backward(loss)
        average_over_ranks(vector.collect_gradient(), self.world_size)
        if clip_norm is not None:
            self.clipped += torch.nn.utils.clip_grad_norm_(vector.theta, clip_norm) > clip_norm
        optimizer.step()

    def metrics(self) -> dict[str, Tensor]:
        """What is worth a row in the log after an update, as this process saw it; tensors on the device.

        The norm is that of the gradient as it was applied, after clipping where there is any.
        """
        gradient = self.student_vector.theta.grad
        assert gradient is not None
        values = {
            "loss/fake": self.latest_losses["fake"],
            "student/direction_norm": self.latest_losses["student"],
            "student/grad_norm": torch.linalg.vector_norm(gradient),
        }
        if self.options.clip_norm is not None:
            values["student/clipped_updates"] = self.clipped
        return values

    def sample(self, z: Tensor, labels: Tensor) -> Tensor:
        """One-step samples of the student's average, in [−1, 1] up to its error."""
        return self.generate(self.student_ema, z.to(self._ema_parameters[0].dtype), labels)

    def save(self, folder: Path, figures: Mapping[str, str | float] | None = None) -> None:
        """The student's average as a diffusers pipeline.

        Args:
            figures: the run's numbers for the model card, beside those that the module knows.
        """
        known: dict[str, str | float] = {
            "updates": self.global_step,
            "R": self.upstream,
            "K": self.draws,
            "strategy": self.sampler.strategy,
        }
        network = cast(RawNetwork, self.student_ema.network)
        card = student_card(network, known | dict(figures or {}))
        save_student(folder, network, self.scheduler_config, card)

    # ---------------------------------------------------------------- Lightning's wiring

    @property
    def world_size(self) -> int:
        """Processes that share the batch; 1 outside a trainer."""
        return self.trainer.world_size if self._trainer is not None else 1

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """The trainer's precision, outside of `training_step` too."""
        if self._trainer is None:
            return contextlib.nullcontext()
        return self.trainer.precision_plugin.forward_context()

    def train_dataloader(self) -> Iterator[int]:
        """Nothing to load: a student update draws what it needs from its own streams."""
        return repeat(0)

    def configure_optimizers(self) -> list[Optimizer]:
        """Called once the networks are where they will be trained: their parameters become vectors."""
        o = self.options
        self.student_vector = ParameterVector(self._student_parameters)
        self.fake_vector = ParameterVector(self._fake_parameters)
        self.ema_vector = ParameterVector(self._ema_parameters)
        return [
            AdamW([vector.theta], lr, (o.beta1, o.beta2), weight_decay=o.weight_decay, fused=True)
            for vector, lr in ((self.student_vector, o.student_lr), (self.fake_vector, o.fake_lr))
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The frozen teacher stays out of the checkpoint: it has a folder of its own."""
        state: Mapping[str, Tensor] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("teacher.")}
        if self.adaptive is not None:
            checkpoint["adaptive"] = self.adaptive.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        expected = {k for k in self.state_dict() if not k.startswith("teacher.")}
        if found := expected ^ set(checkpoint["state_dict"]):
            raise RuntimeError(f"the checkpoint's networks differ from this run's, first at {min(found)}")
        if self.adaptive is not None:
            self.adaptive.load_state_dict(checkpoint["adaptive"], self.device)
