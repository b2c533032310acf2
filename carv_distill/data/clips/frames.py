"""Some frames of a video file: those that are wanted, upright, no more decoded than it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from carv_distill.data.pictures import LARGEST_SIDE
from carv_distill.errors import UserError, one_line

from .sets import require_frames

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

DEMUXERS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov"), "mov"),
    **dict.fromkeys((".mkv", ".webm"), "matroska"),
    ".avi": "avi",
}
"""By suffix, and no other, whatever is in a file: some of FFmpeg's formats are lists of further files and
addresses, which it would open."""
_EXTRA = "pip install 'carv-distill[attribution]'"
_LATEST = 1_000_000
_SLACK = 1e-3
"""Seconds that a frame may come late: Matroska rounds times to a millisecond."""

Timed = tuple[float, "VideoFrame"]
"""A frame and when it is shown, seconds after the first."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video are a clip: F = 4k + 1 of them, every `stride`-th, or `fps` a second.

    At a rate, frame j is the one that is shown at start + j / fps seconds, whatever the file's own rate is,
    and wherever it changes.

    Args:
        frames: F.
        start: seconds after the video's first frame; with a stride the first frame from there on.

    Raises:
        UserError: a number out of range, or a stride and a rate.
    """

    frames: int = 17
    stride: int = 1
    fps: float | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        require_frames(self.frames)
        if self.stride < 1:
            raise UserError(f"stride: {self.stride}; whole numbers from 1 on are allowed")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UserError(f"fps: {self.fps} is no number above 0 (frames a second)")
        if self.fps is not None and self.stride != 1:
            raise UserError(f"fps: {self.fps:g} and stride: {self.stride} are given; give one of them")
        if not 0 <= self.start <= _LATEST:
            raise UserError(f"start: {self.start} is no number from 0 on to {_LATEST:,} (seconds)")


def read_frames(file: BinaryIO, where: str, sampling: FrameSampling) -> list[Image.Image]:
    """The frames of a video, F pictures in RGB, turned and stretched as the file says that they be shown.

    Args:
        file: open for reading from its start.
        where: its name, with its suffix (:data:`DEMUXERS`); begins the message.

    Raises:
        UserError: it does not decode, has no video, too few frames, or the package av is not here.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError(f"{where} needs the package av, which is not here ({_EXTRA})") from error
    try:
        with av.open(file, "r", format=DEMUXERS[PurePosixPath(where).suffix.lower()]) as container:
            stream = _video(container, where)
            taken = [_upright(frame, stream) for frame in _sampled(container, stream, sampling, where)]
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error, 100)
        raise UserError(f"{where} does not decode ({reason})") from error
    return taken


def _video(container: InputContainer, where: str) -> VideoStream:
    best = container.streams.best("video")
    if best is None:
        raise UserError(f"{where} has no video in it")
    stream = next(video for video in container.streams.video if video.index == best.index)
    if stream.codec_context is None:
        raise UserError(f"{where} has a video of a codec that is not known here; write it anew, as in H.264")
    width, height = stream.width, stream.height
    if max(width, height) > LARGEST_SIDE:
        raise UserError(f"{where} is {width}×{height}; at most {LARGEST_SIDE}×{LARGEST_SIDE} are read")
    return stream


def _sampled(
    container: InputContainer, stream: VideoStream, sampling: FrameSampling, where: str
) -> Iterator[VideoFrame]:
    """The F frames, as soon as each is there."""
    pick = _at_stride if sampling.fps is None else _at_rate
    picked = pick(_timed(container, stream, sampling.start, where), sampling, where)
    for number in range(sampling.frames):
        frame = next(picked)
        if frame.is_corrupt:  # the decoder has covered a gap with what it guessed
            raise UserError(f"{where} does not decode (frame {number + 1} of {sampling.frames} is damaged)")
        yield frame


def _at_stride(frames: Iterator[Timed], sampling: FrameSampling, where: str) -> Iterator[VideoFrame]:
    """Without end, but for that of the video, which is too early."""
    count = 0
    for time, frame in frames:
        if time >= sampling.start - _SLACK:
            if count % sampling.stride == 0:
                yield frame
            count += 1
    needed = (sampling.frames - 1) * sampling.stride + 1
    raise UserError(
        f"{where} has too few frames: {count} from {sampling.start:g} s on, where {sampling.frames} at a "
        f"stride of {sampling.stride} need {needed}; take fewer, a smaller stride, or leave it out"
    )


def _at_rate(frames: Iterator[Timed], sampling: FrameSampling, where: str) -> Iterator[VideoFrame]:
    """As :func:`_at_stride`."""
    assert sampling.fps is not None
    number, end = 0, 0.0
    shown: VideoFrame | None = None
    for time, frame in frames:
        while shown is not None and sampling.start + number / sampling.fps < time - _SLACK:
            yield shown
            number += 1
        shown = frame
        end = time + (frame.duration or 0) * float(frame.time_base or 0)
    while shown is not None and sampling.start + number / sampling.fps < end - _SLACK:
        yield shown
        number += 1
    needed = sampling.start + (sampling.frames - 1) / sampling.fps
    raise UserError(
        f"{where} has too few frames: it ends after {end:.4g} s, where {sampling.frames} at {sampling.fps:g} "
        f"a second from {sampling.start:g} s on need more than {needed:.4g} s; take fewer, a higher rate, or "
        "leave it out"
    )


def _timed(container: InputContainer, stream: VideoStream, start: float, where: str) -> Iterator[Timed]:
    """Frames from the last key frame before `start` seconds, or one before it, on."""
    base, unit = stream.start_time or 0, float(stream.time_base or 0)
    if start > 0:
        container.seek(base + int(start / unit), stream=stream)
    late = start > 0
    for frame in container.decode(stream):
        if frame.pts is None:
            raise UserError(f"{where} does not say when its frames are shown; write it anew, as with ffmpeg")
        time = (frame.pts - base) * unit
        if late and time > start + _SLACK:  # no key frame is marked before it
            container.seek(base, stream=stream)
            yield from _timed(container, stream, 0.0, where)
            return
        late = False
        yield time, frame


def _upright(frame: VideoFrame, stream: VideoStream) -> Image.Image:
    picture = frame.to_image()
    aspect = stream.sample_aspect_ratio or 1
    if aspect != 1:
        width = max(1, min(round(picture.width * float(aspect)), LARGEST_SIDE))
        picture = picture.resize((width, picture.height), Image.Resampling.LANCZOS)
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
