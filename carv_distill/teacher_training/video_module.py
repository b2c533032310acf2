"""Training of a miniature Wan: its autoencoder on crops, then its transformer on the latents of all clips."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carv_distill.carv import stream
from carv_distill.engine.estimator import RunModule
from carv_distill.engine.optimisation import ema_update, frozen_copy, ramped
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser, denoising_loss
from carv_distill.teachers.parametrisation import FlowPreconditioning
from carv_distill.teachers.pipelines.wan import TOKENS, WanNetwork
from carv_distill.teachers.sampler import ddim_sample
from carv_distill.teachers.schedule import FlowSchedule

from .options import VideoTeacherOptions
from .stages import staged_adamw
from .video_networks import (
    VideoTeacherNetworks,
    build_video_scheduler,
    latent_shape,
    save_video_networks,
)

log = logging.getLogger(__name__)

SOME = 32
"""Clips whose latents stand for all while the autoencoder learns."""
PATIENCE = 30.0
"""Seconds between two lines on how many clips are encoded."""
SHOWN = 9
"""Frames of a clip in a preview."""


class VideoTeacherModule(RunModule):
    """Autoencoder, then transformer with text encoder, each in its share of the steps.

    The batch of a step and its noises are a function of (seed, rank, step).

    Args:
        networks: untrained.
        clips: bytes [n, T, 3, S, S].
        prompts: of each clip.
        max_steps: of both stages together.
    """

    def __init__(
        self,
        networks: VideoTeacherNetworks,
        clips: Tensor,
        prompts: Sequence[str],
        options: VideoTeacherOptions,
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(seed)
        self.options, self.tokenizer = options, networks.tokenizer
        self.starts = (0, round(options.vae_share * max_steps), max_steps)
        self.scheduler = build_video_scheduler(options.shift)
        self.schedule = FlowSchedule(1000, options.shift)
        self.vae = networks.vae
        network = WanNetwork(networks.transformer, latent_shape(options))
        self.denoiser = NetworkDenoiser(network, FlowPreconditioning(self.schedule))
        self.text_encoder = networks.text_encoder.train()
        learned = nn.ModuleList([self.denoiser, self.text_encoder])
        self.ema_denoiser, self.ema_text_encoder = frozen_copy(self.denoiser), frozen_copy(self.text_encoder)
        averaged = nn.ModuleList([self.ema_denoiser, self.ema_text_encoder])
        self._averaged = list(averaged.parameters()), list(learned.parameters())
        self.prompts = sorted({*prompts, ""})
        tokens = self.tokenizer(self.prompts, padding=True, return_tensors="pt")
        self.register_buffer("tokens", tokens.input_ids, persistent=False)
        self.register_buffer("mask", tokens.attention_mask, persistent=False)
        numbers = {prompt: i for i, prompt in enumerate(self.prompts)}
        self.register_buffer("clips", clips, persistent=False)
        self.register_buffer("labels", torch.tensor([numbers[p] for p in prompts]), persistent=False)
        self._latents: tuple[Tensor, Tensor] | None = None

    tokens: Tensor
    mask: Tensor
    clips: Tensor
    labels: Tensor

    def train_dataloader(self) -> Iterator[int]:
        return repeat(0)

    @property
    def stage(self) -> str:
        """The one that the present step belongs to."""
        return "vae" if self.global_step < self.starts[1] else "transformer"

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        g = stream(self.seed, self.global_rank, self.global_step, "video teacher", device=self.device)
        stage, o = self.stage, self.options
        count = o.vae_batch if stage == "vae" else o.batch
        pick = torch.randint(len(self.clips), (count,), generator=g, device=self.device)
        loss = self._vae_loss(pick, g) if stage == "vae" else self._transformer_loss(pick, g)
        self.latest_losses = {stage: loss.detach()}
        return loss

    def _vae_loss(self, pick: Tensor, g: torch.Generator) -> Tensor:
        """mean |x̂ − x| + w KL on a crop of each clip; Rombach et al. 2022, section 3.1, without perceptual
        and adversarial parts."""
        o = self.options
        side = min(o.vae_crop, o.size)
        # of a CPU's stream: a place drawn on a GPU would have to be waited for
        place = stream(self.seed, self.global_rank, self.global_step, "crop")
        top, left = torch.randint(o.size - side + 1, (2,), generator=place).tolist()
        videos = pixels(self.clips[pick, ..., top : top + side, left : left + side])
        posterior = self.vae.encode(videos).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=g, device=self.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        return F.l1_loss(decoded, videos) + o.kl_weight * posterior.kl().mean()

    def _transformer_loss(self, pick: Tensor, g: torch.Generator) -> Tensor:
        x, _ = self.latents()
        drop = torch.rand(len(pick), generator=g, device=self.device) < self.options.prompt_dropout
        empty = self.prompts.index("")
        cond = self._conditions(self.text_encoder, torch.where(drop, empty, self.labels[pick]))
        sigma = self.schedule.sigma(torch.rand(len(pick), generator=g, device=self.device))
        some = x[pick].float()
        eps = torch.randn(some.shape, generator=g, device=self.device)
        return denoising_loss(self.denoiser, some, sigma, eps, cond)

    def _conditions(self, encoder: nn.Module, numbers: Tensor) -> Condition:
        """Embeddings of prompts by their number, zeros in place of padding, as the pipeline gives them."""
        tokens, mask = self.tokens[numbers], self.mask[numbers]
        encoded = encoder(tokens, attention_mask=mask).last_hidden_state * mask[..., None]
        return Condition(F.pad(encoded, (0, 0, 0, TOKENS - encoded.shape[1])))

    @torch.no_grad()
    def latents(self) -> tuple[Tensor, Tensor]:
        """Mean latents of every clip, scaled to unit variance per channel, [n, …] in float16; and mean and
        standard deviation per channel, [2, C]. Made once, when the autoencoder has learned; before that of
        some clips alone."""
        if self._latents is not None:
            return self._latents
        learning = self.stage == "vae"
        means, said = [], time.monotonic()
        for clip in self.clips[:SOME] if learning else self.clips:
            means.append(self.vae.encode(pixels(clip[None])).latent_dist.mean)
            if time.monotonic() - said > PATIENCE:
                log.info("latents of %d of %d clips", len(means), len(self.clips))
                said = time.monotonic()
        latents = torch.cat(means)
        over = (0, 2, 3, 4)
        scale = torch.stack([latents.mean(over), latents.std(over)])
        mean, std = (s.view(-1, 1, 1, 1) for s in scale)
        found = ((latents - mean) / std).half(), scale
        if not learning:
            self._latents = found
        return found

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        stage, step = self.stage, self.global_step
        super().optimizer_step(*args, **kwargs)
        if stage == "transformer":
            ema_update(*self._averaged, ramped(self.options.ema, step - self.starts[1]))

    @torch.no_grad()
    def videos(
        self, prompts: Sequence[str], g: torch.Generator, guidance: float = 4.0, steps: int = 20
    ) -> Tensor:
        """Euler's clips of the averaged network, [n, 3, T, S, S] in [−1, 1]; noise of a CPU generator."""
        _, scale = self.latents()
        numbers = torch.tensor([self.prompts.index(p) for p in [*prompts, ""]], device=self.device)
        cond = self._conditions(self.ema_text_encoder, numbers)
        guided = GuidedDenoiser(self.ema_denoiser, guidance, cond[-1])
        shape = latent_shape(self.options)
        z = torch.randn(len(prompts), *shape, generator=g).to(self.device)
        x = ddim_sample(guided, self.schedule, z, cond[:-1], steps)
        mean, std = (s.view(1, -1, 1, 1, 1) for s in scale)
        decoded = [self.vae.decode(one[None] * std + mean, return_dict=False)[0] for one in x]
        return torch.cat(decoded).clamp(-1, 1)

    def save(self, folder: Path, step: int) -> None:
        """After a step: a WanPipeline folder with the averaged networks."""
        _, scale = self.latents()
        names = ("latents_mean", "latents_std")
        self.vae.register_to_config(**{k: s.tolist() for k, s in zip(names, scale, strict=True)})
        transformer, text = self.ema_denoiser.network.model, self.ema_text_encoder
        parts = VideoTeacherNetworks(self.vae, transformer, text, self.tokenizer)
        seed = self.seed if len(self.clips) == self.options.clips else None
        save_video_networks(folder, parts, self.scheduler, self.options, step, seed)

    def configure_optimizers(self) -> Any:
        o = self.options
        groups = (
            (self.vae.parameters(), o.vae_lr),
            ([*self.denoiser.parameters(), *self.text_encoder.parameters()], o.lr),
        )
        return staged_adamw(groups, self.starts, o.warmup)


def pixels(clips: Tensor) -> Tensor:
    """Bytes [n, T, 3, H, W] → [n, 3, T, H, W] in [−1, 1]."""
    return clips.movedim(2, 1).float() / 127.5 - 1


def preview(module: VideoTeacherModule) -> Tensor:
    """A row of frames for each of some clips: as the autoencoder keeps them while it learns, and then as the
    teacher makes them, [n · SHOWN, 3, S, S]."""
    number = min(6, len(module.clips))
    if module.stage == "vae":
        with torch.no_grad():
            videos = pixels(module.clips[:number])
            kept = [module.vae(one[None], return_dict=False)[0].clamp(-1, 1) for one in videos]
            made = torch.cat([pair for row in zip(videos[:, None], kept, strict=True) for pair in row])
    else:
        prompts = [module.prompts[i] for i in module.labels[:number].tolist()]
        made = module.videos(prompts, torch.Generator().manual_seed(0))
    frames = torch.linspace(0, made.shape[2] - 1, SHOWN).round().long()
    return made[:, :, frames].movedim(2, 1).flatten(0, 1)
