"""DDPM++ and NCSN++."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from carv_distill.teachers.float32 import Float32Conv2d, without_autocast

from .block import BlockStyle, weighted_layers
from .layers import FourierEmbedding, PositionalEmbedding, Resample, ResamplingConv2d, group_norm
from .unet import EDMUNet, Part, Put

__all__ = ["ConfigMixin", "ModelMixin", "SongUNet"]  # diffusers looks for a component's base class here

_CHOICES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}


class SongUNet(EDMUNet):
    """DDPM++ by default; NCSN++ with fourier, channel_mult_noise 2, residual and (1, 3, 3, 1).

    Args:
        img_resolution: side S of the pictures.
        in_channels, out_channels: of the pictures.
        label_dim: classes; 0 is unconditional.
        augment_dim: numbers that tell of a picture's augmentation; 0 is none.
        model_channels, channel_mult: their products are the channels at S, S/2, …
        channel_mult_emb: the embedding's channels over the model's.
        num_blocks: per side.
        attn_resolutions: the sides with self-attention.
        dropout: in training mode.
        label_dropout: share of labels dropped in training mode; above 0 there is a null label.
        embedding_type: of the noise level, positional or fourier.
        channel_mult_noise: the noise level's first embedding over the model's channels.
        encoder_type: standard, skip or residual: how the picture comes in at lower sides.
        decoder_type: standard or skip: one output, or a sum of one per side.
        resample_filter: taps of up- and downsampling.

    Raises:
        ValueError: a type that is none of these.

    Source: Song et al. 2021 (score SDE), appendix H; Karras et al. 2022 (EDM), appendix F.
    """

    @register_to_config
    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        for name, allowed in _CHOICES.items():
            if (found := self.config[name]) not in allowed:
                raise ValueError(f"{name} {found!r} is not one of {', '.join(allowed)}")
        noise, embedding = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        self.map_noise: nn.Module = (
            PositionalEmbedding(noise, endpoint=True)
            if embedding_type == "positional"
            else FourierEmbedding(noise)
        )
        self.map_label = nn.Linear(label_dim, noise) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, noise, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        style = BlockStyle(
            embedding=embedding,
            dropout=dropout,
            adaptive_scale=False,
            project_skip=True,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            head_channels=None,
            taps=resample_filter,
        )
        self.build(model_channels, [model_channels * m for m in channel_mult], style, attention_up="last")
        self._initialise()

    def _initialise(self) -> None:
        """Xavier's uniform weights, zero biases; branches start close to nothing."""
        gains = {"conv1": 1e-5, "proj": 1e-5, "qkv": math.sqrt(0.2)}
        for name, layer in weighted_layers(self):
            nn.init.xavier_uniform_(layer.weight, 1e-5 if name.endswith("aux_conv") else gains.get(name, 1))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def embed(self, c_noise: Tensor, label: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        cos, sin = self.map_noise(c_noise).to(self.map_layer0.weight.dtype).chunk(2, 1)
        e = torch.cat([sin, cos], 1)  # the other way round than ADM
        if label is not None and self.map_label is not None:
            e = e + self.map_label(label * math.sqrt(self.map_label.in_features))
        if augment_labels is not None and self.map_augment is not None:
            e = e + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(e))))

    def add_side_input(self, put: Put, picture: int, channels: int) -> int:
        taps = self.config.resample_filter
        match self.config.encoder_type:
            case "skip":
                put("aux_down", Resample("down", taps))
                put("aux_skip", nn.Conv2d(picture, channels, 1))
            case "residual":
                down = ResamplingConv2d(picture, channels, 3, "down", taps, convolve_first=True)
                put("aux_residual", down)
                return channels
        return picture

    def side_input(self, part: Part, x: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        match self.config.encoder_type:
            case "skip":
                picture = part("aux_down")(picture)
                return x + part("aux_skip")(picture), picture
            case "residual":
                x = (x + part("aux_residual")(picture)) * math.sqrt(0.5)
                return x, x
        return x, picture

    def add_output(self, put: Put, side: int, channels: int) -> None:
        c = self.config
        if c.decoder_type == "skip" and side != self.sides[-1]:
            put("aux_up", Resample("up", c.resample_filter))
        if c.decoder_type == "skip" or side == self.sides[0]:
            put("aux_norm", group_norm(channels, 1e-6))
            put("aux_conv", Float32Conv2d(channels, c.out_channels, 3, padding=1))

    def output(self, part: Part, side: int, x: Tensor, out: Tensor | None) -> Tensor | None:
        if self.config.decoder_type == "standard" and side != self.sides[0]:
            return None
        here = part("aux_conv")(F.silu(part("aux_norm")(x)))
        if out is None:
            return here
        with without_autocast(out):
            return part("aux_up")(out) + here
