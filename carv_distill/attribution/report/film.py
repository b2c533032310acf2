"""Queries and their most influential clips, side by side in motion."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.attribution.measure import InfluenceResult
from carv_distill.data.clips.mp4 import film
from carv_distill.data.sets import to_uint8

from .report import cut_words

log = logging.getLogger(__name__)

LEAST, MOST = 128, 192
"""Pixels of a clip's height: small ones are enlarged by a whole number, large ones shrunk, so that a film of
real clips fits into memory."""
LARGEST = 4096
"""Pixels of a film's width or height: what browsers play by a device's own decoder. H.264 ends at 16,384."""
GAP, APART = 4, 24
"""White pixels between clips, and between a query and the first of them."""
FPS = 8
ROUNDS = 3
"""How often the film plays through."""


def save_film(result: InfluenceResult, count: int, path: Path) -> None:
    """Writes an mp4: a row for each query, which comes first, then so many of its most influential training
    clips, the first next to it; of both as many as a film of :data:`LARGEST` pixels holds. Of a set of clips
    all have as many frames."""
    height, width = _sized(result.queries.pictures[0]).shape[-2:]
    lines, columns = min(len(result.queries), _fitting(height, 0)), min(count, _fitting(width, 1))
    if cut := cut_words((lines, len(result.queries)), (columns, count)):
        log.info("%s: %s; a film holds no more", path, cut)
    rows = []
    for q, top in enumerate(result.ranking.top(columns)[:lines].tolist()):
        found = result.training.pictures(torch.tensor(top))
        rows.append(row(result.queries.pictures[q], [*found]))
    frames = torch.cat([part for line in rows for part in (line, _white(line, GAP, 2))][:-1], 2)
    height, width = frames.shape[2:]
    with film(path, height, width, FPS) as write:
        for _ in range(ROUNDS):
            for frame in frames:
                write(frame)


def row(query: Tensor, clips: list[Tensor]) -> Tensor:
    """Clips [F, 3, H, W] in [−1, 1] beside each other, bytes [F, 3, h, w]."""
    shown = [to_uint8(_sized(clip)) for clip in (query, *clips)]
    parts = [shown[0], _white(shown[0], APART, 3)]
    for clip in shown[1:]:
        parts += [clip, _white(clip, GAP, 3)]
    return torch.cat(parts[:-1], 3)


def _fitting(side: int, before: int) -> int:
    """Clips of so many pixels, with those before them at a distance, that a film holds beside or below each
    other; at least one."""
    return max(1, (LARGEST + GAP - before * (side + APART)) // (side + GAP))


def _sized(clip: Tensor) -> Tensor:
    height, width = clip.shape[-2:]
    if height > MOST:
        return F.interpolate(clip, (MOST, round(width * MOST / height)), mode="area")
    return F.interpolate(clip, scale_factor=math.ceil(LEAST / height), mode="nearest")


def _white(like: Tensor, size: int, dim: int) -> Tensor:
    """So many rows (dim 2) or columns (dim 3)."""
    shape = list(like.shape)
    shape[dim] = size
    return like.new_full(shape, 255)
