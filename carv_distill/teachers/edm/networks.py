"""DDPM++, NCSN++ and ADM: what the U-Nets of the published EDM teachers differ in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from carv_distill.teachers.precision import Float32Conv2d

from .layers import BlockStyle, FourierEmbedding, PositionalEmbedding, group_norm, weighted_layers
from .unet import EDMUNet

# diffusers looks for a component's base class here
__all__ = ["ConfigMixin", "DhariwalUNet", "ModelMixin", "SongUNet"]

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
            if (value := self.config[name]) not in allowed:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(allowed)}")
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
        channels = [model_channels * m for m in channel_mult]
        self.build(model_channels, channels, style, "last", encoder_type, decoder_type)
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


class DhariwalUNet(EDMUNet):
    """ADM: heads of 64 channels, the embedding scales and shifts, labels are added after two layers.

    Args as of :class:`SongUNet`.

    Source: Dhariwal & Nichol 2021, section 3 and appendix; Karras et al. 2022 (EDM), appendix F.
    """

    @register_to_config
    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0,
    ) -> None:
        super().__init__()
        embedding = model_channels * channel_mult_emb
        self.map_noise = PositionalEmbedding(model_channels, endpoint=False)
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(model_channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        self.map_label = nn.Linear(label_dim, embedding, bias=False) if label_dim else None
        style = BlockStyle(
            embedding=embedding,
            dropout=dropout,
            adaptive_scale=True,
            project_skip=False,
            skip_scale=1,
            eps=1e-5,
            head_channels=64,
        )
        channels = [model_channels * m for m in channel_mult]
        self.build(channels[0], channels, style, attention_up="all")
        self.out_norm = group_norm(channels[0], 1e-5)
        self.out_conv = Float32Conv2d(channels[0], out_channels, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """torch's own uniform weights and biases; branches and the output start at nothing."""
        for name, layer in weighted_layers(self):
            if name in ("conv1", "proj", "out_conv", "map_augment"):
                nn.init.zeros_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

    def embed(self, c_noise: Tensor, label: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        e = self.map_noise(c_noise).to(self.map_layer0.weight.dtype)
        if augment_labels is not None and self.map_augment is not None:
            e = e + self.map_augment(augment_labels)
        e = self.map_layer1(F.silu(self.map_layer0(e)))
        if label is not None and self.map_label is not None:
            e = e + self.map_label(label)
        return F.silu(e)

    def output(self, x: Tensor) -> Tensor:
        return self.out_conv(F.silu(self.out_norm(x)))
