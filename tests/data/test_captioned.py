"""Captioned pictures: resized, cropped, numbered by their captions, read as they are wanted."""

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
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from carv_distill.data.batches import step_loader
from carv_distill.data.captioned import load_captioned_images, square
from carv_distill.data.images import load_captioned, load_images
from carv_distill.data.options import DataOptions
from carv_distill.data.sets import in_memory, to_uint8
from carv_distill.data.solids import prompted_solids
from carv_distill.errors import UserError
from tests.helpers.captioned_files import TEXTS, WRITERS, beside, photos, tar_of
from tests.helpers.image_files import Files, as_folder, png

Write = Callable[[Path, Files], str]
RNG = np.random.default_rng(0)


def picture(width: int, height: int, low: int = 0, high: int = 256) -> Image.Image:
    return Image.fromarray(RNG.integers(low, high, size=(height, width, 3), dtype=np.uint8))


def bytes_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("write", WRITERS)
def test_images_and_numbers_of_captions(write: Write, tmp_path: Path) -> None:
    data = load_captioned(DataOptions("captioned", write(tmp_path, photos() | beside()), size=8))
    assert (len(data), data.spec.shape, data.spec.classes) == (4, (3, 8, 8), 3)
    assert data.captions == ["a red torus", "a blue cube", TEXTS["b/3"]]
    x, labels = data.batch(torch.arange(4))
    assert labels.dtype == torch.int64
    assert labels.tolist() == data.labels.tolist() == [0, 1, 0, 2]
    assert (x.dtype, x.shape) == (torch.float32, (4, 3, 8, 8))
    for image, content in zip(to_uint8(x), photos().values(), strict=True):
        expected = square(Image.open(io.BytesIO(content)), 8)
        assert np.array_equal(image.numpy().transpose(1, 2, 0), np.array(expected))
    again = pickle.loads(pickle.dumps(data))  # as a spawned worker gets it
    assert torch.equal(again.batch(torch.tensor([3, 1]))[0], x[[3, 1]])
    assert torch.equal(in_memory(data).labels, labels)


@pytest.mark.parametrize("write", WRITERS)
def test_steps_are_the_same_with_workers_and_after_a_pause(write: Write, tmp_path: Path) -> None:
    data = load_captioned_images(write(tmp_path, photos() | beside()), 8)
    data.batch(torch.tensor([0]))  # a zip's descriptor is open before the workers fork
    alone = list(islice(step_loader(data, 4, 0, "real", [0], 5, 0), 3))
    for workers, start in ((2, 5), (1, 6)):
        others = islice(step_loader(data, 4, 0, "real", [0], start, workers), 8 - start)
        for (x, a), (y, b) in zip(alone[start - 5 :], others, strict=True):
            assert torch.equal(x, y)
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(64, 64, 16), (96, 64, 16), (64, 128, 32), (16, 16, 16), (8, 8, 32), (24, 16, 32), (60, 20, 10)],
)
def test_the_middle_is_what_resize_and_crop_give(width: int, height: int, size: int) -> None:
    """Where the longer side comes out even; to the rounding of a byte, as Pillow may resize a tall picture's
    columns before its rows."""
    photo = picture(width, height, low=64, high=192)  # nothing overshoots, to be cut at 0 or 255
    expected = np.array(CenterCrop(size)(Resize(size, InterpolationMode.LANCZOS)(photo))).astype(int)
    assert np.abs(np.array(square(photo, size)) - expected).max() <= 1
    if width >= height:
        assert np.array_equal(np.array(square(photo, size)), expected)


@pytest.mark.parametrize(("width", "height", "size"), [(100, 67, 32), (33, 201, 16), (127, 126, 64)])
def test_the_middle_of_other_sizes_is_centred(width: int, height: int, size: int) -> None:
    """A photo turned by 180° gives the picture turned by 180°, to the rounding of a byte."""
    photo = picture(width, height)
    turned = np.array(square(photo.rotate(180), size)).astype(int)
    assert np.abs(turned[::-1, ::-1] - np.array(square(photo, size))).max() <= 1


def test_nothing_aliases() -> None:
    """Lines of one pixel become grey, not lines."""
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::2] = 255
    inside = np.array(square(Image.fromarray(lines), 8))[:, 1:-1]
    assert np.abs(inside.astype(int) - 127.5).max() <= 4


def test_a_strip_takes_no_more_than_its_middle() -> None:
    """8192 × 1, which enlarged as a whole would take 6 GB."""
    assert square(picture(8192, 1), 512).size == (512, 512)


