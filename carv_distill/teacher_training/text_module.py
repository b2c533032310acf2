"""Training of a miniature Stable Diffusion and its CLIP model, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.data.solids import PromptedImages, combinations, object_prompt, view_prompt
from carv_distill.engine.estimator import RunModule
from carv_distill.engine.optimisation import ema_update, frozen_copy, ramped
from carv_distill.geometry.camera import VIEWS
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser, denoising_loss
from carv_distill.teachers.parametrisation import EpsPreconditioning
from carv_distill.teachers.pipelines.network import PromptUNet
from carv_distill.teachers.precision import without_autocast
from carv_distill.teachers.sampler import heun_sample
from carv_distill.teachers.schedule import VPSchedule

from .losses import autoencoder_loss, clamp_scale, contrastive_loss, jacobian_loss, mixed
from .networks import TextTeacherNetworks, build_scheduler, save_networks
from .options import TextTeacherOptions
from .stages import staged_adamw

STAGES = ("vae", "unet", "clip")


class TextTeacherModule(RunModule):
    """Autoencoder, then denoiser with text encoder, then CLIP: each in its share of the steps.

    The batch of a step and its noises are a function of (seed, rank, step). A stage's networks get no
    gradient in another's steps, and AdamW passes them over.

    Args:
        networks: untrained.
        max_steps: of all stages together.
        source: which pictures they are, as the teacher's folder is to say it; None where they are a part.
    """

    def __init__(
        self,
        networks: TextTeacherNetworks,
        data: PromptedImages,
        options: TextTeacherOptions,
        max_steps: int,
        seed: int,
        source: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(seed)
        self.source = source
        self.options, self.tokenizer = options, networks.tokenizer
        first = round(options.vae_share * max_steps)
        self.starts = (0, first, max(first, max_steps - round(options.clip_share * max_steps)), max_steps)
        self.vae, self.clip = networks.vae, networks.clip
        self.scheduler = build_scheduler()
        self.schedule = VPSchedule(self.scheduler.betas)
        unet = networks.unet
        side = unet.config.sample_size
        network = PromptUNet(unet, (unet.config.in_channels, side, side))
        self.denoiser = NetworkDenoiser(network, EpsPreconditioning(self.schedule))
        self.text_encoder = networks.text_encoder
        # The text models start in eval mode, for them to be trained without dropout.
        self.text_encoder.train()
        self.clip.train()
        learned = nn.ModuleList([self.denoiser, self.text_encoder])
        self.ema_denoiser, self.ema_text_encoder = frozen_copy(self.denoiser), frozen_copy(self.text_encoder)
        averaged = nn.ModuleList([self.ema_denoiser, self.ema_text_encoder])
        self._averaged = list(averaged.parameters()), list(learned.parameters())
        self.register_buffer("images", data.images, persistent=False)
        self.register_buffer("tokens", self._tokens(data.prompts), persistent=False)
        # CLIP learns prompts with their view and without it
        objects = [prompt.rpartition(",")[0] for prompt in data.prompts]
        self.register_buffer("object_tokens", self._tokens(objects), persistent=False)
        self.register_buffer("null_tokens", self._tokens([""])[0], persistent=False)
        self._latents: tuple[Tensor, Tensor, Tensor] | None = None

    images: Tensor
    tokens: Tensor
    object_tokens: Tensor
    null_tokens: Tensor

    def train_dataloader(self) -> Iterator[int]:
        return repeat(0)

    @property
    def stage(self) -> str:
        """The one that the present step belongs to."""
        return STAGES[sum(self.global_step >= s for s in self.starts[1:3])]

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        g = stream(self.seed, self.global_rank, self.global_step, "text teacher", device=self.device)
        pick = torch.randint(len(self.images), (self.options.batch,), generator=g, device=self.device)
        stage = self.stage
        loss = {"vae": self._vae_loss, "unet": self._unet_loss, "clip": self._clip_loss}[stage](pick, g)
        self.latest_losses = {stage: loss.detach()}
        return loss

    def _vae_loss(self, pick: Tensor, g: torch.Generator) -> Tensor:
        o, images = self.options, mixed(self.images[pick], g)
        side = images.shape[-1] // 2 ** (len(o.vae_channels) - 1)
        noise = self._randn((len(pick), o.latent_channels, side, side), g)
        loss = autoencoder_loss(self.vae, images, noise, o.kl_weight)
        if o.vae_tie:
            some = max(len(pick) // 3, 2)  # a double backward on all would cost more than the rest
            loss = loss + o.vae_tie * jacobian_loss(self.vae, images[:some], noise[:some], g)
        return loss

    def _unet_loss(self, pick: Tensor, g: torch.Generator) -> Tensor:
        mean, std, factor = self.latents()
        x = (mean[pick] + std[pick] * self._randn(mean[pick].shape, g)) * factor
        drop = torch.rand(len(pick), generator=g, device=self.device) < self.options.prompt_dropout
        tokens = torch.where(drop[:, None], self.null_tokens, self.tokens[pick])
        sigma = self.schedule.sigma(torch.rand(len(pick), generator=g, device=self.device))
        cond = Condition(self.text_encoder(tokens).last_hidden_state)
        return denoising_loss(self.denoiser, x, sigma, self._randn(x.shape, g), cond)

    def _clip_loss(self, pick: Tensor, g: torch.Generator) -> Tensor:
        images = self.images[pick]
        level = self.options.clip_noise * torch.rand(len(pick), 1, 1, 1, generator=g, device=self.device)
        with_view = self.global_step % 2
        tokens = (self.tokens if with_view else self.object_tokens)[pick]
        return contrastive_loss(self.clip, images + level * self._randn(images.shape, g), tokens)

    @torch.no_grad()
    def latents(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation of every picture's latents, and the factor that scales them to unit
        variance; kept from when the autoencoder has learned. In float32, whoever asks first: they are the
        same before and after a resumption."""
        if self._latents is None:
            with without_autocast(self.images):
                posteriors = [self.vae.encode(part).latent_dist for part in self.images.split(256)]
            mean = torch.cat([p.mean for p in posteriors]).float()
            std = torch.cat([p.std for p in posteriors]).float()
            latents = mean, std, 1 / (mean.var() + std.square().mean()).sqrt()
            if self.stage == "vae":
                return latents
            self._latents = latents
        return self._latents

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        stage, step = self.stage, self.global_step
        super().optimizer_step(*args, **kwargs)
        if stage == "unet":
            ema_update(*self._averaged, ramped(self.options.ema, step - self.starts[1]))
        elif stage == "clip":
            clamp_scale(self.clip)

    @torch.no_grad()
    def pictures(
        self, prompts: list[str], g: torch.Generator, guidance: float = 3.0, steps: int = 12
    ) -> Tensor:
        """Heun pictures of the averaged network [n, 3, S, S] in [−1, 1], from noise of a CPU generator."""
        cond, null = (
            Condition(self.ema_text_encoder(tokens).last_hidden_state)
            for tokens in (self._tokens(prompts).to(self.device), self.null_tokens[None])
        )
        guided = GuidedDenoiser(self.ema_denoiser, guidance, null[0])
        shape = (len(prompts), *self.latents()[0].shape[1:])
        z = torch.randn(shape, generator=g).to(self.device)
        latents = heun_sample(guided, self.schedule, z, cond, steps)
        scaled = latents / self.latents()[2]
        return torch.cat([self.vae.decode(part, return_dict=False)[0] for part in scaled.split(64)])

    def save(self, folder: Path, step: int) -> None:
        """After a step: a StableDiffusionPipeline folder with the averaged networks, and the CLIP model in
        its clip/."""
        if step > self.starts[1]:
            self.vae.register_to_config(scaling_factor=float(self.latents()[2]))
        unet, text = self.ema_denoiser.network.model, self.ema_text_encoder
        averaged = TextTeacherNetworks(self.vae, unet, text, self.tokenizer, self.clip)
        save_networks(folder, averaged, self.scheduler, step, self.source)

    def configure_optimizers(self) -> Any:
        o = self.options
        groups = (
            (self.vae.parameters(), o.vae_lr),
            ([*self.denoiser.parameters(), *self.text_encoder.parameters()], o.unet_lr),
            (self.clip.parameters(), o.clip_lr),
        )
        return staged_adamw(groups, self.starts, o.warmup)

    def _tokens(self, prompts: list[str]) -> Tensor:
        length = self.tokenizer.model_max_length
        return self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids

    def _randn(self, shape: Any, g: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=g, device=self.device)


def preview(module: TextTeacherModule) -> Tensor:
    """A row for each view: eight learned pairs of colour and solid, then the eight held-out ones."""
    learned = combinations(held_out=False)
    # one of each colour, and of as many solids as can be
    pairs = [*(learned[7 * i + i % 7] for i in range(8)), *combinations(held_out=True)]
    prompts = [view_prompt(object_prompt(*pair), view) for view in VIEWS for pair in pairs]
    return module.pictures(prompts, torch.Generator().manual_seed(0))
