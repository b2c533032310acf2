"""Between pictures and what a teacher denoises: pixels, latents of images, latents of videos."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from torch import Tensor, nn

from carv_distill.errors import UserError

_MOST_PIXELS = 2**21
"""That are decoded at a time: an autoencoder takes about a kilobyte for each."""


class Codec(nn.Module, ABC):
    """x = encode(picture), picture = decode(x)."""

    channels: int
    """C of one x."""

    @abstractmethod
    def shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """Of one x, for pictures of [height, width], or videos of [frames, height, width].

        Raises:
            UserError: a size of which there is no such x.
        """

    def rows(self, x: Tensor) -> int:
        """How many of x [n, …] to decode at a time."""
        return len(x)

    @abstractmethod
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x of pictures [n, 3, …] in [−1, 1], with the graph back to them."""

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of x of pictures, with the graph back to them."""
        mean, std = self.posterior(images)
        noise = torch.randn(mean.shape, generator=generator, device=images.device, dtype=images.dtype)
        return mean + std * noise

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Pictures in [−1, 1] up to the decoder's error, without a graph."""


class Pixels(Codec):
    """x are the pictures themselves."""

    channels = 3

    def shape(self, size: Sequence[int]) -> tuple[int, ...]:
        _require(size, 2, 1)
        return 3, *size

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, torch.zeros_like(images)

    def encode(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images

    def decode(self, x: Tensor) -> Tensor:
        return x


class ImageLatents(Codec):
    """x = (l − shift) · scale, l a sample of an autoencoder's posterior.

    Args:
        vae: with `scaling_factor`, and `shift_factor` or none.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        self.channels: int = vae.config.latent_channels
        self.scale: float = vae.config.scaling_factor
        self.shift: float = vae.config.get("shift_factor") or 0.0

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def shape(self, size: Sequence[int]) -> tuple[int, ...]:
        _require(size, 2, self.factor)
        return self.channels, *(side // self.factor for side in size)

    def rows(self, x: Tensor) -> int:
        return max(1, _MOST_PIXELS // (self.factor**2 * x[0, 0].numel()))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        mean, std = found.mean.to(images.dtype), found.std.to(images.dtype)
        return (mean - self.shift) * self.scale, std * self.scale

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        latents = x / self.scale + self.shift
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].to(x.dtype)


CHUNK = 4
"""Frames that diffusers gives Wan's autoencoder at a time, after the first."""


class VideoLatents(Codec):
    """x = (l − mean)/std per channel, l a sample of Wan's autoencoder: F = 4 m + 1 frames give 1 + (F − 1)/f
    latents of f frames each but for the first.

    Args:
        vae: with `latents_mean` and `latents_std`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae
        c = vae.config
        self.channels: int = c.z_dim
        shape = (1, c.z_dim, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(c.latents_mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(c.latents_std).view(shape), persistent=False)
        # not of `scale_factor_*`, which do not follow the network's own sizes
        self.side: int = 2 ** (len(c.dim_mult) - 1) * (c.get("patch_size") or 1)
        self.frames: int = 2 ** sum(c.temperal_downsample)

    def shape(self, size: Sequence[int]) -> tuple[int, ...]:
        _require(size, 3, self.side)
        chunk = max(CHUNK, self.frames)
        if size[0] % chunk != 1:
            raise UserError(
                f"teacher.size: {size[0]} frames are not {chunk} m + 1; the autoencoder would drop some"
            )
        return self.channels, (size[0] - 1) // self.frames + 1, size[1] // self.side, size[2] // self.side

    def rows(self, x: Tensor) -> int:
        return 1

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        mean, std = found.mean.to(images.dtype), found.std.to(images.dtype)
        scale = self.std.to(images.dtype)
        return (mean - self.mean.to(images.dtype)) / scale, std / scale

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        latents = x * self.std.to(x.dtype) + self.mean.to(x.dtype)
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].to(x.dtype)


def _require(size: Sequence[int], count: int, factor: int) -> None:
    names = ("height, width", "frames, height, width")[count - 2]
    if len(size) != count or min(size) < 1:
        raise UserError(f"teacher.size: {list(size)} is not [{names}], as this teacher needs")
    for side in size[-2:]:
        if side % factor:
            raise UserError(f"teacher.size: {side} is no multiple of {factor} pixels, the side of a latent")
