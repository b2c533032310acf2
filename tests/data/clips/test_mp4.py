"""Films are written whole or not at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch

from carv_distill.carv import stream
from carv_distill.data.clips.frames import FrameSampling, read_frames
from carv_distill.data.clips.mp4 import film, save_clip
from carv_distill.data.clips.rendered import RenderedClips


@pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 33), (2, 2)])
def test_what_is_written_is_read_again(height: int, width: int, tmp_path: Path) -> None:
    """To the loss of the codec; odd sides are made even."""
    smooth = torch.rand(9, 3, 4, 4, generator=stream("film"))
    frames = torch.nn.functional.interpolate(smooth, (height, width), mode="bilinear").mul(255).byte()
    save_clip(frames, tmp_path / "x.mp4", fps=5)
    with av.open(str(tmp_path / "x.mp4")) as container:
        video = container.streams.video[0]
        assert (video.frames, float(video.average_rate or 0), video.codec_context.name) == (9, 5.0, "h264")
    read = read_frames(io.BytesIO((tmp_path / "x.mp4").read_bytes()), "x.mp4", FrameSampling(9))
    for frame, picture in zip(frames, read, strict=True):
        assert picture.size == (width + width % 2, height + height % 2)
        shown = torch.tensor(list(picture.convert("L").getdata())).view(picture.height, -1)
        luma = (frame.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
        assert (shown[:height, :width] - luma).abs().mean() < 4


def test_a_rendered_clip_keeps_its_look(tmp_path: Path) -> None:
    clip = RenderedClips(3, size=64).clip(1)
    save_clip(clip, tmp_path / "x.mp4")
    pictures = read_frames(io.BytesIO((tmp_path / "x.mp4").read_bytes()), "x.mp4", FrameSampling(17))
    for frame, picture in zip(clip, pictures, strict=True):
        shown = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(64, 64, 3)
        assert (shown.permute(2, 0, 1).float() - frame.float()).abs().mean() < 8


@pytest.mark.slow
def test_the_same_frames_are_the_same_file(tmp_path: Path) -> None:
    """Whatever lies in the memory that the encoder gets, which glibc here fills with one byte or another; on
    a processor with AVX-512 x264's usual code makes two files of these frames."""
    smooth = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    frames = torch.nn.functional.interpolate(smooth, (64, 64), mode="bilinear").mul(60).add(100).byte()
    torch.save(frames, tmp_path / "frames.pt")
    written = (
        "import torch; from carv_distill.data.clips.mp4 import save_clip; save_clip(torch.load('frames.pt'), "
    )
    for byte in ("17", "90"):
        words = [sys.executable, "-c", f"{written}'{byte}.mp4', 20)"]
        subprocess.run(words, cwd=tmp_path, env={**os.environ, "MALLOC_PERTURB_": byte}, check=True)
    assert (tmp_path / "17.mp4").read_bytes() == (tmp_path / "90.mp4").read_bytes()


def test_a_film_that_is_broken_off_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"before")
    frames = [torch.zeros(3, 16, 16, dtype=torch.uint8), None]
    with pytest.raises(AttributeError), film(tmp_path / "x.mp4", 16, 16) as write:
        list(map(write, frames))  # type: ignore[arg-type]
    assert (tmp_path / "x.mp4").read_bytes() == b"before"


def test_what_the_encoder_does_not_take_is_an_oserror(tmp_path: Path) -> None:
    """x264 takes no more than 16,384 pixels along a side."""
    with pytest.raises(OSError, match="the encoder failed"), film(tmp_path / "x.mp4", 2, 20_000) as write:
        write(torch.zeros(3, 2, 20_000, dtype=torch.uint8))
    assert not (tmp_path / "x.mp4").exists()


def test_a_frame_of_another_shape_is_refused(tmp_path: Path) -> None:
    """The encoder would stretch it."""
    with (
        pytest.raises(ValueError, match=r"3, 8, 16.*\(3, 16, 16\)"),
        film(tmp_path / "x.mp4", 16, 16) as write,
    ):
        write(torch.zeros(3, 8, 16, dtype=torch.uint8))
    assert not (tmp_path / "x.mp4").exists()


def test_a_place_that_takes_no_file_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), film(tmp_path / "file" / "x.mp4", 16, 16) as write:
        write(torch.zeros(3, 16, 16, dtype=torch.uint8))
