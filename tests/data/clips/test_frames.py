"""Frames of videos: the right ones, upright, and faults as one line."""

from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carv_distill.data.clips.frames import FrameSampling, read_frames
from carv_distill.data.storage import CLIPS
from carv_distill.errors import UserError
from tests.helpers.video_files import CODECS, counted, numbers, video_bytes


def read(content: bytes, sampling: FrameSampling, name: str = "x.mp4") -> list[int]:
    return numbers(read_frames(io.BytesIO(content), name, sampling))


def test_every_suffix_of_clips_is_tried_here() -> None:
    assert {f".{suffix}" for suffix in CODECS} == set(CLIPS.suffixes)


@pytest.mark.parametrize("suffix", CODECS)
def test_frames_of_every_container(suffix: str) -> None:
    content, name = video_bytes(counted(30), suffix), f"a/x.{suffix.upper()}"
    assert read(content, FrameSampling(5), name) == [0, 1, 2, 3, 4]
    assert read(content, FrameSampling(5, stride=3), name) == [0, 3, 6, 9, 12]
    assert read(content, FrameSampling(5, stride=2, start=1.5), name) == [15, 17, 19, 21, 23]
    assert read(content, FrameSampling(5, fps=5), name) == [0, 2, 4, 6, 8]
    assert read(content, FrameSampling(5, fps=2, start=0.5), name) == [5, 10, 15, 20, 25]
    assert read(content, FrameSampling(9, fps=20, start=0.4), name) == [4, 4, 5, 5, 6, 6, 7, 7, 8]


@pytest.mark.parametrize("fps", [24, 24000 / 1001, 29.97, 30, 60])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_videos_own_rate_gives_each_frame_once(fps: float, suffix: str) -> None:
    """Also where times are rounded to a millisecond."""
    content = video_bytes(counted(33), suffix, fps=fps)
    sampling = FrameSampling(33, fps=float(Fraction(fps).limit_denominator(1001)))
    assert read(content, sampling, f"x.{suffix}") == list(range(33))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_changing_rate_is_read_by_time(suffix: str) -> None:
    """Frames at 0, 100, 200, 600, 650, 700, 1200 ms: what is shown every 200 ms, and every second one."""
    content = video_bytes(counted(7), suffix, times=[0, 100, 200, 600, 650, 700, 1200])
    assert read(content, FrameSampling(5, fps=5), f"x.{suffix}") == [0, 2, 2, 3, 5]
    assert read(content, FrameSampling(1, fps=5, start=1.1), f"x.{suffix}") == [5]
    assert read(content, FrameSampling(1, stride=2, start=0.3), f"x.{suffix}") == [3]


@pytest.mark.parametrize("start", [0.0, 0.3, 1.0, 1.1, 1.9, 2.35])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_start_between_key_frames_is_the_same_frame(start: float, suffix: str) -> None:
    """A key frame every ten, with frames between that are predicted from both sides."""
    options = {"g": "10"} | ({} if suffix == "avi" else {"bf": "2"})
    content = video_bytes(counted(35), suffix, options=options)
    first = int(np.ceil(start * 10 - 1e-6))
    assert read(content, FrameSampling(5, start=start), f"x.{suffix}") == list(range(first, first + 5))


def test_a_video_that_does_not_begin_at_zero_begins_with_its_first_frame() -> None:
    content = video_bytes(counted(9), "mkv", times=[2000 + 100 * i for i in range(9)])
    assert read(content, FrameSampling(5), "x.mkv") == [0, 1, 2, 3, 4]
    assert read(content, FrameSampling(5, fps=5), "x.mkv") == [0, 2, 4, 6, 8]
    assert read(content, FrameSampling(5, start=0.3), "x.mkv") == [3, 4, 5, 6, 7]


