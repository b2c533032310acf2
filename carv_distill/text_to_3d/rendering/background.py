"""A background that is learned with the object."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from carv_distill.text_to_3d.rendering_options import BackgroundOptions


class BackgroundNetwork(nn.Module):
    """The colour far behind an object, by the direction d of a ray alone:

        b(d) = sigmoid(MLP(d, sin πd, cos πd, …, sin 2^(F−1) πd, cos 2^(F−1) πd)),

    with F frequencies. A share of the renders has one random colour in its place: what is opaque in front of
    the one cannot hide in it there.

    Source: DreamFusion (arXiv 2209.14988), section 3.1; the shares and sizes of threestudio.
    """

    def __init__(self, options: BackgroundOptions) -> None:
        super().__init__()
        width, self.flat, self.frequencies = options.width, options.flat, options.frequencies
        self.layers = nn.Sequential(
            nn.Linear(3 + 6 * self.frequencies, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 3),
        )

    def forward(self, directions: Tensor) -> Tensor:
        """Unit vectors [..., 3] → colours in (0, 1), [..., 3]."""
        waves = [2**k * math.pi * directions for k in range(self.frequencies)]
        inputs = torch.cat([directions, *(wave(w) for w in waves for wave in (torch.sin, torch.cos))], -1)
        colours: Tensor = self.layers(inputs).sigmoid()
        return colours

    def behind(self, directions: Tensor, g: torch.Generator) -> Tensor:
        """Of renders with these rays, [n, S, S, 3] → [n, 3, S, S], some of one random colour each."""
        numbers = torch.rand(len(directions), 4, generator=g, device=g.device, dtype=directions.dtype)
        flat = numbers[:, 3] < self.flat
        # The network is in every graph: all processes then have a gradient of it.
        colours = torch.where(flat[:, None, None, None], numbers[:, None, None, :3], self(directions))
        return colours.movedim(-1, 1)
