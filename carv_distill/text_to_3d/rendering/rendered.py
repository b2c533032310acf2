"""What a renderer gives, and what is behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from carv_distill.geometry.solids import BACKGROUND

SHADES = {"grey": BACKGROUND, "white": 1.0, "black": 0.0}


@dataclass(frozen=True)
class Splats:
    """Where n pictures have N Gaussians."""

    place: Tensor
    """Column and row of the means, pixels, [n, N, 2], with the graph of the pictures: its gradient is that of
    view space."""
    visible: Tensor
    """[n, N]: whether the Gaussian reaches the picture."""


@dataclass(frozen=True)
class Rendered:
    """n pictures."""

    image: Tensor
    """[n, 3, S, S] in [0, 1]."""
    opacity: Tensor
    """[n, 1, S, S]: the share of each pixel that is not background."""
    splats: Splats | None = None
    """Of Gaussians."""
    orientation: Tensor | None = None
    """[n, 1, S, S], of lit fields: Σ_i w_i max(0, n_i · d)² of a pixel's ray, d its direction, by weights
    w_i without a graph: how much of what is seen faces away (Ref-NeRF, arXiv 2112.03907, equation 11)."""


def over(seen: Rendered, behind: Tensor) -> Rendered:
    """Pictures over black before a background [n, 3, S, S]."""
    return replace(seen, image=seen.image + (1 - seen.opacity) * behind)


def background_colours(name: str, count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Of each of `count` pictures, [n, 3]: grey | white | black | random, the last one for each picture."""
    if name == "random":
        return torch.rand(count, 3, generator=generator, device=like.device, dtype=like.dtype)
    return like.new_full((count, 3), SHADES[name])