def test_the_last_frame_is_shown_for_its_duration() -> None:
    """Nine frames of 100 ms end at 900 ms: the seventeenth of 19 a second is at 842 ms, of 17 at 941 ms."""
    content = video_bytes(counted(9))
    assert read(content, FrameSampling(17, fps=19))[-1] == 8
    with pytest.raises(UserError, match=r"ends after 0\.9 s, where 17 at 17 a second from 0 s .* 0\.9412 s"):
        read(content, FrameSampling(17, fps=17))


def test_colours_and_places_stay() -> None:
    """To the loss of the codec; BT.601, as its maker says nothing."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32], pixels[16:, 32:] = (200, 40, 90), (30, 180, 220)
    content = video_bytes([pixels] * 5, options={"crf": "5"})
    for picture in read_frames(io.BytesIO(content), "x.mp4", FrameSampling(5)):
        shown = np.array(picture).astype(int)
        assert shown.shape == pixels.shape
        for rows, columns in ((slice(2, 14), slice(2, 30)), (slice(18, 30), slice(34, 62))):
            assert np.abs(shown[rows, columns] - pixels[rows, columns]).max() <= 6


def test_pixels_that_are_not_square_are_stretched() -> None:
    content = video_bytes(counted(5, (32, 16)), aspect=Fraction(3, 2))
    pictures = read_frames(io.BytesIO(content), "x.mp4", FrameSampling(5))
    assert {p.size for p in pictures} == {(48, 16)}
    assert numbers(pictures) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_film_that_says_how_it_was_held_is_upright(turn: int, tmp_path: Path) -> None:
    """The header's matrix, as telephones write it; ffmpeg's own turning is the reference."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # the upper left
    content = turned(video_bytes([pixels] * 5, options={"crf": "5"}), turn)
    pictures = read_frames(io.BytesIO(content), "x.mp4", FrameSampling(5))
    expected = np.rot90(pixels, -turn // 90).astype(int)  # clockwise
    for picture in pictures:
        assert np.abs(np.array(picture).astype(int) - expected).mean() < 6


def turned(content: bytes, clockwise: int) -> bytes:
    """An mp4 to be shown turned: its track's matrix (tkhd) is made that of a turn."""
    sine, cosine = {90: (1, 0), 180: (0, -1), 270: (-1, 0)}[clockwise]
    at = content.index(b"tkhd") + 4 + 40
    matrix = [cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30]
    packed = b"".join(n.to_bytes(4, "big", signed=True) for n in matrix)
    assert content[at : at + 4] == (1 << 16).to_bytes(4, "big")
    return content[:at] + packed + content[at + 36 :]


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (
            FrameSampling(17),
            r"12 from 0 s on, where 17 at a stride of 1 need 17; take fewer, a smaller stride,",
        ),
        (FrameSampling(5, stride=3), "12 from 0 s on, where 5 at a stride of 3 need 13"),
        (FrameSampling(5, start=0.8), r"4 from 0\.8 s on, where 5 at a stride of 1 need 5"),
        (FrameSampling(5, start=50), "from 50 s on, where 5 at a stride of 1 need 5"),
        (
            FrameSampling(5, fps=3),
            r"it ends after 1\.2 s, where 5 at 3 a second from 0 s on need more than 1\.333 s",
        ),
    ],
)
def test_too_few_frames_are_a_line(sampling: FrameSampling, message: str) -> None:
    with pytest.raises(UserError, match=rf"^a/x\.mp4 has too few frames: .*{message}") as caught:
        read(video_bytes(counted(12)), sampling, "a/x.mp4")
    assert "\n" not in str(caught.value)


FILM = video_bytes(
    [np.random.default_rng(i).integers(256, size=(64, 64, 3), dtype=np.uint8) for i in range(9)]
)


def broken(at: float, noise: bytes) -> bytes:
    """Bytes of pictures overwritten."""
    start = FILM.index(b"mdat") + int(at * (len(FILM) - FILM.index(b"mdat")))
    return FILM[:start] + noise + FILM[start + len(noise) :]


