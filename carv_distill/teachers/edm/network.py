"""EDM's networks as raw networks F(x, c_noise, cond)."""

from __future__ import annotations

from torch import Tensor

from carv_distill.teachers.network import RawNetwork

from .unet import EDMUNet


class EDMNetwork(RawNetwork):
    """F(x, c_noise, cond) by a :class:`SongUNet` or :class:`DhariwalUNet`; `cond` is a class label per row.

    Where labels were dropped in training, the index after the last class is the null label.
    """

    unet: EDMUNet

    @property
    def size(self) -> int:
        return self.unet.config.img_resolution

    @property
    def labels(self) -> int:
        classes = self.unet.config.label_dim
        return classes + 1 if classes and self.unet.config.label_dropout else classes

    @property
    def bottleneck_channels(self) -> int:
        return self.unet.config.model_channels * self.unet.config.channel_mult[-1]

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        return self.unet(x, c_noise, cond, return_dict=False)[0]

    def bottleneck(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        """After the two middle blocks; the decoder's other half is not computed."""
        return self.unet.bottleneck(x, c_noise, cond)
