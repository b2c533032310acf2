"""Training of a miniature Wan: its autoencoder on crops, then its transformer on latents of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from carv_distill.carv import stream
from carv_distill.engine.estimator import RunModule
from carv_distill.engine.optimisation import ema_update, frozen_copy, ramped
from carv_distill.teachers.condition import Condition
from carv_distill.teachers.denoiser import GuidedDenoiser, NetworkDenoiser, denoising_loss
from carv_distill.teachers.parametrisation import FlowPreconditioning
from carv_distill.teachers.pipelines.wan import TOKENS, WanNetwork
from carv_distill.teachers.precision import without_autocast
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

SOME = 32
"""Clips whose latents say how large those of all are."""
SHOWN = 9
"""Frames of a clip in a preview."""


class VideoTeacherModule(RunModule):
    """Autoencoder, then transformer with text encoder, each in its share of the steps; the transformer learns
    from small clips first where there are some, as Wan's did (arXiv 2503.20314).

    The batch of a step and its noises are a function of (seed, rank, step).

    Args:
        networks: untrained.
        clips: bytes [n, T, 3, S, S].
        prompts: of each clip.
        max_steps: of all stages together.
        small: the same clips of fewer pixels, [n, T, 3, s, s], for each of `small_sizes`.
    """

    def __init__(
        self,
        networks: VideoTeacherNetworks,
        clips: Tensor,
        prompts: Sequence[str],
        options: VideoTeacherOptions,
        max_steps: int,
        seed: int,
        small: Sequence[Tensor] = (),
    ) -> None:
        super().__init__(seed)
        self.options, self.tokenizer = options, networks.tokenizer
        begin = round(options.vae_share * max_steps)
        shares = accumulate(options.small_shares, initial=0.0)
        self.starts = (0, *(begin + round(share * (max_steps - begin)) for share in shares), max_steps)
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
        for number, smaller in enumerate(small):
            self.register_buffer(f"small_{number}", smaller, persistent=False)
        self._scale: Tensor | None = None
        self._latents: dict[tuple[int, int], Tensor] = {}

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

    @property
    def size(self) -> int:
        """Pixels along one side of the clips that the transformer learns from in the present step."""
        o = self.options
        return o.size if (small := self._small) is None else o.small_sizes[small]

    @property
    def _small(self) -> int | None:
        """Place of that size among the small ones, if it is one."""
        passed = sum(start <= self.global_step for start in self.starts[1:-1]) - 1
        return passed if 0 <= passed < len(self.options.small_sizes) else None

    @property
    def _crops(self) -> tuple[int, int]:
        """How many the autoencoder takes in the present step, and of how many frames."""
        o = self.options
        few = min(o.vae_frames, o.frames)
        if 3 * self.global_step < 2 * self.starts[1]:
            return o.vae_batch, few
        return max(1, o.vae_batch * few // o.frames), o.frames

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        own = self.seed, self.global_rank, self.global_step
        g = stream(*own, "video teacher", device=self.device)
        stage, o = self.stage, self.options
        count = o.batch if (small := self._small) is None else o.small_batches[small]
        count = self._crops[0] if stage == "vae" else count
        # of a CPU's stream: a number drawn on a GPU would have to be waited for
        pick = torch.randint(len(self.clips), (count,), generator=stream(*own, "clips"))
        loss = self._vae_loss(pick, g) if stage == "vae" else self._transformer_loss(pick, g)
        self.latest_losses = {stage: loss.detach()}
        return loss

    def _vae_loss(self, pick: Tensor, g: torch.Generator) -> Tensor:
        """mean |x̂ − x| + w KL on a crop of each clip; Rombach et al. 2022, section 3.1, without perceptual
        and adversarial parts."""
        o, (_, frames) = self.options, self._crops
        side = min(o.vae_crop, o.size)
        place = stream(self.seed, self.global_rank, self.global_step, "crop")
        corner = torch.randint(o.size - side + 1, (2, len(pick)), generator=place).tolist()
        begin = torch.randint(o.frames - frames + 1, (len(pick),), generator=place).tolist()
        crops = [
            self.clips[n, t : t + frames, :, top : top + side, left : left + side]
            for n, t, top, left in zip(pick.tolist(), begin, *corner, strict=True)
        ]
        videos = pixels(torch.stack(crops))
        posterior = self.vae.encode(videos).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=g, device=self.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        return F.l1_loss(decoded, videos) + o.kl_weight * posterior.kl().mean()

    def _transformer_loss(self, pick: Tensor, g: torch.Generator) -> Tensor:
        x = self.latents(pick).float()
        drop = torch.rand(len(pick), generator=g, device=self.device) < self.options.prompt_dropout
        empty = self.prompts.index("")
        labels = self.labels[pick.to(self.device, non_blocking=True)]
        cond = self._conditions(self.text_encoder, torch.where(drop, empty, labels))
        sigma = self.schedule.sigma(torch.rand(len(pick), generator=g, device=self.device))
        eps = torch.randn(x.shape, generator=g, device=self.device)
        return denoising_loss(self.denoiser, x, sigma, eps, cond)

    def _conditions(self, encoder: nn.Module, numbers: Tensor) -> Condition:
        """Embeddings of prompts by their number, zeros in place of padding, as the pipeline gives them."""
        tokens, mask = self.tokens[numbers], self.mask[numbers]
        encoded = encoder(tokens, attention_mask=mask).last_hidden_state * mask[..., None]
        return Condition(F.pad(encoded, (0, 0, 0, TOKENS - encoded.shape[1])))

    @torch.no_grad()
    def latents(self, pick: Tensor) -> Tensor:
        """Mean latents of some clips of the present step's size, scaled to about unit variance per channel,
        [n, …] in float16; of each clip made once, after the autoencoder has learned."""
        small, scale = self._small, self.scale()
        clips = self.clips if small is None else self.get_buffer(f"small_{small}")
        for number in set(pick.tolist()):
            if (self.size, number) not in self._latents:
                mean = self._mean(clips[number : number + 1])[0]
                self._latents[self.size, number] = scaled(mean, scale).half()
        return torch.stack([self._latents[self.size, number] for number in pick.tolist()])

    @torch.no_grad()
    def scale(self) -> Tensor:
        """Mean and standard deviation per channel of the latents of some clips, [2, C]."""
        if self._scale is not None:
            return self._scale
        latents = torch.cat([self._mean(clip[None]) for clip in self.clips[:SOME]])
        over = (0, 2, 3, 4)
        scale = torch.stack([latents.mean(over), latents.std(over)])
        if self.stage != "vae":
            self._scale = scale
        return scale

    def _mean(self, clips: Tensor) -> Tensor:
        """Latents' mean, whatever autocast says outside: they are the same before and after a resumption."""
        with without_autocast(clips):
            mean: Tensor = self.vae.encode(pixels(clips)).latent_dist.mean
        return mean

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        # Not Lightning's, which refuses fused optimisers under autocast: nothing is scaled in bfloat16.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.options.clip_norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        stage, step = self.stage, self.global_step
        super().optimizer_step(*args, **kwargs)
        if stage == "transformer":
            # The average begins again with each size: what it was of smaller clips would stay in it.
            begun = max(start for start in self.starts[1:] if start <= step)
            ema_update(*self._averaged, ramped(self.options.ema, step - begun))

    @torch.no_grad()
    def videos(
        self, prompts: Sequence[str], g: torch.Generator, guidance: float = 4.0, steps: int = 20
    ) -> Tensor:
        """Euler's clips of the averaged network, of the size that it learns at present, [n, 3, T, S, S] in
        [−1, 1]; noise of a CPU generator."""
        scale = self.scale()
        numbers = torch.tensor([self.prompts.index(p) for p in [*prompts, ""]], device=self.device)
        cond = self._conditions(self.ema_text_encoder, numbers)
        guided = GuidedDenoiser(self.ema_denoiser, guidance, cond[-1])
        shape = latent_shape(replace(self.options, size=self.size))
        z = torch.randn(len(prompts), *shape, generator=g).to(self.device)
        x = ddim_sample(guided, self.schedule, z, cond[:-1], steps)
        mean, std = (s.view(1, -1, 1, 1, 1) for s in scale)
        decoded = [self.vae.decode(one[None] * std + mean, return_dict=False)[0] for one in x]
        return torch.cat(decoded).clamp(-1, 1)

    def save(self, folder: Path, step: int) -> None:
        """After a step: a WanPipeline folder with the averaged networks."""
        scale = self.scale()
        names = ("latents_mean", "latents_std")
        self.vae.register_to_config(**{k: s.tolist() for k, s in zip(names, scale, strict=True)})
        transformer, text = self.ema_denoiser.network.model, self.ema_text_encoder
        parts = VideoTeacherNetworks(self.vae, transformer, text, self.tokenizer)
        seed = self.seed if len(self.clips) == self.options.clips else None
        learned = replace(self.options, size=self.size)  # so far
        save_video_networks(folder, parts, self.scheduler, learned, step, seed)

    def configure_optimizers(self) -> Any:
        o = self.options
        groups = (
            (self.vae.parameters(), o.vae_lr),
            ([*self.denoiser.parameters(), *self.text_encoder.parameters()], o.lr),
        )
        return staged_adamw(groups, self.starts, o.warmup, learning=(0, *[1] * (len(self.starts) - 2)))


def pixels(clips: Tensor) -> Tensor:
    """Bytes [n, T, 3, H, W] → [n, 3, T, H, W] in [−1, 1]."""
    return clips.movedim(2, 1).float() / 127.5 - 1


def scaled(latents: Tensor, scale: Tensor) -> Tensor:
    """(z − mean)/std per channel; latents [C, T, H, W], scale [2, C]."""
    mean, std = (s.view(-1, 1, 1, 1) for s in scale)
    return (latents - mean) / std


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
