"""Training of several networks one after the other, and what their folders share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from carv_distill.engine.optimisation import stage_rate


def staged_adamw(
    groups: Sequence[tuple[Iterable[Parameter], float]],
    starts: Sequence[int],
    warmup: int,
    learning: Sequence[int] | None = None,
) -> dict[str, Any]:
    """AdamW with a group for every network, whose rate is above zero in the steps of its own stages alone:
    in each linear warm-up, then cosine decay to zero; as `configure_optimizers` returns it.

    Args:
        groups: parameters and full rate of each network.
        starts: of each stage its first step, and at last the end of all.
        warmup: steps.
        learning: of each stage the place in `groups` of what learns; None: one stage for each, in order.
    """
    optimizer = torch.optim.AdamW(
        [{"params": list(parameters), "lr": rate} for parameters, rate in groups],
        weight_decay=0.0,
        fused=True,
    )
    spans = list(zip(learning or range(len(groups)), pairwise(starts), strict=True))

    def rate(group: int, step: int) -> float:
        own = (span for who, span in spans if who == group)
        return sum(stage_rate(step, start=start, end=end, warmup=warmup) for start, end in own)

    rates: list[Callable[[int], float]] = [partial(rate, group) for group in range(len(groups))]
    schedule = {"scheduler": LambdaLR(optimizer, rates), "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def save_clip(folder: Path, clip: CLIPModel, tokenizer: CLIPTokenizer, size: int) -> None:
    """A CLIP model with its processor, for pictures of so many pixels in [−1, 1]."""
    half, side = [0.5, 0.5, 0.5], {"height": size, "width": size}
    images = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=half, image_std=half
    )
    clip.save_pretrained(folder)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
