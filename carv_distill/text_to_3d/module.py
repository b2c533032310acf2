"""Text-to-3D as a LightningModule: what happens in one step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Adam

from carv_distill.carv import (
    AdaptiveProposal,
    Chunk,
    Draws,
    Lessons,
    NoiseCoefficient,
    NoiseLevelSampler,
    average_residual,
    stream,
    surrogate,
)
from carv_distill.carv.estimator import Residual
from carv_distill.geometry.camera import VIEWS, Cameras, CameraSampler
from carv_distill.processes import average_over_ranks, gather_over_ranks, unsynchronised
from carv_distill.teachers.text import TextTeacher
from carv_distill.variance import StageTimer

from .export import save_scene
from .fields import Scene
from .guidance import Guidance, TimestepRange, clip_norm
from .levels import AnnealedSampler, Estimator
from .options import SceneOptions, SDSOptions
from .rendering import Rendered


class SDSModule(LightningModule):
    """Score distillation of a text-to-image teacher into a radiance field, with the CARV estimator.

    One `training_step` is one step of the field's optimiser by

        g = 1/R Σ_r ∂x_r/∂θᵀ 1/K Σ_k ω_rk w(t_rk) (ε̂(x_rk) − c ε_rk) + ∂(regularisers)/∂θ,

    with x_r what the teacher denoises of a render from a random camera: its latents, or its pixels.
    Renders pass through with their graph `renders_at_once` at a time. All randomness is a function of
    (seed, rank, step). What is learned from past draws, an adaptive proposal and the multiple c of ε, is
    learned from those of all processes, and so is the same on each.

    Args:
        teacher: frozen; its prompts are encoded here, then its text model is let go.
        scene: the field to learn.
        cameras: where it is seen from.
        estimator: see :class:`Estimator`.
        view: how a render is made.
        options: see :class:`SDSOptions`.
        max_steps: over which noise levels are annealed.
        seed: names the random streams.
        adaptive: learns the proposal from the residuals of past steps, on bins of all the timesteps.
    """

    def __init__(
        self,
        teacher: TextTeacher,
        scene: Scene,
        cameras: CameraSampler,
        estimator: Estimator,
        view: SceneOptions,
        options: SDSOptions,
        max_steps: int,
        seed: int,
        adaptive: AdaptiveProposal | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.scene, self.camera_sampler, self.view, self.options = scene, cameras, view, options
        self.estimator, self.seed, self.teacher = estimator, seed, teacher
        self.annealed = AnnealedSampler(teacher.schedule, estimator, options, max_steps, adaptive)
        self.denoiser = teacher.guided(options.guidance, options.negative_prompt)
        suffixes = [f", {view} view" if options.view_prompts else "" for view in VIEWS]
        prompts = teacher.prompts([options.prompt + suffix for suffix in suffixes])
        teacher.prompts.release()
        self.register_buffer("prompts", prompts, persistent=False)
        self.coefficient = NoiseCoefficient() if options.coefficient == "learned" else None
        self.lessons = Lessons()
        self.chunk = Chunk(estimator.chunk)
        self.latest_losses: dict[str, Tensor] = {}
        self.latest_opacity = torch.zeros(())
        self.step_measured: int | None = None
        """The step whose noise levels apply where there is no trainer."""

    prompts: Tensor

    # ---------------------------------------------------------------- noise levels

    @property
    def present(self) -> int:
        """The step that is being made."""
        if self.step_measured is not None:
            return self.step_measured
        return self.global_step if self._trainer is not None else 0

    def levels(self, step: int) -> TimestepRange:
        """The timesteps of a step."""
        return self.annealed.levels(step)

    def sampler_at(self, step: int) -> NoiseLevelSampler:
        """The sampler of a step, with the proposal that past steps taught where it is adaptive."""
        return self.annealed.at(step)

    @property
    def adaptive(self) -> AdaptiveProposal | None:
        """What learns the proposal, if anything does."""
        return self.annealed.adaptive

    # ---------------------------------------------------------------- what is seen

    def cameras(self, count: int, g: torch.Generator) -> Cameras:
        """Random cameras, of the field's type."""
        return self.camera_sampler.sample(count, g, next(self.scene.parameters()).dtype)

    def rendered(self, cameras: Cameras, g: torch.Generator) -> Rendered:
        """Renders with a graph to the field."""
        v = self.view
        return self.scene.render(cameras, v.size, v.samples, g, v.background)

    def encoded(self, seen: Rendered, g: torch.Generator) -> Tensor:
        """x of renders, [n, C, s, s], with the graph."""
        image = 2 * seen.image - 1
        if self.view.upsample:
            side = self.teacher.image_size
            image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
        return self.teacher.encode(image, g)

    def conditions(self, cameras: Cameras) -> Tensor:
        """The prompt's embedding for each view, [n, L, D]."""
        return self.prompts.index_select(0, cameras.view_index())

    def residual(self, cond: Tensor, step: int, learn: bool = False) -> Residual:
        """The SDS residual of pictures with these conditions, for :func:`average_residual`."""
        levels, weighting = self.levels(step), self.options.weighting
        guidance = Guidance(self.denoiser, levels, weighting, self.coefficient, self.lessons)

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            return guidance.residual(x, u, eps, cond[index], step, learn)

        return residual

    def pipeline(self, count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        """x of renders and their residual: the face that measures of variance take."""
        cameras = self.cameras(count, generator)
        x = self.encoded(self.rendered(cameras, generator), generator)
        return x, self.residual(self.conditions(cameras), self.present)

    # ---------------------------------------------------------------- one step

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step, optimizer = self.global_step, self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        norms, opacities = [], []
        for loss, direction, seen in self.share(step):
            with unsynchronised(self.trainer.strategy):
                self.manual_backward(loss)
            norms.append(direction.flatten(1).norm(dim=1))
            opacities.append(seen.opacity.detach().mean())
        for p in self.scene.parameters():
            if p.grad is not None:
                average_over_ranks(p.grad, self.world_size)
        optimizer.step()  # type: ignore[union-attr]
        self.lessons.teach(step, self.gather)
        self.latest_losses = {"scene": torch.cat(norms).mean()}
        self.latest_opacity = torch.stack(opacities).mean()

    def share(self, step: int) -> Iterator[tuple[Tensor, Tensor, Rendered]]:
        """This process's share of a step, `renders_at_once` renders at a time: (loss, direction, renders) of
        each part. Its losses add up to that of the share; the step's is the mean over processes."""
        e = self.estimator
        own, shared = self.streams(step)
        cameras = self.cameras(e.upstream, own)
        sampler, ranks = self.sampler_at(step), (self.global_rank, self.world_size)
        shape, dtype = self.teacher.shape, cameras.azimuth.dtype
        drawn = sampler.draw(e.upstream, e.draws, shape, own, *ranks, shared, dtype)
        for start in range(0, e.upstream, self.options.renders_at_once):
            part = slice(start, start + self.options.renders_at_once)
            loss, direction, seen = self._part(cameras[part], drawn[part], own, step)
            yield loss * (direction.shape[0] / e.upstream), direction, seen

    def _part(
        self, cameras: Cameras, drawn: Draws, g: torch.Generator, step: int
    ) -> tuple[Tensor, Tensor, Rendered]:
        """(loss, direction, renders) of some of a step's renders."""
        seen = self.rendered(cameras, g)
        x = self.encoded(seen, g)
        residual = self.residual(self.conditions(cameras), step, learn=True)
        observe = self.annealed.observer(step, self.lessons)
        direction = average_residual(residual, x, drawn, self.chunk, observe)
        if self.options.clip_direction is not None:
            direction = clip_norm(direction, self.options.clip_direction)
        return surrogate(x, direction) + self.regulariser(seen), direction, seen

    def regulariser(self, seen: Rendered) -> Tensor:
        """Sparsity √(o² + 0.01), entropy of the opacity o, roughness of the density."""
        o = self.options
        loss = o.sparsity * (seen.opacity.square() + 0.01).sqrt().mean()
        if o.opaque:
            p = seen.opacity.clamp(1e-3, 1 - 1e-3)
            # Written out: autocast refuses binary_cross_entropy.
            loss = loss - o.opaque * (p * p.log() + (1 - p) * (-p).log1p()).mean()
        if o.smoothness:
            loss = loss + o.smoothness * self.scene.roughness()
        return loss

    def metrics(self) -> dict[str, Tensor]:
        """What is worth a row in the log after a step; tensors on the device."""
        gradients = [p.grad for p in self.scene.parameters() if p.grad is not None]
        return {
            "scene/direction_norm": self.latest_losses["scene"],
            "scene/grad_norm": torch.nn.utils.get_total_norm(gradients),
            "scene/opacity": self.latest_opacity,
        }

    # ---------------------------------------------------------------- measuring

    @property
    def measured_parameters(self) -> list[Tensor]:
        """What the gradient is taken by."""
        return list(self.scene.parameters())

    @property
    def sampler(self) -> NoiseLevelSampler:
        """The configured sampler at the present step, without what an adaptive proposal has learned."""
        return self.annealed.configured(self.present)

    @property
    def upstream(self) -> int:
        """R."""
        return self.estimator.upstream

    @property
    def draws(self) -> int:
        """K."""
        return self.estimator.draws

    def time_other(self, timer: StageTimer, repeats: int = 10) -> None:
        """Times the optimiser's step as the stage ``other``, at learning rates of zero: the field stays."""
        optimizer = self.configure_optimizers()
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        for p in self.scene.parameters():
            p.grad = torch.zeros_like(p)
        for number in range(repeats + 1):
            counted = timer if number else StageTimer(self.device)
            with counted.stage("other"):
                optimizer.step()
        for p in self.scene.parameters():
            p.grad = None

    def save(self, folder: Path) -> None:
        """The field, with what is needed to see it again."""
        save_scene(folder, self.scene, self.view, self.options.prompt, self.present)

    # ---------------------------------------------------------------- Lightning's wiring

    def streams(self, *key: int | str) -> tuple[torch.Generator, torch.Generator]:
        """(this rank's stream, the stream all ranks share) under a name."""
        own = stream(self.seed, self.global_rank, "sds", *key, device=self.device)
        return own, stream(self.seed, "shared", "sds", *key, device=self.device)

    @property
    def world_size(self) -> int:
        """Processes that share the batch; 1 outside a trainer."""
        return self.trainer.world_size if self._trainer is not None else 1

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, joined along the first axis."""
        return gather_over_ranks(rows, self.world_size)

    def train_dataloader(self) -> Iterator[int]:
        """Nothing to load: a step draws what it needs from its own streams."""
        return repeat(0)

    def configure_optimizers(self) -> Adam:
        groups = self.scene.parameter_groups(self.options)
        return Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The field alone: the frozen teacher has a folder of its own."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k.startswith("scene.")}
        for name, learned in self._learned().items():
            checkpoint[name] = learned.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        expected = {k for k in self.state_dict() if k.startswith("scene.")}
        if found := expected ^ set(checkpoint["state_dict"]):
            raise RuntimeError(f"the checkpoint's field differs from this run's, first at {min(found)}")
        for name, learned in self._learned().items():
            learned.load_state_dict(checkpoint[name], self.device)

    def _learned(self) -> dict[str, AdaptiveProposal | NoiseCoefficient]:
        """What past draws taught, by its name in a checkpoint; the same on every process."""
        learners = {"adaptive": self.adaptive, "coefficient": self.coefficient}
        return {name: learner for name, learner in learners.items() if learner is not None}
