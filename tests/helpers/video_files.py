"""Small videos whose frames say which they are."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

CODECS = {
    "mp4": "libx264",
    "m4v": "mpeg4",
    "mov": "libx264",
    "mkv": "libx264",
    "webm": "libvpx-vp9",
    "avi": "mpeg4",
}
"""By suffix."""
STEP = 6
"""Grey levels from one frame to the next."""


def level(number: int) -> int:
    """The grey of a frame."""
    return 20 + STEP * number


def numbers(pictures: list[Image.Image]) -> list[int]:
    """Which frames these are."""
    return [round((float(np.array(p).mean()) - 20) / STEP) for p in pictures]


def counted(count: int, size: tuple[int, int] = (32, 16)) -> list[np.ndarray]:
    """So many grey frames, [H, W, 3], one lighter than the other."""
    return [np.full((size[1], size[0], 3), level(i), np.uint8) for i in range(count)]


def video_bytes(
    frames: list[np.ndarray],
    suffix: str = "mp4",
    fps: float = 10,
    times: list[int] | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    **container: Any,
) -> bytes:
    """A video.

    Args:
        times: of the frames, in milliseconds, instead of a constant rate.
        aspect: of a pixel, width over height.
        options: of the encoder.
    """
    file = io.BytesIO()
    form = {"mkv": "matroska", "m4v": "mp4"}.get(suffix, suffix)
    with av.open(file, "w", format=form, **container) as out:
        stream = out.add_stream(
            CODECS[suffix], rate=Fraction(fps).limit_denominator(1001), options=options or {}
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()
