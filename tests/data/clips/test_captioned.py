"""Captioned clips of a folder, zip or shards: by the conventions of captioned pictures."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from carv_distill.data.batches import step_loader
from carv_distill.data.captioned import centre_crop, load_captioned_images
from carv_distill.data.clips.captioned import load_captioned_clips
from carv_distill.data.clips.frames import FrameSampling
from carv_distill.data.clips.mp4 import save_clip
from carv_distill.data.clips.rendered import RenderedClips
from carv_distill.data.clips.sets import ClipSet
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from tests.helpers.captioned_files import WRITERS, tar_of
from tests.helpers.image_files import Files, as_folder, png
from tests.helpers.video_files import counted, level, video_bytes

Write = Callable[[Path, Files], str]
FIVE = FrameSampling(5)
NAMES = {
    "a/0.mp4": "a cube turns",
    "a/1.mkv": "a 7",
    "b/2.mp4": "a cube turns",
    "b/3.webm": "two,\nor ünïcode 蛋",
}


def films() -> Files:
    """Clips of five to eight frames."""
    return {name: video_bytes(counted(5 + i), name.rpartition(".")[2]) for i, name in enumerate(NAMES)}


FILMS = films()


def beside() -> Files:
    return {f"{name.rpartition('.')[0]}.txt": f"{text}\n".encode() for name, text in NAMES.items()}


def table(suffix: str) -> bytes:
    rows = [{"file_name": name, "text": text} for name, text in NAMES.items()]
    if suffix == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    import pandas

    file = io.BytesIO()
    frame = pandas.DataFrame(rows)
    frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize("write", WRITERS)
def test_clips_and_numbers_of_captions(write: Write, tmp_path: Path) -> None:
    data: ClipSet = load_captioned_clips(write(tmp_path, FILMS | beside()), 8, 16, FIVE)
    assert (len(data), data.spec.shape, data.spec.classes) == (4, (5, 3, 8, 16), 3)
    assert data.captions == data.objects == ["a cube turns", "a 7", NAMES["b/3.webm"]]
    x, labels = data.batch(torch.arange(4))
    assert labels.tolist() == data.labels.tolist() == [0, 1, 0, 2]
    assert (x.dtype, x.shape) == (torch.float32, (4, 5, 3, 8, 16))
    expected = torch.tensor([float(level(i)) for i in range(5)])
    assert (to_uint8(x).float().mean((2, 3, 4)) - expected).abs().max() < 2
    again = pickle.loads(pickle.dumps(data))  # as a spawned worker gets it
    assert torch.equal(again.batch(torch.tensor([3, 1]))[0], x[[3, 1]])


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_captions_of_a_table(suffix: str, tmp_path: Path) -> None:
    path = as_folder(tmp_path, FILMS | {f"metadata.{suffix}": table(suffix)})
    data = load_captioned_clips(path, 8, 8, FIVE)
    assert [data.captions[n] for n in data.labels] == list(NAMES.values())


def test_steps_are_the_same_with_workers(tmp_path: Path) -> None:
    data = load_captioned_clips(as_folder(tmp_path, FILMS | beside()), 8, 8, FIVE)
    alone = list(islice(step_loader(data, 4, 0, "clips", [0], 5, 0), 3))
    others = islice(step_loader(data, 4, 0, "clips", [0], 5, 2), 3)
    for (x, a), (y, b) in zip(alone, others, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(a, b)


def test_each_frame_is_cropped_as_pictures_are(tmp_path: Path) -> None:
    """By the same function; here 48 × 32 to 16 × 16."""
    rng = np.random.default_rng(0)
    small = rng.integers(256, size=(5, 4, 6, 3), dtype=np.uint8)
    frames = [np.array(Image.fromarray(f).resize((48, 32), Image.Resampling.BICUBIC)) for f in small]
    content = video_bytes(frames, options={"crf": "1"})
    data = load_captioned_clips(as_folder(tmp_path, {"x.mp4": content, "x.txt": b"x"}), 16, 16, FIVE)
    for frame, shown in zip(frames, data.pixels(0), strict=True):
        expected = np.array(centre_crop(Image.fromarray(frame), 16, 16)).astype(int)
        assert np.abs(shown.permute(1, 2, 0).numpy() - expected).mean() < 4


def test_rendered_clips_come_back_from_a_folder(tmp_path: Path) -> None:
    clips = RenderedClips(3, size=32)
    (tmp_path / "set").mkdir()
    for n in range(3):
        save_clip(clips.clip(n), tmp_path / f"set/{n}.mp4", crf=1)
        (tmp_path / f"set/{n}.txt").write_text(clips.captions[int(clips.labels[n])])
    data = load_captioned_clips(str(tmp_path / "set"), 32, 32)
    assert [data.captions[i] for i in data.labels] == [clips.captions[i] for i in clips.labels]
    difference = to_uint8(data.batch(torch.arange(3))[0]).float() - clips.render(torch.arange(3)).float()
    assert difference.abs().mean() < 8  # colours are stored for 2 × 2 pixels


def test_the_fingerprint_is_of_files_size_and_sampling(tmp_path: Path) -> None:
    def fingerprint(files: Files, height: int = 8, sampling: FrameSampling = FIVE) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        folder = as_folder(place, files)
        for file in Path(folder).rglob("*.*"):
            os.utime(file, (0, 0))
        return load_captioned_clips(folder, height, 8, sampling).fingerprint()

    files = FILMS | beside()
    plain = fingerprint(files)
    assert plain == fingerprint(files) == fingerprint(files | {"a/0.txt": b"another"})
    others = [
        fingerprint(files, 16),
        fingerprint(files, sampling=FrameSampling(1)),
        fingerprint(files, sampling=FrameSampling(5, start=0.0, fps=10)),
        fingerprint(files | {"a/0.mp4": FILMS["b/2.mp4"]}),
    ]
    assert len({plain, *others}) == 5


def test_only_what_is_wanted_is_read_of_a_long_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frames of a folder's film, whose pictures follow its head: not the whole of it."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(256, size=(64, 64, 3), dtype=np.uint8) for _ in range(300)]
    content = video_bytes(noise, "mkv")
    path = as_folder(tmp_path, {"x.mkv": content, "x.txt": b"x"})
    read = []

    class Counted(io.FileIO):
        def read(self, size: int = -1) -> bytes:  # type: ignore[override]
            read.append(size)
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda self, mode: Counted(self, mode))
    load_captioned_clips(path, 8, 8, FIVE)
    assert len(content) > 500_000
    assert sum(read) < len(content) / 3


@pytest.mark.parametrize("write", WRITERS)
def test_a_clip_that_is_damaged_is_named(write: Write, tmp_path: Path) -> None:
    files = FILMS | beside() | {"b/2.mp4": FILMS["b/2.mp4"][:300]}
    with pytest.raises(UserError, match=r"/2\.mp4 does not decode \(") as caught:
        load_captioned_clips(write(tmp_path, files), 8, 8, FIVE)
    assert "\n" not in str(caught.value)


def test_a_clip_that_is_too_short_is_named(tmp_path: Path) -> None:
    path = as_folder(tmp_path, FILMS | beside())
    with pytest.raises(UserError, match=r"a/0\.mp4 has too few frames: 5 .* 17 at a stride of 1 need 17"):
        load_captioned_clips(path, 8, 8)


def test_a_clip_that_is_damaged_later_is_named_by_a_worker(tmp_path: Path) -> None:
    path = as_folder(tmp_path, FILMS | beside())
    loader = step_loader(load_captioned_clips(path, 8, 8, FIVE), 32, 0, "clips", [0], 0, 2)
    Path(path, "a/1.mkv").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"a/1\.mkv does not decode"):
        next(iter(loader))


def test_eight_clips_of_all_parts_are_looked_at(tmp_path: Path) -> None:
    files = {f"{i:03d}.mp4": FILMS["a/0.mp4"] for i in range(50)}
    path = as_folder(tmp_path, files | {f"{i:03d}.txt": b"a" for i in range(50)})
    Path(path, "005.mp4").write_bytes(b"no film")
    data = load_captioned_clips(path, 8, 8, FIVE)
    with pytest.raises(UserError, match=r"005\.mp4 does not decode"):
        data.batch(torch.tensor([5]))
    Path(path, "049.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"049\.mp4 does not decode"):
        load_captioned_clips(path, 8, 8, FIVE)


CLIP = {"x.mp4": FILMS["a/0.mp4"]}
SHOWS = (
    r"holds no clips \(\.mp4, .*\.avi\) and no shards \(\.tar\), but the picture a/0\.png and 1 more; clips "
)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("nothing", {}, r"does not exist; a folder or zip of clips \(\.mp4, .*\) with captions, or web"),
        ("set", {"a.txt": b"a"}, r"holds no clips \(\.mp4, .*\.avi\) and no shards \(\.tar\)$"),
        ("set", {"a/0.png": png(0), "b.jpg": png(1), "a/0.txt": b"a"}, SHOWS),
        ("set", {"x.gif": b"GIF89a"}, r"holds x\.gif, of a format that is not read \(allowed: \.mp4, "),
        ("set", {"x.flv": b"", **CLIP}, r"holds x\.flv, of a format that is not read"),
        (
            "set",
            {"a.tar": tar_of({"a.png": png(0)})},
            r"holds no clips .*, but the picture a\.tar/a\.png; clips",
        ),
        ("set", {"a.tar": tar_of({}), "b.png": png(0)}, r"holds no clips \(.*\) and no shards \(\.tar\)$"),
        ("set", {"a.tar": tar_of({}), **CLIP}, r"holds clips and shards \(a\.tar\)"),
        ("set", {"a.tar.gz": b""}, r"a\.tar\.gz is compressed; unpack it to a \.tar, as clips are read"),
        ("set", CLIP, r"x\.mp4 has no caption: no x\.txt or x\.json beside it, and no metadata\.jsonl"),
        ("set", {**CLIP, "x.txt": b" "}, r"x\.txt: the caption is empty"),
        (
            "set",
            {**CLIP, "x.mkv": FILMS["a/1.mkv"], "x.txt": b"a"},
            r"x\.mkv and x\.mp4; a clip and its caption",
        ),
        (
            "set",
            {**CLIP, "metadata.jsonl": b'{"file_name": "y.mp4", "text": "a"}'},
            r"line 1 names y\.mp4, but no clip of this name is there",
        ),
        (
            "set",
            {**CLIP, "y.mp4": FILMS["b/2.mp4"], "metadata.csv": b"file_name,text\nx.mp4,a\n"},
            r"y\.mp4 has no row in metadata\.csv; add one, or take it out",
        ),
        (
            "set",
            {**CLIP, "metadata.csv": b"file_name,text\nx.mp4,a\nx.mp4,b\n"},
            r"which has a row already; each clip has one caption",
        ),
        ("set/x.mp4", CLIP, r"x\.mp4 is not a whole zip file"),
    ],
)
def test_places_that_do_not_fit_are_a_line(name: str, files: Files, message: str, tmp_path: Path) -> None:
    as_folder(tmp_path, files)
    with pytest.raises(UserError, match=message) as caught:
        load_captioned_clips(str(tmp_path / name), 8, 8, FIVE)
    assert "\n" not in str(caught.value)


def test_a_folder_of_clips_where_pictures_are_wanted(tmp_path: Path) -> None:
    path = as_folder(tmp_path, FILMS | beside())
    with pytest.raises(
        UserError, match=r"holds no pictures .*, but the clip a/0\.mp4 and 3 more; pictures are needed here"
    ):
        load_captioned_images(path, 8)


def test_pictures_beside_clips_are_passed_over(tmp_path: Path) -> None:
    """As the thumbnails that many programs leave; they need no captions."""
    path = as_folder(tmp_path, {**CLIP, "x.txt": b"a", "x.jpg": png(0, form="JPEG"), "y.png": png(1)})
    assert len(load_captioned_clips(path, 8, 8, FIVE)) == 1