NOISE = np.random.default_rng(0).integers(256, size=400, dtype=np.uint8).tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no film",
        FILM[: len(FILM) // 2],
        FILM[len(FILM) // 2 :],
        broken(0.3, NOISE),
        broken(0.5, bytes(3000)),
    ],
    ids=["empty", "text", "cut", "without head", "damaged", "blank"],
)
def test_what_does_not_decode_is_a_line(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^a/x\.mp4 does not decode \(.+\)$") as caught:
        read(content, FrameSampling(9), "a/x.mp4")
    assert "\n" not in str(caught.value)


def test_a_codec_that_is_not_known_is_a_line() -> None:
    at = FILM.index(b"avc1", FILM.index(b"stsd"))
    with pytest.raises(UserError, match=r"^x\.mp4 has a video of a codec that is not known here"):
        read(FILM[:at] + b"zzzz" + FILM[at + 4 :], FrameSampling(1))


@pytest.mark.parametrize("suffix", CODECS)
def test_whatever_is_broken_is_a_line_or_frames(suffix: str) -> None:
    """Cut anywhere, and bytes overwritten in all or in the head."""
    pixels = [np.random.default_rng(i).integers(256, size=(16, 16, 3), dtype=np.uint8) for i in range(9)]
    whole, rng = video_bytes(pixels, suffix), np.random.default_rng(1)
    faults = []
    for case in range(60):
        content = bytearray(whole)
        if case % 3 == 0:
            content = content[: rng.integers(len(whole))]
        else:
            end = len(whole) if case % 3 == 1 else min(900, len(whole))
            for place in rng.integers(end, size=rng.integers(1, 30)):
                content[place] = rng.integers(256)
        try:
            read(bytes(content), FrameSampling(5, fps=7.0, start=0.2), f"x.{suffix}")
        except UserError as error:
            faults.append(str(error))
    assert len(faults) > 10
    assert not any("\n" in fault for fault in faults)


def test_a_list_of_other_files_is_not_followed(tmp_path: Path) -> None:
    """FFmpeg would open what a playlist or a concatenation names."""
    (tmp_path / "secret.mp4").write_bytes(FILM)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n"
    together = f"ffconcat version 1.0\nfile '{tmp_path}/secret.mp4'\n"
    for text in (playlist, together):
        for name in ("x.mp4", "x.mkv", "x.avi"):
            with pytest.raises(UserError, match="does not decode"):
                read(text.encode(), FrameSampling(1), name)


def test_sound_alone_is_a_line() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(UserError, match=r"^x\.mp4 has no video in it$"):
        read(file.getvalue(), FrameSampling(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 16}, r"^frames: 16 is not 4k \+ 1.*13 or 17"),
        ({"stride": 0}, "^stride: 0; whole numbers from 1 on"),
        ({"stride": -2}, "^stride: -2; whole numbers"),
        ({"fps": 0.0}, r"^fps: 0\.0 is no number above 0"),
        ({"fps": float("nan")}, "^fps: nan is no number above 0"),
        ({"fps": float("inf")}, "^fps: inf is no number above 0"),
        ({"fps": 8.0, "stride": 2}, "^fps: 8 and stride: 2 are given; give one of them"),
        ({"start": -1.0}, r"^start: -1\.0 is no number from 0 on"),
        ({"start": float("nan")}, "^start: nan is no number from 0 on"),
        ({"start": 1e300}, r"^start: 1e\+300 is no number from 0 on to 1,000,000 \(seconds\)"),
    ],
)
def test_numbers_out_of_range_are_a_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FrameSampling(**options)


def test_without_the_package_it_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        UserError, match=r"x\.mp4 needs the package av, .*\(pip install 'carv-distill\[attribution\]'\)"
    ):
        read(FILM, FrameSampling(1))


@pytest.mark.slow
def test_sets_are_known_without_the_package() -> None:
    """Who reads no clips needs no av."""
    code = "import sys; import carv_distill.data.clips.captioned; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
