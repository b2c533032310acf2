"""Pictures of many small images."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from carv_distill.data.sets import to_uint8
from carv_distill.files import atomic_file


def save_grid(images: Tensor, path: Path | str, columns: int, scale: int = 1) -> None:
    """Write images as a PNG, atomically, row by row, each pixel drawn as a square of `scale` pixels.

    Images go in the order given: with `columns` of each class one after another, every row is a class.

    Args:
        images: [n, C, H, W] in [-1, 1], C = 1 or 3, on any device; rounded as for the metrics.
        columns: images per row; the last row may be short.
    """
    grid = make_grid(to_uint8(images.detach().cpu()), nrow=columns, padding=1, pad_value=64)
    grid = grid.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    picture = Image.fromarray(grid.permute(1, 2, 0).contiguous().to(torch.uint8).numpy())
    with atomic_file(path) as file:
        picture.save(file, format="PNG")
