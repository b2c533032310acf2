"""One-step distillation as a LightningModule: what happens in one student update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import AdamW, Optimizer

from carv_distill.carv import Lessons
from carv_distill.carv.estimator import Observer
from carv_distill.engine.ema import ema_update, ramped
from carv_distill.processes import average_over_ranks, gather_over_ranks, unsynchronised
from carv_distill.teachers.network import RawNetwork

from .card import student_card
from .export import save_student
from .objective import DMDObjective
from .parameter_vector import ParameterVector

Samples = tuple[Tensor, Tensor]
"""Images and labels of one share."""
RealImages = Callable[[Sequence[int], int], Iterable[Samples]]
"""real(numbers of the shares, first update) → for each update the real images and labels of all these shares,
joined along the first axis."""


class DMDModule(DMDObjective):
    """Distribution matching distillation with the CARV estimator.

    One `training_step` is one student update: first `fake_updates_per_student` updates of the fake score
    on student samples, then one update of the student by

        g = 1/R Σ_r ∂x_r/∂θᵀ 1/K Σ_k ω_rk r(x_r, u_rk, ε_rk),   x_r = D_G(σ_max z_r; σ_max, y_r),

    averaged over all shares of the batch. Only the student's optimiser counts in Lightning's `global_step`,
    so that step and student update are one thing.

    Args:
        real: images for the discriminator, where there is one.
        others: as for :class:`DMDObjective`.
    """

    def __init__(self, *others: Any, real: RealImages | None = None, **more: Any) -> None:
        super().__init__(*others, **more)
        self.automatic_optimization = False
        self.strict_loading = False
        self.real = real
        self.lessons = Lessons()
        self.register_buffer("clipped", torch.zeros((), dtype=torch.long))
        self.latest_losses: dict[str, Tensor] = {}
        """What the last update saw of each network, on the device: for the log and the watch on NaN."""

    clipped: Tensor

    # ---------------------------------------------------------------- one student update

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step, o = self.global_step, self.options
        # Raw optimiser for the fake score: only LightningOptimizer's steps count in global_step.
        fake_optimizer = cast(list[Optimizer], self.optimizers(use_pl_optimizer=False))[1]
        student_optimizer = cast(list[LightningOptimizer], self.optimizers())[0]
        self._set_learning_rates(fake_optimizer, student_optimizer)
        real = self._real_parts(batch)
        losses = []
        for i in range(o.fake_updates_per_student):
            if i == 0 or not o.fake_reuse:
                made = [self.student_samples(self.streams(s, step, "samples", i)[0]) for s in self.shares]
            losses.append(self.fake_update(fake_optimizer, step, i, made, real[0 if o.fake_reuse else i]))
        student = self.student_update(student_optimizer, step)
        self.latest_losses = {"fake": torch.stack(losses).mean(), "student": student}

    def _real_parts(self, batch: Any) -> list[list[Samples | None]]:
        """Real images by fake-score update (one set where samples are reused) and share."""
        o, shares = self.options, len(self.shares)
        sets = 1 if o.fake_reuse else o.fake_updates_per_student
        if self.gan_head is None:
            return [[None] * shares] * sets
        images, labels = (t.view(shares, sets, o.fake_batch, *t.shape[1:]) for t in batch)
        return [[(images[s, i], labels[s, i]) for s in range(shares)] for i in range(sets)]

    def _set_learning_rates(self, fake: Optimizer, student: LightningOptimizer) -> None:
        o, step = self.options, self.global_step
        if o.lr_decay == "none" and not o.warmup:
            return
        warm = min(1.0, (step + 1) / max(o.warmup, 1))
        decay = (1 + math.cos(math.pi * step / self.trainer.max_steps)) / 2
        student.param_groups[0]["lr"] = warm * (1.0 if o.lr_decay == "none" else decay) * o.student_lr
        fake.param_groups[0]["lr"] = warm * (decay if o.lr_decay == "both" else 1.0) * o.fake_lr

    def fake_update(
        self,
        optimizer: Optimizer,
        step: int,
        i: int,
        made: Sequence[Samples],
        real: Sequence[Samples | None],
    ) -> Tensor:
        """One fake-score update on the student samples of each share; returns its loss."""
        losses = []
        for share, (x, labels), images in zip(self.shares, made, real, strict=True):
            loss = self.fake_loss(share, x, labels, *self.streams(share, step, "fake", i), images)
            self._accumulate(loss)
            losses.append(loss.detach())
        self._collect(self.fake_vector)
        optimizer.step()
        return torch.stack(losses).mean()

    def student_update(self, optimizer: LightningOptimizer, step: int) -> Tensor:
        """One student update and its EMA; returns the mean norm of the direction."""
        sampler, observe, norms = self.sampler_at(step), self._observer(), []
        for share in self.shares:
            own, shared = self.streams(share, step, "student")
            loss, direction = self.student_loss(share, own, own, shared, sampler, self.draws, observe)
            self._accumulate(loss)
            norms.append(direction.flatten(1).norm(dim=1).mean())
        self.lessons.teach(step, lambda rows: gather_over_ranks(rows, self.world_size))
        self._collect(self.student_vector)
        if (greatest := self.options.clip_norm) is not None:
            self.clipped += torch.nn.utils.clip_grad_norm_(self.student_vector.theta, greatest) > greatest
        optimizer.step()
        ema_update([self.ema_vector.theta], [self.student_vector.theta], self.ema_decay(step))
        return torch.stack(norms).mean()

    def ema_decay(self, step: int) -> float:
        """Decay of the student's average at an update: as given, or ½^(batch/half-life); ramped if so asked.

        Source: Karras et al. 2022 (EDM), appendix F.2.
        """
        o, decay = self.options, self.options.ema
        if o.ema_half_life is not None:
            decay = 0.5 ** (self.upstream * self.shares[0].count / (1000 * o.ema_half_life))
        return ramped(decay, step) if o.ema_ramp else decay

    def _observer(self) -> Observer | None:
        if self.adaptive is None:
            return None
        learner = self.adaptive

        def observe(u: Tensor, residual: Tensor, index: Tensor) -> None:
            self.lessons.keep(learner, learner.rows(u, residual, index))

        return observe

    def _accumulate(self, loss: Tensor) -> None:
        """Adds one share's part of the mean over this process's shares to the gradients."""
        with unsynchronised(self.trainer.strategy):
            self.manual_backward(loss / self.accumulate)

    def _collect(self, vector: ParameterVector) -> None:
        average_over_ranks(vector.collect_gradient(), self.world_size)

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
        if self.latest_discriminator is not None:
            values["loss/discriminator"] = self.latest_discriminator
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
        card = student_card(network, self.classes, known | dict(figures or {}))
        save_student(folder, network, self.scheduler_config, card)

    # ---------------------------------------------------------------- Lightning's wiring

    def train_dataloader(self) -> Iterable[Any]:
        """Real images for the discriminator; without one there is nothing to load, as an update draws what it
        needs from its own streams."""
        if self.gan_head is None:
            return cast(Iterator[int], repeat(0))
        assert self.real is not None, "a discriminator needs real images"
        return self.real([share.index for share in self.shares], self.global_step)

    def configure_optimizers(self) -> list[Optimizer]:
        """Called once the networks are where they will be trained: their parameters become vectors."""
        o = self.options
        self.student_vector = ParameterVector(self._student_parameters)
        self.fake_vector = ParameterVector(self._fake_parameters)
        self.ema_vector = ParameterVector(self._ema_parameters)
        if o.compile:
            for denoiser in (self.student, self.fake, self.teacher):
                denoiser.network.compile()
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
