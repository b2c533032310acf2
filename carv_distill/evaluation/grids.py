"""Pictures of many small images."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from carv_distill.data.sets import to_uint8
from carv_distill.files import atomic_file

DESCRIPTION = "Description"
"""A PNG's keyword for text on what it shows."""


def save_grid(images: Tensor, path: Path | str, columns: int, scale: int = 1) -> None:
    """Write images as a PNG, atomically, row by row, each pixel drawn as a square of `scale` pixels.

    Images go in the order given: with `columns` of each class one after another, every row is a class.

    Args:
        images: [n, C, H, W] in [-1, 1], C = 1 or 3, on any device; rounded as for the metrics. Or bytes.
        columns: images per row; the last row may be short.
    """
    pixels = _bytes(images)
    grid = make_grid(pixels, nrow=columns, padding=1, pad_value=64)
    grid = grid.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    picture = Image.fromarray(grid.permute(1, 2, 0).contiguous().to(torch.uint8).numpy())
    with atomic_file(path) as file:
        picture.save(file, format="PNG")


def save_captioned_grid(images: Tensor, captions: Sequence[str], path: Path | str, side: int = 128) -> None:
    """Write images as a PNG, atomically: a column for each caption, which stands above it and in the PNG's
    description.

    Args:
        images: [rows · columns, C, H, W] in [-1, 1], C = 1 or 3, row by row. Or bytes.
        side: pixels along one side of an image, at least; small ones are enlarged by a whole number.
    """
    pixels = _bytes(images).expand(-1, 3, -1, -1)
    scale = max(1, side // pixels.shape[-1])
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    grid = make_grid(pixels, nrow=len(captions), padding=2, pad_value=64)
    width, font = pixels.shape[-1] + 2, ImageFont.load_default(12)
    lines = [_lines(caption, max(8, width // 7), 4) for caption in captions]
    head = 15 * max(map(len, lines)) + 6
    picture = Image.new("RGB", (grid.shape[2], grid.shape[1] + head), "white")
    picture.paste(Image.fromarray(grid.permute(1, 2, 0).contiguous().to(torch.uint8).numpy()), (0, head))
    draw = ImageDraw.Draw(picture)
    for column, text in enumerate(lines):
        draw.multiline_text((column * width + 4, 2), "\n".join(text), fill="black", font=font, spacing=3)
    with atomic_file(path) as file:
        picture.save(file, format="PNG", pnginfo=_described(captions))


def save_clip_sheet(
    clips: Tensor, captions: Sequence[str], path: Path | str, columns: int = 8, side: int = 64
) -> None:
    """Write clips as a PNG, atomically: a row for each, its caption and then its frames in order; captions
    stand in the PNG's description, too.

    Args:
        clips: uint8 [n, F, 3, H, W], or in [-1, 1].
        columns: frames of each that are shown, evenly spread; all where there are fewer.
        side: pixels along the shorter side of a frame, at least; small ones are enlarged by a whole number.
    """
    pixels = _bytes(clips)
    frames = pixels.shape[1]
    shown = pixels[:, torch.linspace(0, frames - 1, min(columns, frames)).round().long()]
    scale = max(1, -(-side // min(pixels.shape[-2:])))
    shown = shown.repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    grid = make_grid(shown.flatten(0, 1), nrow=shown.shape[1], padding=2, pad_value=64)
    font, height = ImageFont.load_default(12), shown.shape[3] + 2
    lines = ["\n".join(_lines(caption, 20, height // 16 or 1)) for caption in captions]
    margin = 10 + max(int(font.getlength(line)) for text in lines for line in text.split("\n"))
    picture = Image.new("RGB", (grid.shape[2] + margin, grid.shape[1]), "white")
    picture.paste(Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy()), (margin, 0))
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(lines):
        draw.multiline_text((4, row * height + 4), text, fill="black", font=font, spacing=3)
    with atomic_file(path) as file:
        picture.save(file, format="PNG", optimize=True, pnginfo=_described(captions))


def captions_of(path: Path | str) -> list[str]:
    """Of a grid that was written here: each whole, in order; none of another file."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(DESCRIPTION, "")).splitlines()
    except UnidentifiedImageError:
        return []


def _bytes(images: Tensor) -> Tensor:
    pixels = images.detach().cpu()
    return pixels if pixels.dtype == torch.uint8 else to_uint8(pixels)


def _described(captions: Sequence[str]) -> PngInfo:
    info = PngInfo()
    info.add_itxt(DESCRIPTION, "\n".join(" ".join(caption.split()) for caption in captions))
    return info


def _lines(caption: str, letters: int, most: int) -> list[str]:
    """Of so many letters; of a long caption the beginning, up to a whole word."""
    return textwrap.wrap(caption, letters, max_lines=most, placeholder=" …")
