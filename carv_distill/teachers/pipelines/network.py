"""The face of networks that a prompt conditions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from diffusers import ModelMixin
from torch import Tensor

from carv_distill.teachers.condition import Cond, Condition
from carv_distill.teachers.network import RawNetwork, recorded, unet_features
from carv_distill.teachers.precision import keep_float32


class PromptNetwork(RawNetwork):
    """F(y, c_noise, cond) of latents or pixels of one shape; `cond` is a :class:`Condition`.

    It computes in its own precision, but for the last layer, which stays in float32: where little signal is
    left, x̂ is its output many times over.

    Args:
        model: one of diffusers'.
        shape: of one row of y.
    """

    last: ClassVar[str]
    """Name of the last layer."""

    def __init__(self, model: ModelMixin, shape: tuple[int, ...]) -> None:
        super().__init__(model)
        self._shape = shape
        keep_float32(self.model.get_submodule(self.last))
        self.dtype: torch.dtype = model.dtype
        """Of the model; to ask it at every call would walk all its modules."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.dtype = self.model.dtype
        return self

    def cast(self, dtype: torch.dtype) -> Self:
        """Gives the weights another precision, but for the last layer's and those that the model's class
        keeps in float32."""
        keep = self.model._keep_in_fp32_modules or ()
        for name, parameter in self.model.named_parameters():
            # the last layer by its whole name: Flux's blocks have a proj_out each
            if not name.startswith(f"{self.last}.") and not any(part in keep for part in name.split(".")):
                parameter.data = parameter.data.to(dtype)
        self.dtype = self.model.dtype
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def channels(self) -> tuple[int, int]:
        """Of one row of y, and of what the model gives for it, as its configuration has them."""
        into: int = self.config["in_channels"]
        return into, self.config.get("out_channels") or into

    @property
    def patch(self) -> tuple[int, ...]:
        """Sides of what is one token, of which the last sides of y must be multiples."""
        return 1, 1

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        if not isinstance(cond, Condition):
            raise ValueError("a text-to-image network needs the embedding of a prompt")
        return self.call(x.to(self.dtype), c_noise, cond.to(self.dtype))

    @abstractmethod
    def call(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        """F, all in the model's precision but for the noise level."""


class PromptUNet(PromptNetwork):
    """F by a :class:`diffusers.UNet2DConditionModel`. Where the network predicts variances too, after F's
    channels, they are dropped."""

    last = "conv_out"

    def call(self, x: Tensor, c_noise: Tensor, cond: Condition) -> Tensor:
        out = self.model(
            x,
            c_noise,
            encoder_hidden_states=cond.embeddings,
            added_cond_kwargs=self.added(cond),
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]

    def added(self, cond: Condition) -> dict[str, Tensor] | None:
        """What the network takes beside the tokens."""
        return None

    def encoder(self, x: Tensor, c_noise: Tensor, cond: Cond) -> list[Tensor]:
        return unet_features(self.model.down_blocks, lambda: self.forward(x, c_noise, cond))


class PromptTransformer(PromptNetwork):
    """F by one of diffusers' transformers of patches."""

    last = "proj_out"
    blocks: ClassVar[str] = "transformer_blocks"
    """Name of the list of blocks."""
    DEPTHS = (1 / 2, 3 / 4, 1 / 4, 1)
    """Share of the blocks after which features are read, the one to read alone first."""

    @property
    def patch(self) -> tuple[int, ...]:
        sides: int | Sequence[int] = self.config["patch_size"]
        return (sides, sides) if isinstance(sides, int) else tuple(sides)

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each side, (h, w) or (frames, h, w)."""
        return tuple(s // p for s, p in zip(self.shape[1:], self.patch, strict=True))

    def tokens(self, output: Any) -> Tensor:
        """Those of the picture in what a block gives, [n, N, D]."""
        return output[1] if isinstance(output, tuple) else output

    def encoder(self, x: Tensor, c_noise: Tensor, cond: Cond) -> list[Tensor]:
        """After blocks at some depths, as pictures of patches; a video's frames lie side by side."""
        every = list(self.model.get_submodule(self.blocks))
        depths = list(dict.fromkeys(max(1, round(share * len(every))) for share in self.DEPTHS))
        read = [every[depth - 1] for depth in sorted(depths)]
        found = recorded(read, lambda _, output: self.tokens(output), lambda: self.forward(x, c_noise, cond))
        by_depth = dict(zip(sorted(depths), found, strict=True))
        return [self._picture(by_depth[depth]) for depth in depths]

    def _picture(self, tokens: Tensor) -> Tensor:
        *frames, height, width = self.grid
        count = frames[0] if frames else 1
        side_by_side = tokens.unflatten(1, (count, height, width)).permute(0, 4, 2, 1, 3)
        return side_by_side.flatten(3)
