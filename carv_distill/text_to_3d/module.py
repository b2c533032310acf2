"""Text-to-3D as a LightningModule: what happens in one step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from carv_distill.carv import Chunk, StepStatistics, carv_loss
from carv_distill.engine.estimator import EstimatedModule, observer
from carv_distill.engine.skips import StepSkips
from carv_distill.processes import average_over_ranks, unsynchronised

from .objective import SDSObjective
from .rendering import Rendered
from .scene_files import save_scene
from .scenes import DensityControl, Scene
from .schedules import value_at

ADVICE = "use teacher.precision=float32, a lower sds.guidance or smaller rates"


class SDSModule(EstimatedModule):
    """Score distillation of a text-to-image teacher into a scene, with the CARV estimator.

    One `training_step` is one step of the scene's optimiser by the gradient of :class:`SDSObjective`,
    averaged over processes. Renders pass through with their graph `renders_at_once` at a time. All
    randomness is a function of (seed, rank, step).

    A draw that is not finite is left out of its render's average, a step without a finite draw or gradient
    leaves scene and optimiser as they are, and too many of these in a row end the run.

    Args:
        objective: what is descended.
        seed: names the random streams.
    """

    def __init__(self, *, objective: SDSObjective, seed: int) -> None:
        frozen = ("objective.teacher.", "objective.denoiser.")
        adaptive, coefficient = objective.levels.adaptive, objective.coefficient
        super().__init__(seed, frozen, {"adaptive": adaptive, "coefficient": coefficient})
        self.statistics = StepStatistics(finite=True)
        self.skips = StepSkips(objective.options.max_skips, ADVICE)
        self.objective = objective
        self.estimator = objective.levels.estimator
        self.chunk = Chunk(self.estimator.chunk)
        self.density_control = DensityControl.of(objective.scene, objective.view.gaussians.densify)
        self.latest_opacity = torch.zeros(())
        self.latest_gradients: list[Tensor] = []

    @property
    def scene(self) -> Scene:
        """What learns."""
        return self.objective.scene

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step, optimizer = self.global_step, self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.latest_gradients, norms, opacities = [], [], []
        for loss, direction, seen in self.share(step):
            if self.density_control is not None:
                self.density_control.watch(seen, self.estimator.upstream)
            with unsynchronised(self.trainer.strategy):
                self.manual_backward(loss)
            norms.append(direction.flatten(1).norm(dim=1))
            opacities.append(seen.opacity.detach().mean())
        gradients = [p.grad for p in self.scene.parameters() if p.grad is not None]
        for gradient in gradients:
            average_over_ranks(gradient, self.world_size)
        skip = self.skips.skip(self.objective.finite, gradients, self.world_size)
        self.set_learning_rates(optimizer.param_groups, step)  # type: ignore[union-attr]
        # A fused optimiser's step with this at 1 changes nothing; the host need not know.
        optimizer.optimizer.found_inf = skip  # type: ignore[union-attr]
        optimizer.step()  # type: ignore[union-attr]
        if self.density_control is not None:
            _, shared = self.streams(self.global_rank, "densify", step)
            adam = optimizer.optimizer  # type: ignore[union-attr]
            self.density_control.after_step(step + 1, self.scene, adam, skip, shared, self.world_size)
        self.commit(step)
        self.latest_losses = {"scene": torch.cat(norms).mean()}
        self.latest_opacity, self.latest_gradients = torch.stack(opacities).mean(), gradients

    def share(self, step: int) -> Iterator[tuple[Tensor, Tensor, Rendered]]:
        """This process's share of a step, `renders_at_once` renders at a time: (loss, direction, renders) of
        each part. Its losses add up to that of the share; the step's is the mean over processes."""
        e, objective, levels = self.estimator, self.objective, self.objective.levels
        own, shared = self.streams(self.global_rank, "sds", step)
        cameras = objective.cameras(e.upstream, own)
        sampler, ranks = levels.sampler_at(step), (self.global_rank, self.world_size)
        observe = observer(self.statistics, levels.adaptive, levels.range_at(step).place)
        shape, dtype = objective.noise_shape, cameras.azimuth.dtype
        drawn = sampler.draw(e.upstream, e.draws, shape, own, *ranks, shared, dtype)
        at_once = objective.options.renders_at_once
        for start in range(0, e.upstream, at_once):
            part = slice(start, start + at_once)
            upstream, seen = objective.upstream(cameras[part], own, step, self.statistics)
            loss, direction = carv_loss(upstream, drawn[part], own, self.chunk, observe)
            yield loss * (direction.shape[0] / e.upstream), direction, seen

    def metrics(self) -> dict[str, Tensor]:
        return {
            "scene/direction_norm": self.latest_losses["scene"],
            "scene/grad_norm": torch.nn.utils.get_total_norm(self.latest_gradients),
            "scene/opacity": self.latest_opacity,
            **self.scene.metrics(),
            **self.skips.metrics(),
        }

    def check(self) -> None:
        self.skips.check()

    def save(self, folder: Path, step: int) -> None:
        """The scene after an update, with what is needed to see it again."""
        o = self.objective
        save_scene(folder, self.scene, o.view, o.options.prompt, step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["skips"] = self.skips.state_dict()
        if self.density_control is not None:
            checkpoint["density_control"] = self.density_control.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if "skips" in checkpoint:  # older ones have none
            self.skips.load_state_dict(checkpoint["skips"])
        if self.density_control is not None:
            self.density_control.load_state_dict(checkpoint["density_control"])

    def train_dataloader(self) -> Iterator[int]:
        """Nothing to load: a step draws what it needs from its own streams."""
        return repeat(0)

    def set_learning_rates(self, groups: list[dict[str, Any]], step: int) -> None:
        """Those of a step, in the optimiser's groups."""
        o = self.objective.options
        multiple = value_at(o.lr_multiple, step)
        for group, configured in zip(groups, self.scene.parameter_groups(o), strict=True):
            group["lr"] = configured["lr"] * multiple

    def configure_optimizers(self) -> Adam:
        groups = self.scene.parameter_groups(self.objective.options)
        return Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
