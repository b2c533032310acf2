"""The one writer of films: H.264 in mp4, which every browser plays."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from carv_distill.errors import one_line
from carv_distill.files import atomic_file


@contextmanager
def film(
    path: Path | str, height: int, width: int, fps: float = 20, crf: int = 18
) -> Iterator[Callable[[Tensor], None]]:
    """A writer of a film's frames, bytes [3, H, W], one after the other; the file is there once all are.

    Of an odd size the last row or column is there twice: video stores colours for 2 × 2 pixels (yuv420p).

    Args:
        fps: frames a second.
        crf: x264's constant rate factor, 0 (largest) … 51; 18 is hardly told from the original.

    Raises:
        ValueError: a frame has another shape.
        OSError: the encoder failed, or the file could not be written.
    """
    rows, columns = height % 2, width % 2
    content = io.BytesIO()
    try:
        with av.open(content, "w", format="mp4") as container:
            # x264's code for AVX-512 reads memory that nothing has written: the same frames would now and
            # then be another file (seen in films of 16 to 64 pixels). Its plain C does not.
            options = {"crf": str(crf), "x264-params": "asm=0"}
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options=options)
            # With more threads x264 decides otherwise: the file would depend on the machine's cores.
            stream.codec_context.thread_count = 1
            stream.width, stream.height, stream.pix_fmt = width + columns, height + rows, "yuv420p"

            def write(pixels: Tensor) -> None:
                if pixels.shape != (3, height, width):  # which the encoder would stretch
                    raise ValueError(f"a frame of {tuple(pixels.shape)} in a film of {(3, height, width)}")
                padding = ((0, rows), (0, columns), (0, 0))
                padded = np.pad(pixels.permute(1, 2, 0).cpu().numpy(), padding, mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))

            yield write
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(f"the encoder failed: {one_line(error)}") from error
    with atomic_file(path) as file:
        file.write(content.getvalue())


def save_clip(clip: Tensor, path: Path | str, fps: float = 8, crf: int = 18) -> None:
    """A clip, uint8 [F, 3, H, W], as an mp4; see :func:`film`."""
    with film(path, clip.shape[-2], clip.shape[-1], fps, crf) as write:
        for frame in clip:
            write(frame)
