"""One picture of a file: its header first, then its pixels, upright, in grey or colour."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from carv_distill.errors import UserError, one_line

CHANNELS = {"L": 1, "RGB": 3}
LARGEST_SIDE = 8192
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""That are read, whatever a file is called; Pillow's others stay shut, as some of them start programs."""
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises at files that are cut short or are no images."""


def open_picture(content: bytes, where: str) -> Image.Image:
    """A picture of which only the header is read: its size and mode.

    Args:
        where: begins the message.

    Raises:
        UserError: none of :data:`FORMATS`, an animation, or one of more pixels than are read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is refused below
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except _DAMAGE as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else one_line(error, 100)
        raise UserError(f"{where} is no whole image ({reason})") from error
    if picture.format == "WEBP" and getattr(picture, "is_animated", False):
        raise UserError(f"{where} is an animation of {getattr(picture, 'n_frames', 2)} pictures; give one")
    width, height = picture.size
    if max(width, height) > LARGEST_SIDE:
        raise UserError(f"{where} is {width}×{height}; at most {LARGEST_SIDE}×{LARGEST_SIDE} are read")
    return picture


def upright_picture(picture: Image.Image, where: str, convert: str = "none") -> Image.Image:
    """The picture with its pixels, turned as its EXIF orientation says, of mode L (grey) or RGB.

    Black and white becomes grey, a palette its colours, and alpha is dropped where nothing is transparent.
    What else there is has no plain meaning as bytes of grey or colour, and is left to `convert`.

    Args:
        convert: none, or rgb for three channels of whatever there is: grey thrice, what is transparent over
            white, CMYK without colour profiles, 16 bits as their upper 8.

    Raises:
        UserError: damaged, or of another mode than these.
    """
    try:
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except _DAMAGE as error:
        raise UserError(f"{where} is no whole image ({one_line(error, 100)})") from error
    mode = picture.mode
    sixteen = mode.startswith("I")
    if picture.has_transparency_data and not sixteen:
        coloured = picture.convert("RGBA")
        if coloured.getchannel("A").getextrema()[0] == 255:
            picture = picture.convert("L" if mode in ("L", "LA") else "RGB")
        elif convert == "rgb":
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, coloured).convert("RGB")
        else:
            raise UserError(_refusal(where, mode))
    elif mode in ("1", "P"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    elif mode not in CHANNELS:
        if convert != "rgb":
            raise UserError(_refusal(where, mode))
        picture = _upper_bytes(picture) if sixteen else picture
    if convert == "rgb" and picture.mode != "RGB":
        picture = picture.convert("RGB")
    return picture


def _refusal(where: str, mode: str) -> str:
    return (
        f"{where} has mode {mode}; allowed are {', '.join(CHANNELS)} (grey or colour of 8 bits, nothing "
        "transparent); data.convert=rgb makes colours of all"
    )


def _upper_bytes(picture: Image.Image) -> Image.Image:
    """16 bits of grey as their upper 8, as Pillow reads 16 bits of colour, and white for the one grey that a
    PNG may call transparent; Pillow's own conversion cuts at 255."""
    values = np.asarray(picture).astype(np.int64).clip(0, 65535)
    grey = np.where(values == picture.info.get("transparency", -1), 255, values >> 8)
    return Image.fromarray(grey.astype(np.uint8))
