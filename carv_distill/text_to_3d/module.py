"""Text-to-3D as a LightningModule: what happens in one step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Adam

from carv_distill.carv import Chunk, Draws, carv_loss
from carv_distill.engine.estimator import EstimatedModule, observer
from carv_distill.engine.optimisation import ParameterVector
from carv_distill.engine.skips import StepSkips
from carv_distill.geometry.camera import Cameras
from carv_distill.processes import average_over_ranks

from .objective import SDSObjective
from .rendering import Rendered
from .scene_files import save_scene
from .scenes import DensityControl, Scene
from .schedules import value_at

BETAS = (0.9, 0.99)
ADVICE = "use teacher.precision=float32, a lower sds.guidance or smaller rates"


class Part(NamedTuple):
    """Of a process's share of a step: renders with a graph, of which each loss has its own."""

    loss: Tensor
    """A scalar; its parts add up to that of the share, as those of `fake` do."""
    direction: Tensor
    """[n, …], averaged over draws."""
    seen: Rendered
    fake: Iterator[Tensor]
    """Parts of the fake score's loss; each is made when it is asked for, and none without one."""


class SDSModule(EstimatedModule):
    """Score distillation of a text-to-image teacher into a scene, with the CARV estimator.

    One `training_step` is one step of the scene's optimiser by the gradient of :class:`SDSObjective`,
    averaged over processes. Renders pass through with their graph `renders_at_once` at a time. Where the
    objective has a fake score, it takes a step of its own on the same renders, after the gradient by it is
    there. Only the scene's optimiser counts in Lightning's `global_step`. All randomness is a function of
    (seed, rank, step).

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
        self.skips = StepSkips(objective.options.max_skips, ADVICE)
        self.objective = objective
        self.estimator = objective.levels.estimator
        self.chunk = Chunk(self.estimator.chunk)
        self.density_control = DensityControl.of(objective.scene, objective.view.gaussians.densify)
        self.latest_opacity = torch.zeros(())
        self.latest_gradients: list[Tensor] = []
        self.latest_fake: Tensor | None = None
        """The fake score's loss in the last step. Not one of `latest_losses`, which end a run that is not
        finite: such a step is left out, and `skips` says how many may be."""
        self.fake_vector: ParameterVector | None = None
        """The fake score's weights, once they are where they will be trained."""

    @property
    def scene(self) -> Scene:
        """What learns."""
        return self.objective.scene

    def training_step(self, batch: Any, batch_idx: int) -> None:
        step, optimizer = self.global_step, self.scene_optimizer
        if self.objective.occupancy is not None:
            _, shared = self.streams(self.global_rank, "occupancy", step)
            self.objective.update_occupancy(step, shared)
        optimizer.zero_grad()
        norms, opacities, fakes = [], [], []
        for part in self.share(step):
            if self.density_control is not None:
                self.density_control.watch(part.seen, self.estimator.upstream)
            self._backward(part.loss)
            norms.append(part.direction.flatten(1).norm(dim=1))
            opacities.append(part.seen.opacity.detach().mean())
            fakes += [self._backward(loss) for loss in part.fake]
        gradients = [p.grad for p in self.objective.learned if p.grad is not None]
        for gradient in gradients:
            average_over_ranks(gradient, self.world_size)
        self.latest_gradients = list(gradients)
        if self.fake_vector is not None:
            self.fake_vector.collect_gradient()
            gradients += self.fake_vector.gradients
        skip = self.skips.skip(self.objective.finite, gradients, self.world_size)
        self.set_learning_rates(optimizer.param_groups, step)
        # A fused optimiser's step with this at 1 changes nothing; the host need not know.
        optimizer.optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.step()
        if self.density_control is not None:
            _, shared = self.streams(self.global_rank, "densify", step)
            adam = cast(Adam, optimizer.optimizer)
            self.density_control.after_step(step + 1, self.scene, adam, skip, shared, self.world_size)
        self.commit(step)
        self.latest_losses = {"scene": torch.cat(norms).mean()}
        if self.fake_vector is not None:
            self.fake_step(skip)
            entries = math.prod(self.objective.teacher.shape)
            self.latest_fake = torch.stack(fakes).sum() / entries
        self.latest_opacity = torch.stack(opacities).mean()

    def _backward(self, loss: Tensor) -> Tensor:
        self.manual_backward(loss)
        return loss.detach()

    @property
    def scene_optimizer(self) -> LightningOptimizer:
        """The one that counts steps."""
        optimizers = self.optimizers()
        return optimizers[0] if isinstance(optimizers, list) else optimizers

    def fake_step(self, skip: Tensor) -> None:
        """The fake score's step by the gradient that is there, unless it is left out."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizers, list)
        optimizer = cast(Adam, optimizers[1])
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.step()

    def share(self, step: int) -> Iterator[Part]:
        """This process's share of a step, `renders_at_once` renders at a time. Its losses add up to that of
        the share; the step's is the mean over processes."""
        e, objective, levels = self.estimator, self.objective, self.objective.levels
        own, shared = self.streams(self.global_rank, "sds", step)
        cameras = objective.cameras(e.upstream, own)
        sampler, ranks = levels.sampler_at(step), (self.global_rank, self.world_size)
        observe = observer(self.statistics, levels.adaptive, levels.range_at(step).place)
        shape, dtype = objective.noise_shape, cameras.azimuth.dtype
        drawn = sampler.draw(e.upstream, e.draws, shape, own, *ranks, shared, dtype)
        fake_drawn = self.fake_draws(step, dtype)
        at_once = objective.options.renders_at_once
        for start in range(0, e.upstream, at_once):
            part = slice(start, start + at_once)
            upstream, seen = objective.upstream(cameras[part], own, step, self.statistics)
            loss, direction = carv_loss(upstream, drawn[part], own, self.chunk, observe)
            share = direction.shape[0] / e.upstream
            mine = None if fake_drawn is None else fake_drawn[part]
            fake = self.fake_losses(upstream.x.detach(), cameras[part], mine, step)
            yield Part(loss * share, direction, seen, fake)

    def fake_draws(self, step: int, dtype: torch.dtype) -> Draws | None:
        """What the fake score learns from in this process's share of a step, from streams of their own."""
        if (fake := self.objective.fake) is None:
            return None
        own, shared = self.streams(self.global_rank, "fake", step)
        sampler = fake.sampler(self.objective.levels.range_at(step))
        ranks = self.global_rank, self.world_size
        count, shape = fake.options.draws, self.objective.fake_shape
        return sampler.draw(self.estimator.upstream, count, shape, own, *ranks, shared, dtype)

    def fake_losses(self, x: Tensor, cameras: Cameras, draws: Draws | None, step: int) -> Iterator[Tensor]:
        """Parts of the fake score's loss on some of the share's renders, as they count in its mean."""
        if draws is not None:
            for loss in self.objective.fake_losses(x, cameras, draws, step):
                yield loss * (len(x) / self.estimator.upstream)

    def metrics(self) -> dict[str, Tensor]:
        values = {
            "scene/direction_norm": self.latest_losses["scene"],
            "scene/grad_norm": torch.nn.utils.get_total_norm(self.latest_gradients),
            "scene/opacity": self.latest_opacity,
            **self.scene.metrics(),
        }
        if self.latest_fake is not None:
            values["loss/fake"] = self.latest_fake
        return values | self.skips.metrics()

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
        multiple = value_at(self.objective.options.lr_multiple, step)
        for group, configured in zip(groups, self.objective.parameter_groups(), strict=True):
            group["lr"] = configured["lr"] * multiple

    def configure_optimizers(self) -> list[Adam]:
        """The scene's, and the fake score's, whose weights become one vector where they will be trained."""
        optimizers = [Adam(self.objective.parameter_groups(), betas=BETAS, eps=1e-15, fused=True)]
        if (fake := self.objective.fake) is not None:
            self.fake_vector = ParameterVector(fake.weights, self.world_size)
            optimizers.append(Adam(self.fake_vector.tensors, lr=fake.options.lr, betas=BETAS, fused=True))
        return optimizers
