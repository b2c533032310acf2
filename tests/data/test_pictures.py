"""Pictures as they come: turned, with palettes, alpha, 16 bits and CMYK."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from carv_distill.data.images import load_images
from carv_distill.data.options import DataOptions
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from tests.helpers.image_files import as_folder, png, stored

RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(8, 8), dtype=np.uint8)
COLOUR = RNG.integers(256, size=(8, 8, 3), dtype=np.uint8)


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def pixels(tmp_path: Path, content: bytes, name: str = "a.png", **options: Any) -> np.ndarray:
    """Bytes [C, S, S] of the only picture of a set."""
    data = load_images(stored(as_folder(tmp_path, {name: content}), labels=False, **options))
    return to_uint8(data.batch(torch.tensor([0]))[0])[0].numpy()


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""How a viewer turns what is stored, by EXIF's orientation."""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_is_turned_as_viewers_show_it(orientation: int, form: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(COLOUR), form, exif=exif)
    with Image.open(io.BytesIO(content)) as stored_as:
        plain = np.array(stored_as)
    read = pixels(tmp_path, content, f"a.{form.lower()}")
    assert np.array_equal(read.transpose(1, 2, 0), TURNS[orientation](plain))


def test_an_upper_half_that_exif_turns_down(tmp_path: Path) -> None:
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    read = pixels(tmp_path, saved(Image.fromarray(half), "JPEG", exif=exif, quality=95), "a.jpg")
    assert read[:, :4].max() < 10
    assert read[:, 4:].min() > 245


def test_what_has_one_meaning_is_read(tmp_path: Path) -> None:
    """A palette's colours, black and white, alpha where nothing is transparent."""
    palette = Image.fromarray(COLOUR).quantize(16)
    opaque = np.full((8, 8), 255, np.uint8)
    cases = {
        "palette": (palette, np.array(palette.convert("RGB"))),
        "grey": (Image.fromarray(GREY), GREY[..., None]),
        "bilevel": (Image.fromarray(GREY > 127), 255 * (GREY > 127)[..., None].astype(np.uint8)),
        "rgba": (Image.fromarray(np.dstack([COLOUR, opaque]), "RGBA"), COLOUR),
        "la": (Image.fromarray(np.dstack([GREY, opaque]), "LA"), GREY[..., None]),
    }
    for name, (picture, expected) in cases.items():
        read = pixels(tmp_path / name, saved(picture))
        assert np.array_equal(read.transpose(1, 2, 0), expected), name


def transparent_palette() -> Image.Image:
    picture = Image.fromarray(COLOUR).quantize(16)
    picture.info["transparency"] = int(np.array(picture)[0, 0])
    return picture


