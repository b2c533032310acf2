"""Training of a miniature DeepFloyd IF and its CLIP model on pictures that never repeat."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.data.wild import WILD, WildSolids, prompt_of
from carv_distill.engine.estimator import RunModule
from carv_distill.engine.optimisation import ema_update, frozen_copy, ramped
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser, denoising_loss
from carv_distill.teachers.parametrisation import EpsPreconditioning
from carv_distill.teachers.pipelines.network import PromptUNet
from carv_distill.teachers.schedule import VPSchedule

from .losses import clamp_scale
from .options import PixelTeacherOptions
from .pixel_networks import LENGTH, PixelTeacherNetworks, build_pixel_scheduler, save_pixel_networks
from .stages import staged_adamw

PROMPTS = [prompt_of(solid) for solid in WILD]
PADDED = 77
"""Tokens of a padded prompt in an IFPipeline."""


class PixelTeacherModule(RunModule):
    """Denoiser with text encoder, then CLIP, each in its share of the steps.

    The pictures of a step and their noises are a function of (seed, rank, step).

    Args:
        networks: untrained.
        data: the views that pictures are made from.
        max_steps: of both stages together.
    """

    def __init__(
        self,
        networks: PixelTeacherNetworks,
        data: WildSolids,
        options: PixelTeacherOptions,
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(seed)
        self.options, self.data = options, data
        self.starts = (0, max_steps - round(options.clip_share * max_steps), max_steps)
        self.tokenizer, self.clip_tokenizer = networks.tokenizer, networks.clip_tokenizer
        self.scheduler = build_pixel_scheduler()
        self.schedule = VPSchedule(self.scheduler.betas)
        side = networks.unet.config.sample_size
        network = PromptUNet(networks.unet, (3, side, side))
        self.denoiser = NetworkDenoiser(network, EpsPreconditioning(self.schedule))
        self.text_encoder, self.clip = networks.text_encoder.train(), networks.clip.train()
        learned = nn.ModuleList([self.denoiser, self.text_encoder])
        self.ema_denoiser, self.ema_text_encoder = frozen_copy(self.denoiser), frozen_copy(self.text_encoder)
        averaged = nn.ModuleList([self.ema_denoiser, self.ema_text_encoder])
        self._averaged = list(averaged.parameters()), list(learned.parameters())
        tokens = self.tokenizer([*PROMPTS, ""], padding="max_length", max_length=PADDED, return_tensors="pt")
        self.register_buffer("tokens", tokens.input_ids, persistent=False)
        self.register_buffer("mask", tokens.attention_mask, persistent=False)
        of_clip = self.clip_tokenizer(
            PROMPTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        self.register_buffer("clip_tokens", of_clip.input_ids, persistent=False)

    tokens: Tensor
    mask: Tensor
    clip_tokens: Tensor

    def on_fit_start(self) -> None:
        # no buffers: processes need not exchange what each of them has rendered
        self.data = self.data.to(self.device)

    def train_dataloader(self) -> Iterator[int]:
        return repeat(0)

    @property
    def stage(self) -> str:
        """The one that the present step belongs to."""
        return "unet" if self.global_step < self.starts[1] else "clip"

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        g = stream(self.seed, self.global_rank, self.global_step, "pixel teacher", device=self.device)
        stage = self.stage
        count = {"unet": self.options.batch, "clip": self.options.clip_batch}[stage]
        views = torch.randint(len(self.data), (count,), generator=g, device=self.device)
        loss = {"unet": self._unet_loss, "clip": self._clip_loss}[stage](views, g)
        self.latest_losses = {stage: loss.detach()}
        return loss

    def _unet_loss(self, views: Tensor, g: torch.Generator) -> Tensor:
        x, labels = self.data.pictures(views, g), self.data.labels[views]
        drop = torch.rand(len(views), generator=g, device=self.device) < self.options.prompt_dropout
        cond = self._conditions(self.text_encoder, torch.where(drop, len(PROMPTS), labels))
        sigma = self.schedule.sigma(torch.rand(len(views), generator=g, device=self.device))
        eps = torch.randn(x.shape, generator=g, device=self.device)
        return denoising_loss(self.denoiser, x, sigma, eps, cond)

    def _clip_loss(self, views: Tensor, g: torch.Generator) -> Tensor:
        """Cross-entropy over all prompts, which are few: no batch has to stand for them."""
        images = self.data.pictures(views, g, plain=self.options.clip_plain)
        level = self.options.clip_noise * torch.rand(len(views), 1, 1, 1, generator=g, device=self.device)
        noise = torch.randn(images.shape, generator=g, device=self.device)
        logits = self.clip(input_ids=self.clip_tokens, pixel_values=images + level * noise).logits_per_image
        return F.cross_entropy(logits, self.data.labels[views])

    def _conditions(self, encoder: nn.Module, numbers: Tensor) -> Condition:
        """Embeddings of prompts by their number, the empty one last; padding counts, as in the pipeline."""
        encoded = encoder(self.tokens, attention_mask=self.mask).last_hidden_state
        return Condition(encoded)[numbers]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        stage, step = self.stage, self.global_step
        super().optimizer_step(*args, **kwargs)
        if stage == "unet":
            ema_update(*self._averaged, ramped(self.options.ema, step))
        else:
            clamp_scale(self.clip)

    @torch.no_grad()
    def pictures(self, numbers: Tensor, g: torch.Generator, guidance: float = 4.0, steps: int = 25) -> Tensor:
        """DDIM pictures of the averaged network for prompts by their number, [n, 3, S, S] in [−1, 1], from
        noise of a CPU generator; x̂ is clipped at every step, without which the last timestep, where nearly
        nothing is signal, spoils them."""
        null = torch.tensor([len(PROMPTS)], device=self.device)
        cond, nothing = (self._conditions(self.ema_text_encoder, n) for n in (numbers.to(self.device), null))
        guided = GuidedDenoiser(self.ema_denoiser, guidance, nothing[0])
        side = self.options.size
        z = torch.randn(len(numbers), 3, side, side, generator=g).to(self.device)
        scheduler = DDIMScheduler.from_config(
            self.scheduler.config, clip_sample=True, timestep_spacing="trailing", set_alpha_to_one=True
        )
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            level = self.schedule.sigma_at(t.expand(len(z)), z)
            f = guided.raw(z, guided.coefficients(z, level), cond)
            z = scheduler.step(f, t, z).prev_sample
        return z.clamp(-1, 1)

    def save(self, folder: Path, step: int) -> None:
        """After a step: an IFPipeline folder with the averaged networks, and the CLIP model in its clip/."""
        unet, text = self.ema_denoiser.network.model, self.ema_text_encoder
        parts = PixelTeacherNetworks(unet, text, self.tokenizer, self.clip, self.clip_tokenizer)
        save_pixel_networks(folder, parts, self.scheduler, step)

    def configure_optimizers(self) -> Any:
        o = self.options
        groups = (
            ([*self.denoiser.parameters(), *self.text_encoder.parameters()], o.unet_lr),
            (self.clip.parameters(), o.clip_lr),
        )
        return staged_adamw(groups, self.starts, o.warmup)


def preview(module: PixelTeacherModule) -> Tensor:
    """A row of eight pictures for each prompt."""
    numbers = torch.arange(len(PROMPTS)).repeat_interleave(8)
    return module.pictures(numbers, torch.Generator().manual_seed(0))
