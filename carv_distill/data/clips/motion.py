"""How much moves where in a clip: weights of a loss over the positions of its latents.

Source: MOTIVE (arXiv 2601.08828), which weights by the magnitude of optical flow at the latents' resolution;
there by AllTracker, here by frame differences or block matching, without weights to fetch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 0.16
"""Displacements from a frame to the next that are looked for, as a share of the shorter side."""
WINDOW = 5
"""Pixels along one side of what is matched."""
COARSE = 32
"""Pixels along the shorter side at which is matched: larger frames are averaged to fewer."""
_STILLNESS = 2e-3
"""What a pixel of displacement costs, in [-1, 1] of grey: where nothing is to be seen, nothing moves."""
_NOISE = 1e-4
"""ε, the square of a slope in grey for each pixel, below which no fraction of a pixel is told."""


def difference_magnitude(clips: Tensor) -> Tensor:
    """m_k = mean over the channels of |x_{k+1} − x_k|, [n, F, C, H, W] → [n, F − 1, H, W].

    It sees every change, and no more of a fast one than of a slow one that goes as far.
    """
    return (clips[:, 1:] - clips[:, :-1]).abs().mean(2)


def flow_magnitude(clips: Tensor) -> Tensor:
    """|d_k| of :func:`flow`, in pixels, [n, F, C, H, W] → [n, F − 1, h, w]."""
    return flow(clips).norm(dim=2)


def flow(clips: Tensor) -> Tensor:
    """Displacements d_k from each frame to the next, right and down, in pixels of the clips:

        d_k(p) = argmin_d  mean_{q in a window about p} |g_{k+1}(q + d) − g_k(q)| + λ |d|,

    with g the mean of the channels, by trying all whole d within :data:`REACH`; then a fraction of a pixel
    by one step of least squares (Lucas and Kanade, 1981), whose median on a texture is right to a tenth.
    Beyond the border the picture goes on as its last pixel.

    Args:
        clips: [n, F, C, H, W] in [-1, 1].

    Returns:
        [n, F − 1, 2, h, w] with h, w = H/s, W/s, rounded up, s = max(1, min(H, W) // 32).
    """
    n, frames = clips.shape[:2]
    step = max(1, min(clips.shape[-2:]) // COARSE)
    grey = clips.mean(2).flatten(0, 1)[:, None]
    grey = F.avg_pool2d(grey, step, ceil_mode=True) if step > 1 else grey
    height, width = grey.shape[-2:]
    grey = grey.view(n, frames, height, width)
    first, second = grey[:, :-1].flatten(0, 1), grey[:, 1:].flatten(0, 1)
    reach = max(1, math.ceil(REACH * min(height, width)))
    side = 2 * reach + 1
    wide = F.pad(second[:, None], (reach,) * 4, mode="replicate")[:, 0]
    cost = torch.empty(len(first), side * side, height, width, dtype=grey.dtype, device=grey.device)
    for place in range(side * side):
        down, right = divmod(place, side)
        difference = (wide[:, down : down + height, right : right + width] - first).abs()
        cost[:, place] = _window_mean(difference)
    length = torch.cartesian_prod(*[torch.arange(-reach, reach + 1.0)] * 2).norm(dim=1).to(cost)
    best = (cost + _STILLNESS * length[:, None, None]).argmin(1, keepdim=True)
    down, right = best[:, 0] // side, best[:, 0] % side
    whole = torch.stack([right, down], 1) - reach
    moved = whole + _fraction(first, wide, down, right)
    return (step * moved).view(n, frames - 1, 2, height, width)


def latent_magnitude(magnitude: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """m at the latents' resolution, means over the pixels of a latent position.

    Latents of a causal video autoencoder: the first is of the first frame alone, each further one of the next
    r = (F − 1)/(f − 1). Here m of the first is of what follows it, of another the mean over the r changes
    that lead to its frames.

    Args:
        magnitude: m ≥ 0, [n, F − 1, H, W]; of any resolution, from :func:`difference_magnitude` or
            :func:`flow_magnitude`.
        shape: f, h, w of the latents.

    Returns:
        [n, f, h, w]; zeros for a single frame.

    Raises:
        ValueError: F − 1 is no multiple of f − 1, or a latent has several frames but is the only one.
    """
    changes, (frames, height, width) = magnitude.shape[1], shape
    fits = changes > 0 and changes % (frames - 1) == 0 if frames > 1 else frames == 1 and not changes
    if not fits:
        raise ValueError(f"{changes + 1} frames do not go into {frames} latents: 1 + r (f − 1) do")
    if not changes:
        return magnitude.new_zeros(len(magnitude), frames, height, width)
    spatial = F.adaptive_avg_pool2d(magnitude, (height, width))
    grouped = spatial.view(len(spatial), frames - 1, changes // (frames - 1), height, width).mean(2)
    return torch.cat([spatial[:, :1], grouped], 1)


def normalised_weights(magnitude: Tensor, floor: float) -> Tensor:
    """Weights of mean 1 over each clip, w = (m + c) / mean(m + c), [n, f, h, w] → the same.

    Args:
        floor: c > 0 in the units of m: what does not move counts for so much, and all the same where nothing
            does.

    Raises:
        ValueError: c is not above 0.
    """
    if not floor > 0:
        raise ValueError(f"floor: {floor}; above 0 it must be, as nothing may move in a clip")
    weights = magnitude + floor
    return weights / weights.mean((1, 2, 3), keepdim=True)


def _window_mean(values: Tensor) -> Tensor:
    """Means over windows, of what of them is inside, [m, h, w]."""
    pad = WINDOW // 2
    return F.avg_pool2d(values[:, None], WINDOW, 1, pad, count_include_pad=False)[:, 0]


def _fraction(first: Tensor, wide: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """What is left of a displacement after whole pixels, within half a pixel, [m, 2, h, w]:

        δ = −(Σ ∇g ∇gᵀ + ε)⁻¹ Σ ∇g r,    r(q) = g_{k+1}(q + d) − g_k(q), sums over the window.

    Args:
        wide: g_{k+1} with a margin, from whose upper left corner `down` and `right` count.
    """
    height, width = first.shape[-2:]
    rows = down + torch.arange(height, device=down.device)[:, None]
    columns = right + torch.arange(width, device=right.device)
    place = (rows * wide.shape[-1] + columns).flatten(1)

    def there(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, place).view_as(first)

    slope_y, slope_x = torch.gradient(wide, dim=(1, 2))
    x, y, rest = there(slope_x), there(slope_y), there(wide) - first
    xx, yy = (_window_mean(v * v) + _NOISE for v in (x, y))
    xy, xr, yr = _window_mean(x * y), _window_mean(x * rest), _window_mean(y * rest)
    scale = -1 / (xx * yy - xy.square())
    delta = torch.stack([scale * (yy * xr - xy * yr), scale * (xx * yr - xy * xr)], 1)
    return delta.clamp(-0.5, 0.5)
