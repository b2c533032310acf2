"""What of threestudio its extensions meet, as a stand-in: it has no package to install.

Facts, read in github.com/threestudio-project/threestudio (no code of it is here):

- `register(name)` of the package keeps classes by name (threestudio/__init__.py at 1dc1c0a); launch.py loads
  each folder of `custom/` as a module of that folder's name.
- `BaseObject(cfg)` makes its nested dataclass `Config` of a mapping, which refuses unknown keys, an OmegaConf
  structure of that, and calls `configure` (threestudio/utils/base.py at 0b96c7b).
- `StableDiffusionGuidance` (threestudio/models/guidance/stable_diffusion_guidance.py at 02d05b0): the keys of
  `Config` and their defaults; what `configure` sets; a render [B, H, W, C] in [0, 1] is brought to 512² and
  encoded, or to 64² where it is latents already, in its own type around networks in theirs; t is uniform on
  min_step … max_step, both included; the loss and the guidance formulas that are written out below; the keys
  of its result.
- Prompts (threestudio/models/prompt_processors/base.py): conditional rows first, then unconditional ones, and
  for Perp-Neg then two negatives of each render, side by side, with their weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from omegaconf import OmegaConf
from torch import Tensor

from .tiny_pipelines import TIMESTEPS, autoencoder, clip_text, clip_tokenizer

REGISTRY: dict[str, type] = {}


def register(name: str) -> Callable[[type], type]:
    def keep(kind: type) -> type:
        REGISTRY[name] = kind
        return kind

    return keep


def perpendicular_component(x: Tensor, y: Tensor) -> Tensor:
    """x without its part along y, [B, C, H, W] each."""
    along = (x * y).flatten(1).sum(1) / y.square().flatten(1).sum(1)
    return x - along.view(-1, 1, 1, 1) * y


class StableDiffusionGuidance:
    @dataclass
    class Config:
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        guidance_scale: float = 100.0
        half_precision_weights: bool = True
        min_step_percent: float = 0.02
        max_step_percent: float = 0.98
        use_sjc: bool = False
        use_img_loss: bool = False
        weighting_strategy: str = "sds"
        view_dependent_prompting: bool = True

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg: Any = OmegaConf.structured(self.Config(**cfg))
        self.device = torch.device("cpu")
        self.configure()

    def configure(self) -> None:
        assert not self.cfg.half_precision_weights
        pipe = StableDiffusionPipeline.from_pretrained(self.cfg.pretrained_model_name_or_path)
        self.vae, self.unet, self.scheduler = pipe.vae, pipe.unet, pipe.scheduler
        for network in (self.vae, self.unet):
            network.eval().requires_grad_(False)
        self.weights_dtype = torch.float32
        self.alphas = self.scheduler.alphas_cumprod
        self.num_train_timesteps = self.scheduler.config.num_train_timesteps
        self.grad_clip_val: float | None = None
        self.set_min_max_steps(self.cfg.min_step_percent, self.cfg.max_step_percent)

    def set_min_max_steps(self, min_step_percent: float, max_step_percent: float) -> None:
        self.min_step = int(self.num_train_timesteps * min_step_percent)
        self.max_step = int(self.num_train_timesteps * max_step_percent)

    def forward_unet(self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        inputs = (part.to(self.weights_dtype) for part in (latents, t, encoder_hidden_states))
        return self.unet(*inputs).sample.to(latents.dtype)

    def encode_images(self, images: Tensor) -> Tensor:
        posterior = self.vae.encode(2 * images.to(self.weights_dtype) - 1).latent_dist
        return (posterior.sample() * self.vae.config.scaling_factor).to(images.dtype)

    def guided(self, x_t: Tensor, t: Tensor, text: Tensor, negative: Tensor | None) -> Tensor:
        """ε̂ of a batch by one call of the UNet; text [2B or 4B, L, D], weights of negatives [B, 2]."""
        count, many = len(x_t), len(text) // len(x_t)
        e = self.forward_unet(x_t.repeat(many, 1, 1, 1), t.repeat(many), text)
        conditional, none, scale = e[:count], e[count : 2 * count], self.cfg.guidance_scale
        if negative is None:
            return conditional + scale * (conditional - none)
        total = conditional - none
        for i in range(2):
            away = e[2 * count + i :: 2] - none
            total = total + negative[:, i].view(-1, 1, 1, 1) * perpendicular_component(
                away, conditional - none
            )
        return none + scale * total

    def weight(self, t: Tensor) -> Tensor:
        """w(t) [B, 1, 1, 1]."""
        a = self.alphas[t].view(-1, 1, 1, 1)
        return {"sds": 1 - a, "uniform": torch.ones_like(a), "fantasia3d": a.sqrt() * (1 - a)}[
            self.cfg.weighting_strategy
        ]

    def __call__(
        self,
        rgb: Tensor,
        prompt_utils: Any,
        elevation: Tensor,
        azimuth: Tensor,
        camera_distances: Tensor,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One t and one noise of each render, which are left in `drawn`."""
        side = 64 if rgb_as_latents else 512
        latents = F.interpolate(rgb.movedim(3, 1), (side, side), mode="bilinear", align_corners=False)
        if not rgb_as_latents:
            latents = self.encode_images(latents)
        camera = elevation, azimuth, camera_distances
        if prompt_utils.use_perp_neg:
            text, negative = prompt_utils.get_text_embeddings_perp_neg(
                *camera, self.cfg.view_dependent_prompting
            )
        else:
            text = prompt_utils.get_text_embeddings(*camera, self.cfg.view_dependent_prompting)
            negative = None
        t = torch.randint(self.min_step, self.max_step + 1, (len(rgb),))
        noise = torch.randn_like(latents)
        self.drawn = t, noise
        a = self.alphas[t].view(-1, 1, 1, 1)
        with torch.no_grad():
            x_t = a.sqrt() * latents + (1 - a).sqrt() * noise
            grad = self.weight(t) * (self.guided(x_t, t, text, negative) - noise)
        if self.grad_clip_val is not None:
            grad = grad.clamp(-self.grad_clip_val, self.grad_clip_val)
        loss = 0.5 * (latents - (latents - grad).detach()).square().sum() / len(rgb)
        out = {
            "loss_sds": loss,
            "grad_norm": grad.norm(),
            "min_step": self.min_step,
            "max_step": self.max_step,
        }
        return out | ({"eval": {"noise_levels": t / self.num_train_timesteps}} if guidance_eval else {})