def test_pictures_are_upright_and_in_colour(tmp_path: Path) -> None:
    """EXIF, grey, a palette, alpha over white, 16 bits, CMYK."""
    photo, grey = picture(12, 8), Image.fromarray(RNG.integers(256, size=(8, 8), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.fromarray(np.dstack([np.array(picture(8, 8)), np.zeros((8, 8), np.uint8)]), "RGBA")
    deep = Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))
    files = {
        "a.png": bytes_of(photo, exif=exif),
        "b.png": bytes_of(grey),
        "c.png": bytes_of(clear),
        "d.png": bytes_of(deep),
        "e.png": bytes_of(photo.quantize(8)),
        "f.jpg": bytes_of(photo.convert("CMYK"), "JPEG"),
    }
    texts = {f"{letter}.txt": b"one" for letter in "abcdef"}
    data = load_captioned_images(as_folder(tmp_path, files | texts), 8)
    assert data.spec.classes == 1
    x = to_uint8(data.batch(torch.arange(6))[0]).numpy().transpose(0, 2, 3, 1)
    assert np.array_equal(x[0], np.array(square(photo.rotate(-90, expand=True), 8)))
    assert np.array_equal(x[1], np.array(grey.convert("RGB")))
    assert (x[2] == 255).all()
    assert (x[3] == 0x80).all()
    assert np.array_equal(x[4], np.array(square(photo.quantize(8).convert("RGB"), 8)))


def test_the_fingerprint_is_of_files_and_size(tmp_path: Path) -> None:
    """Not of captions, nor of where it lies."""

    def fingerprint(files: Files, size: int = 8) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        folder = as_folder(place, files)
        for file in Path(folder).rglob("*.*"):
            os.utime(file, (0, 0))
        return load_captioned_images(folder, size).fingerprint()

    files = photos() | beside()
    plain = fingerprint(files)
    assert plain == fingerprint(files) == fingerprint(files | {"a/0.txt": b"another"})
    assert len(plain) == 16
    renamed = {name.replace("b/3", "b/4"): content for name, content in files.items()}
    others = [fingerprint(renamed), fingerprint(files, 16), fingerprint(files | {"a/0.png": png(9)})]
    assert len({plain, *others}) == 4