OTHERS = {
    "RGBA": lambda: png(0, "RGBA"),
    "LA": lambda: saved(Image.fromarray(np.dstack([GREY, GREY // 2]), "LA")),
    "P": lambda: saved(transparent_palette(), transparency=transparent_palette().info["transparency"]),
    "I;16": lambda: saved(Image.fromarray(RNG.integers(65536, size=(8, 8), dtype=np.uint16))),
    "CMYK": lambda: saved(Image.fromarray(np.dstack([COLOUR, GREY]), "CMYK"), "JPEG"),
    "RGB": lambda: saved(Image.fromarray(COLOUR), transparency=tuple(int(c) for c in COLOUR[0, 0])),
}
"""Modes whose meaning as 8 bits of grey or colour is a choice."""


@pytest.mark.parametrize("mode", OTHERS)
def test_what_needs_a_choice_is_one_line_with_the_remedy(mode: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a\.(png|jpg) has mode {mode}; .*data\.convert=rgb") as caught:
        pixels(tmp_path, OTHERS[mode](), "a.jpg" if mode == "CMYK" else "a.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", OTHERS)
def test_the_remedy_works(mode: str, tmp_path: Path) -> None:
    content = OTHERS[mode]()
    read = pixels(tmp_path, content, "a.jpg" if mode == "CMYK" else "a.png", convert="rgb")
    assert read.shape == (3, 8, 8)
    with Image.open(io.BytesIO(content)) as picture:
        if mode == "I;16":
            expected = np.repeat((np.array(picture) >> 8)[..., None], 3, 2)
        elif mode == "CMYK":
            expected = np.array(picture.convert("RGB"))
        else:  # over white: c a + 255 (1 - a), to the rounding of a byte
            r = np.array(picture.convert("RGBA")).astype(float)
            alpha = r[..., 3:] / 255
            expected = r[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read.transpose(1, 2, 0) - expected.astype(float)).max() <= 1


def test_of_sixteen_bits_the_transparent_grey_is_white(tmp_path: Path) -> None:
    """The others are their upper 8, as without such a grey."""
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    content = saved(Image.fromarray(values), transparency=int(values[2, 3]))
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.mode, picture.info["transparency"]) == ("I;16", values[2, 3])
    expected = values >> 8
    expected[2, 3] = 255
    read = pixels(tmp_path, content, convert="rgb")
    assert np.array_equal(read, np.stack([expected] * 3))
    with pytest.raises(UserError, match=r"a\.png has mode I;16; .*data\.convert=rgb"):
        pixels(tmp_path / "none", content)


def test_grey_among_colours(tmp_path: Path) -> None:
    files = {"a.png": saved(Image.fromarray(COLOUR)), "b.png": saved(Image.fromarray(GREY))}
    path = as_folder(tmp_path, files)
    with pytest.raises(UserError, match=r"b\.png is L 8×8, the first image, .*; data\.convert=rgb"):
        load_images(stored(path, labels=False))
    converted = load_images(stored(path, labels=False, convert="rgb"))
    x = to_uint8(converted.batch(torch.arange(2))[0]).numpy()
    assert np.array_equal(x[0].transpose(1, 2, 0), COLOUR)
    assert np.array_equal(x[1], np.stack([GREY] * 3))


def test_the_choice_belongs_to_files() -> None:
    for name in ("digits", "solids"):
        with pytest.raises(UserError, match=f"data.convert: rgb is given, but data.name: {name} has none"):
            load_images(DataOptions(name, convert="rgb"))


def header_of(width: int, height: int) -> bytes:
    """A PNG that says so and holds as good as nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8193, 10_000, 20_000, 100_000, 2**31 - 1])
def test_pictures_that_unpack_to_gigabytes_are_not_decoded(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """The first one, and a later one among others of 8×8."""
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"a\.png (is .*at most 8192×8192|is no whole image)") as caught:
        pixels(tmp_path / "first", header_of(side, side))
    assert "\n" not in str(caught.value)
    assert not recwarn.list
    monkeypatch.undo()
    path = as_folder(tmp_path / "later", {"a.png": png(0), "b.png": png(1)})
    data = load_images(stored(path, labels=False))
    Path(path, "b.png").write_bytes(header_of(4000, 4000))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"b\.png is RGB 4000×4000, the first image"):
        data.batch(torch.tensor([1]))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM"])
def test_other_formats_stay_shut(form: str, tmp_path: Path) -> None:
    """Whatever they are called: an EPS, for one, would start ghostscript."""
    with pytest.raises(UserError, match=r"a\.png is no whole image \(of no known format\)"):
        pixels(tmp_path, saved(Image.fromarray(COLOUR), form))
    with pytest.raises(UserError, match=r"a\.png is no whole image \(of no known format\)"):
        pixels(tmp_path / "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")


def test_pictures_that_are_damaged_anywhere_are_a_line_or_a_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rng, refused = np.random.default_rng(1), []
    for form, name in (("PNG", "a.png"), ("JPEG", "a.jpg")):
        whole = saved(Image.fromarray(COLOUR), form, exif=exif)
        for i, at in enumerate(rng.choice(len(whole), 100)):
            broken = whole[:at] if i % 4 == 0 else whole[:at] + bytes([whole[at] ^ rng.integers(1, 256)])
            content = broken if i % 4 == 0 else broken + whole[at + 1 :]
            try:
                assert pixels(tmp_path / f"{form}{i}", content, name).shape[1:] == (8, 8)
            except UserError as error:
                refused.append(str(error))
    assert refused
    assert not any("\n" in line for line in refused)


def test_images_of_all_parts_are_looked_at_when_a_set_is_opened(tmp_path: Path) -> None:
    """64 of 1,000, the last one among them; what lies between is found when it is read."""
    path = as_folder(tmp_path, {f"{i:04d}.png": png(i % 5) for i in range(1000)})
    Path(path, "0500.png").write_bytes(b"no image")
    data = load_images(stored(path, labels=False))
    with pytest.raises(UserError, match=r"0500\.png is no whole image"):
        data.batch(torch.tensor([500]))
    Path(path, "0999.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0999\.png is no whole image"):
        load_images(stored(path, labels=False))