@dataclass
class Prompts:
    """Embeddings by view, [views, L, D]: the view is the sign of the azimuth."""

    text: Tensor
    none: Tensor
    negatives: Tensor
    use_perp_neg: bool = False

    def get_text_embeddings(
        self, elevation: Tensor, azimuth: Tensor, distance: Tensor, by_view: bool
    ) -> Tensor:
        view = (azimuth > 0).long() * by_view
        return torch.cat([self.text[view], self.none[view]])

    def get_text_embeddings_perp_neg(
        self, elevation: Tensor, azimuth: Tensor, distance: Tensor, by_view: bool
    ) -> tuple[Tensor, Tensor]:
        positive_and_none = self.get_text_embeddings(elevation, azimuth, distance, by_view)
        two = self.negatives.repeat(len(azimuth), 1, 1) + azimuth.repeat_interleave(2).view(-1, 1, 1) / 90
        weights = -torch.stack([azimuth.abs() / 180, 1 - azimuth.abs() / 180], 1)
        return torch.cat([positive_and_none, two]), weights


def save_pipeline(folder: Path) -> Path:
    """A random pipeline whose latents are 64² at 512², with attention at 16² alone."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    StableDiffusionPipeline(
        vae=autoencoder(8),
        unet=unet,
        tokenizer=clip_tokenizer(),
        text_encoder=clip_text(),
        scheduler=DDIMScheduler(TIMESTEPS, 0.00085, 0.012, "scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """threestudio as far as an extension imports it."""
    contents: dict[str, dict[str, Any]] = {
        "threestudio": {"register": register, "find": REGISTRY.__getitem__},
        "threestudio.models": {},
        "threestudio.models.guidance": {},
        "threestudio.models.guidance.stable_diffusion_guidance": {
            "StableDiffusionGuidance": StableDiffusionGuidance
        },
        "threestudio.utils": {},
        "threestudio.utils.ops": {"perpendicular_component": perpendicular_component},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def views(count: int, channels: int = 3, side: int = 16) -> SimpleNamespace:
    """Renders with their cameras and prompts."""
    g = torch.Generator().manual_seed(1)
    text, none, negatives = (torch.randn(2, 10, 8, generator=g) for _ in range(3))
    return SimpleNamespace(
        rgb=torch.rand(count, side, side, channels, generator=g),
        prompt_utils=Prompts(text, none, negatives),
        elevation=torch.zeros(count),
        azimuth=torch.linspace(-120, 120, count),
        camera_distances=torch.ones(count),
    )