@pytest.mark.parametrize("write", WRITERS)
def test_another_picture_of_the_same_length_has_another_fingerprint(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is none of those whose content is looked at."""
    monkeypatch.setattr("carv_distill.data.captioned.spread", lambda count: range(0))
    files, found = photos() | beside(), []
    for number, name in enumerate(("b/2.png", "b/3.png")):
        (tmp_path / str(number)).mkdir()
        place = write(tmp_path / str(number), files | {name: files[name][:-1] + b"x"})
        found.append(load_captioned_images(str(place), 8).fingerprint())
    assert found[0] != found[1]


@pytest.mark.parametrize("write", WRITERS)
def test_a_picture_that_is_damaged_is_named(write: Write, tmp_path: Path) -> None:
    files = photos() | beside()
    files["b/2.png"] = files["b/2.png"][:60]
    with pytest.raises(UserError, match=r"/2\.png is no whole image") as caught:
        load_captioned_images(write(tmp_path, files), 8)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_damaged_later_is_named_by_a_worker(tmp_path: Path) -> None:
    path = as_folder(tmp_path, photos() | beside())
    loader = step_loader(load_captioned_images(path, 8), 32, 0, "real", [0], 0, 2)
    Path(path, "a/1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a/1\.png is no whole image"):
        next(iter(loader))


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("nothing", {}, "does not exist; a folder or zip of pictures"),
        ("set", {"a.txt": b"a"}, r"holds no pictures \(\.png, .*\.bmp\) and no shards"),
        ("set", {"a.tar": tar_of({"a.cls": b"1"})}, "holds no pictures"),
        ("set", {"a.tar": tar_of({}), "x.png": png(0)}, r"holds pictures and shards \(a\.tar\)"),
        ("set", {"a.tar.gz": b""}, r"a\.tar\.gz is compressed; unpack it to a \.tar"),
        ("set/a.tgz", {"a.tgz": b""}, r"a\.tgz is compressed"),
        ("set/a.tar", {"a.tar": b"no"}, r"a\.tar is not a whole, uncompressed tar file"),
        ("set/a.txt", {"a.txt": b"no"}, r"a\.txt is not a whole zip file"),
    ],
)
def test_places_that_do_not_fit_are_a_line(name: str, files: Files, message: str, tmp_path: Path) -> None:
    as_folder(tmp_path, files)
    with pytest.raises(UserError, match=message) as caught:
        load_captioned_images(str(tmp_path / name), 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DataOptions("captioned"), r"data\.path: data\.name: captioned needs a folder or zip of pictures"),
        (DataOptions("digits"), "no data set 'digits' of images with captions; allowed: shapes, captioned"),
        (DataOptions("shapes", "x"), r"x is given, but .* made in memory \(a path goes with captioned\)"),
        (
            DataOptions("captioned", "x", views=3),
            "views: 3 is given, but .*captioned has none.* add data.views=66,",
        ),
        (DataOptions("captioned", "x", convert="rgb"), r"data\.convert: rgb is given"),
        (DataOptions("captioned", "x", flip=True), r"data\.flip: True is given"),
        (DataOptions("shapes", labels=False), r"data\.labels: False is given"),
    ],
)
def test_options_that_do_not_fit_are_a_line(options: DataOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_captioned(options)


def test_sets_with_captions_are_asked_for_by_what_they_are() -> None:
    captioned = DataOptions("captioned", "x", size=64)
    captioned.require_captioned()
    DataOptions("shapes", size=64, views=2).require_captioned()
    with pytest.raises(UserError, match=r"captioned has files; .*\(allowed: shapes\)"):
        captioned.require_prompted()
    with pytest.raises(UserError, match="no data set 'captioned' of labelled images"):
        load_images(captioned)


def test_shapes_are_such_a_set() -> None:
    data = load_captioned(DataOptions("shapes", size=8, views=2))
    plain = prompted_solids(8, 2)
    assert (len(data), data.spec.name, data.spec.shape) == (112, "shapes", (3, 8, 8))
    assert data.spec.classes == len(data.captions) == len(set(plain.prompts))
    pick = torch.tensor([111, 0, 5])
    x, labels = data.batch(pick)
    assert torch.equal(x, plain.images[pick])
    assert [data.captions[n] for n in labels] == [plain.prompts[n] for n in pick]
    assert [data.captions[n] for n in data.labels] == plain.prompts
    assert step_loader(data, 4, 0, "real", [0], 0, 2).num_workers == 0  # nothing to decode


def test_a_json_beside_a_picture_of_many(tmp_path: Path) -> None:
    """200 pictures: the captions are all read, 64 pictures are."""
    files = {f"{i:03d}.png": png(i % 3) for i in range(200)}
    texts = {f"{i:03d}.json": json.dumps({"text": f"{i % 7} cats"}).encode() for i in range(200)}
    path = as_folder(tmp_path, files | texts)
    Path(path, "100.png").write_bytes(b"no image")
    data = load_captioned_images(path, 8)
    assert data.labels.tolist() == [i % 7 for i in range(200)]
    with pytest.raises(UserError, match=r"100\.png is no whole image"):
        data.batch(torch.tensor([100]))


FORMS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "bmp": "BMP", "BMP": "BMP"}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", FORMS)
def test_common_formats_are_read(suffix: str, write: Write, tmp_path: Path) -> None:
    """Without loss to the bit, JPEG and WebP to within their own."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4] = 200, 40, 90
    content = io.BytesIO()
    more = {"lossless": True} if FORMS[suffix] == "WEBP" else {}
    Image.fromarray(picture).save(content, FORMS[suffix], **more)
    files = {f"a/x.{suffix}": content.getvalue(), "a/x.txt": b"a red torus"}
    data = load_captioned_images(write(tmp_path, files), 8)
    assert data.captions == ["a red torus"]
    difference = (data.pixels(0).permute(1, 2, 0).numpy().astype(int) - picture).__abs__().max()
    assert difference <= (40 if FORMS[suffix] == "JPEG" else 0)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["y.gif", "b/y.TIFF", "y.avif"])
def test_a_picture_of_another_format_is_named_and_not_left_out(
    name: str, write: Write, tmp_path: Path
) -> None:
    folder, _, base = f"a/{name}".rpartition("/")
    path = write(tmp_path, {**photos(), **beside(), f"{folder}/{base}": b"", f"{folder}/y.txt": b"a"})
    with pytest.raises(UserError, match=rf"holds .*{base}, of a format that is not read \(allowed: \.png,"):
        load_captioned_images(path, 8)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    content, frames = io.BytesIO(), [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:])
    path = as_folder(tmp_path, {"x.webp": content.getvalue(), "x.txt": b"a"})
    with pytest.raises(UserError, match=r"x\.webp is an animation of 2 pictures; give one"):
        load_captioned_images(path, 8)
