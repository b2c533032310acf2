"""What a text-to-3D run descends: renders, the teacher's word on them, regularisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.carv import Draws, FiniteDraws, NoiseCoefficient, Residual, StepStatistics, Upstream
from carv_distill.geometry.camera import Cameras, CameraSampler
from carv_distill.teachers.condition import Condition, HeldCondition
from carv_distill.teachers.denoiser import GuidedDenoiser
from carv_distill.teachers.pipelines.teacher import TextTeacher

from .composition import EXTRA, composed
from .guidance.objectives import build_denoiser, build_fake, conditions, constant
from .guidance.residual import clip_norm, guided_residual
from .guidance.timesteps import AnnealedSampler
from .options import SceneOptions, SDSOptions
from .prompts import view_prompts
from .rendering import BackgroundNetwork, Lights, OccupancyGrid, Rendered, albedo, draw_lights, over
from .scenes import Scene
from .schedules import stage_at, value_at


class SDSObjective(nn.Module):
    """Score distillation of a text-to-image teacher into a scene:

        g = 1/R Σ_r ∂x_r/∂θᵀ 1/K Σ_k ω_rk w(t_rk) (ε̂(x_rk) − c ε_rk) + ∂(regularisers)/∂θ,

    or what another objective has in the place of ε̂ and c. x_r is what the teacher denoises of a render from
    a random camera: its latents, or its pixels. All that is random is drawn from the streams that are handed
    in.

    Args:
        teacher: frozen; its prompts are encoded here, then its text model is freed.
        view: how a render is made.
        seed: of the first weights of a fake score, where the objective has one.
    """

    def __init__(
        self,
        *,
        teacher: TextTeacher,
        scene: Scene,
        cameras: CameraSampler,
        view: SceneOptions,
        options: SDSOptions,
        levels: AnnealedSampler,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.scene, self.camera_sampler, self.view, self.options = scene, cameras, view, options
        self.teacher, self.levels = teacher, levels
        self.background = BackgroundNetwork(view.background_network) if view.background == "learned" else None
        self.occupancy = OccupancyGrid(view.occupancy, view.extent) if view.occupancy.resolution else None
        self.fake = build_fake(teacher, options, seed)
        self.denoiser = build_denoiser(teacher, options, self.fake)
        prompts = teacher.prompts(view_prompts(options))
        teacher.prompts.release()
        self.prompts = HeldCondition(prompts)
        self.finite = FiniteDraws()
        self.coefficient = NoiseCoefficient() if options.coefficient == "learned" else None

    @property
    def learned(self) -> list[Tensor]:
        """What a step descends in: the scene's parameters and those of its background."""
        more = [] if self.background is None else self.background.parameters()
        return [*self.scene.parameters(), *more]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The same with their learning rates, for an optimiser."""
        o, groups = self.options, self.scene.parameter_groups(self.options)
        if self.background is not None:
            groups.append({"params": list(self.background.parameters()), "lr": o.background_lr})
        return groups

    def cameras(self, count: int, g: torch.Generator) -> Cameras:
        """Random cameras, of the scene's type."""
        return self.camera_sampler.sample(count, g, next(self.scene.parameters()).dtype)

    def pipeline(self, step: int) -> Callable[[int, torch.Generator], Upstream]:
        """Renders from random cameras with their residual and regularisers, as they are at one step."""

        def upstream(count: int, g: torch.Generator) -> Upstream:
            return self.upstream(self.cameras(count, g), g, step)[0]

        return upstream

    def upstream(
        self, cameras: Cameras, g: torch.Generator, step: int, statistics: StepStatistics | None = None
    ) -> tuple[Upstream, Rendered]:
        """Renders from these cameras, ready for the estimator: training, and every measurement, take their
        gradients from here. `statistics` holds back what draws teach the coefficient c; None teaches nothing.
        """
        with self.scene.held():
            seen = self.rendered(cameras, g, step)
            regulariser = self.regulariser(seen, step)
        residual = self.residual(self.conditions(cameras), step, statistics)
        greatest = self.options.clip_direction
        clip = None if greatest is None else partial(clip_norm, greatest=greatest)
        x, noise = self.encoded(seen, g), self.noise_shape
        if self.options.augment == "render":
            extra = torch.randn(len(x), EXTRA, *x.shape[2:], generator=g, device=x.device, dtype=x.dtype)
            residual = composed(residual, extra)
        elif self.options.augment == "draw":
            residual = composed(residual)
        return Upstream(x, residual, None, regulariser, clip, noise, self.finite), seen

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of what is random in a draw: the teacher's noise, and the picture's background and colours where
        every draw has its own."""
        channels, *sides = self.teacher.shape
        more = EXTRA if self.options.augment == "draw" else 0
        return channels + more, *sides

    def update_occupancy(self, step: int, shared: torch.Generator) -> None:
        """Looks where the scene is empty, at the steps that do so.

        Args:
            shared: the same for all processes.
        """
        if self.occupancy is not None and step % self.view.occupancy.every == 0:
            self.scene.at_step(step)
            self.occupancy.update(self.scene.density_at, shared)

    def rendered(self, cameras: Cameras, g: torch.Generator, step: int = 0) -> Rendered:
        """Renders with a graph to the scene, as they are at a step."""
        v, size, lights = self.view, stage_at(self.view.size, step), self.lights(cameras, g, step)
        bare = self.background is not None or self.options.augment != "none"
        self.scene.at_step(step)
        shade = "black" if bare else v.background
        seen = self.scene.render(cameras, size, v.samples, g, shade, lights=lights, occupied=self.occupancy)
        if self.background is None:
            return seen
        return over(seen, self.background.behind(cameras.rays(size)[1], g))

    def lights(self, cameras: Cameras, g: torch.Generator, step: int) -> Lights | None:
        """Of each render; None where no normals are needed."""
        shading, lights = self.view.shading, None
        if shading.shaded and step >= shading.from_step:
            lights = draw_lights(shading, cameras, g)
        if lights is None and value_at(self.options.orientation, step):
            return albedo(cameras)
        return lights

    def encoded(self, seen: Rendered, g: torch.Generator) -> Tensor:
        """x of renders, with the graph: what the teacher denoises, [n, C, s, s]; with random pictures colours
        on black and opacity, [n, 4, s, s]."""
        pictured = self.options.augment != "none"
        image = torch.cat([seen.image, seen.opacity], 1) if pictured else 2 * seen.image - 1
        if self.view.upsample:
            side = self.teacher.image_size
            image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
        return image if pictured else self.teacher.encode(image, g)

    def conditions(self, cameras: Cameras) -> Condition:
        """The prompt's embedding for each view, n rows."""
        prompts = self.prompts.value
        assert isinstance(prompts, Condition)
        return conditions(prompts, cameras, self.options)

    def residual(self, cond: Condition, step: int, statistics: StepStatistics | None = None) -> Residual:
        """The SDS residual of pictures with these conditions."""
        levels, weighting, denoiser = self.levels.range_at(step), self.options.weighting, self.denoiser
        if isinstance(denoiser, GuidedDenoiser):
            denoiser = denoiser.at_scale(value_at(self.options.guidance, step))
        c = self.coefficient
        return guided_residual(denoiser, levels, weighting, cond, step, c, statistics, constant(self.options))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x: what the teacher denoises, or colours and opacity."""
        channels, *sides = self.teacher.shape
        return channels + (self.options.augment != "none"), *sides

    @property
    def fake_shape(self) -> tuple[int, ...]:
        """Of what is random in a draw that the fake score learns from."""
        channels, *sides = self.teacher.shape
        return channels + (EXTRA if self.options.augment != "none" else 0), *sides

    def fake_losses(self, x: Tensor, cameras: Cameras, draws: Draws, step: int) -> Iterator[Tensor]:
        """Parts of the fake score's loss on renders, of which nothing reaches the scene; none without one."""
        if self.fake is not None:
            levels, cond = self.levels.range_at(step), self.conditions(cameras)
            yield from self.fake.losses(x, draws, levels, cond, self.options.augment != "none")

    def regulariser(self, seen: Rendered, step: int) -> Tensor:
        """Sparsity √(o² + 0.01), entropy of the opacity o, roughness of density and colours, what faces away,
        as they weigh at a step."""
        o = self.options
        weights = o.sparsity, o.opaque, o.smoothness, o.colour_smoothness
        sparsity, opaque, smoothness, colours = (value_at(v, step) for v in weights)
        loss = sparsity * (seen.opacity.square() + 0.01).sqrt().mean()
        if opaque:
            p = seen.opacity.clamp(1e-3, 1 - 1e-3)
            # Written out: autocast refuses binary_cross_entropy.
            loss = loss - opaque * (p * p.log() + (1 - p) * (-p).log1p()).mean()
        if smoothness:
            loss = loss + smoothness * self.scene.roughness()
        if colours:
            loss = loss + colours * self.scene.colour_roughness()
        if (orientation := value_at(o.orientation, step)) and seen.orientation is not None:
            loss = loss + orientation * seen.orientation.mean()
        return loss
