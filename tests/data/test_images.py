"""Data sets from files: what is read, and what is said of files that do not fit."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from carv_distill.data.images import load_images
from carv_distill.data.options import DataOptions
from carv_distill.data.sets import from_uint8, in_memory, originals, to_uint8
from carv_distill.data.solids import labelled_solids
from carv_distill.errors import UserError
from tests.helpers.image_files import LAST, Files, as_folder, as_zip, pictures, png, save_cifar10, stored


@pytest.mark.parametrize("write", [as_folder, as_zip])
def test_files_are_read_in_the_order_of_their_names(
    write: Callable[[Path, Files], str], tmp_path: Path
) -> None:
    files = pictures()
    data = load_images(stored(write(tmp_path, files)))
    assert (data.spec.name, data.spec.shape, data.spec.classes) == ("set", (3, 8, 8), 3)
    assert len(data) == 6
    names = sorted(name for name in files if name.endswith("png"))
    x, labels = data.batch(torch.arange(6))
    assert labels.tolist() == [int(name[-5]) % 3 for name in names]
    for i, name in enumerate(names):
        expected = np.array(Image.open(io.BytesIO(files[name]))).transpose(2, 0, 1)
        assert np.array_equal(to_uint8(x[i]).numpy(), expected)
    again = pickle.loads(pickle.dumps(data))  # as a spawned worker gets it
    assert torch.equal(again.batch(torch.tensor([4, 1]))[0], x[[4, 1]])
    assert torch.equal(in_memory(data).images, x)


def test_grey_and_jpeg_files_are_read(tmp_path: Path) -> None:
    data = load_images(stored(as_folder(tmp_path, {"a.PNG": png(0, "L")}), labels=False))
    assert data.spec.shape == (1, 8, 8)
    jpeg = tmp_path / "jpeg"
    data = load_images(stored(as_folder(jpeg, {"a.jpg": png(0, form="JPEG")}), labels=False))
    assert data.batch(torch.tensor([0]))[0].shape == (1, 3, 8, 8)


def test_labels_may_be_null_or_left_out(tmp_path: Path) -> None:
    path = as_folder(tmp_path, pictures(labels=False))
    assert load_images(stored(path)).spec.classes == 0
    path = as_zip(tmp_path, pictures())
    data = load_images(stored(path, labels=False))
    assert data.spec.classes == 0
    assert data.batch(torch.arange(6))[1].tolist() == [0] * 6


def test_mirror_images_are_the_second_half(tmp_path: Path) -> None:
    path = as_zip(tmp_path, pictures())
    plain, both = load_images(stored(path)), load_images(stored(path, flip=True))
    assert len(both) == 12
    x, labels = both.batch(torch.arange(12))
    assert torch.equal(x[:6], plain.batch(torch.arange(6))[0])
    assert torch.equal(x[6:], x[:6].flip(-1))
    assert torch.equal(labels[:6], labels[6:])
    assert len(originals(both)) == len(originals(plain)) == 6


def test_bytes_come_back_from_floats() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(values)), values)


def with_file(name: str, content: bytes) -> Files:
    return pictures() | {name: content}


def with_labels(entries: object) -> Files:
    return pictures() | {"dataset.json": json.dumps(entries).encode()}


NAMES = [name for name in pictures() if name.endswith("png")]


@pytest.mark.parametrize("write", [as_folder, as_zip])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b""}, "holds no images"),
        ({"a.png": png(0, size=(8, 9))}, r"a\.png is 8×9; images must be square"),
        ({"a.png": png(0, "RGBA")}, r"a\.png has mode RGBA; allowed are L, RGB"),
        ({"a.png": png(0)[:60]}, r"a\.png is no whole image"),
        ({"a.png": png(0)}, r"dataset\.json is missing.*data\.labels=false"),
        (with_file("dataset.json", b"{"), r"dataset\.json is not"),
        (with_labels({"label": 1}), r"dataset\.json is not"),
        (with_labels({"labels": [["00000/img00000000.png", 0]]}), r"has no label for 00000/img00000002\.png"),
        (with_labels({"labels": [[n, 0.5] for n in NAMES]}), "has the label 0.5 for"),
        (with_labels({"labels": [[n, -1] for n in NAMES]}), "has the label -1 for"),
        (with_labels({"labels": [[n, 2 * (i % 2)] for i, n in enumerate(NAMES)]}), "no image with label 1"),
        (with_file(LAST, png(0, "L")), rf"{LAST} is L 8×8, the first image, .*00000000\.png, is RGB 8×8"),
        (with_file(LAST, png(0, size=(9, 9))), rf"{LAST} is RGB 9×9, the first"),
        (with_file(LAST, png(5)[:100]), rf"{LAST} is no whole image"),
    ],
)
def test_files_that_do_not_fit_are_named(
    write: Callable[[Path, Files], str], files: Files, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_images(stored(write(tmp_path, files))).batch(torch.arange(6))
    assert "\n" not in str(caught.value)


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    path = Path(as_zip(tmp_path, pictures()))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"set\.zip is not a whole zip file"):
        load_images(stored(str(path)))
    at = whole.index(b"IDAT") + 8  # of the first member, which is stored
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(UserError, match=r"img00000000\.png is damaged"):
        load_images(stored(str(path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            DataOptions("mnist"),
            "data.name: no data set 'mnist' of labelled images; allowed: digits, solids, cifar10, "
            "fashion_mnist, images",
        ),
        (DataOptions("digits", "x"), "data.path: x is given, but data.name: digits is made in memory"),
        (DataOptions("digits", size=64), "data.size: 64 is given, but data.name: digits has none"),
        (DataOptions("cifar10"), "data.path: .*cifar-10-batches-py; fetch it with python -c"),
        (DataOptions("images"), "data.path: data.name: images needs a folder or zip"),
        (DataOptions("images", "/nowhere"), "data.path: /nowhere does not exist"),
        (DataOptions("cifar10", "/nowhere"), "data_batch_1 is missing; fetch CIFAR-10 with"),
    ],
)
def test_paths_that_do_not_fit_are_named(options: DataOptions, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_images(options)
    assert "\n" not in str(caught.value)


def test_cifar10_is_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of six images in CIFAR-10's layout, under its own checksums."""
    pixels = save_cifar10(tmp_path, monkeypatch, [3, 1, 0, 9, 2, 2])
    data = load_images(DataOptions("cifar10", str(tmp_path)))
    assert (len(data), data.spec.shape, data.spec.classes) == (6, (3, 32, 32), 10)
    x, labels = data.batch(torch.arange(6))
    assert labels.tolist() == [3, 1, 0, 9, 2, 2]
    assert np.array_equal(to_uint8(x).numpy(), pixels.reshape(6, 3, 32, 32))

    assert len(load_images(DataOptions("cifar10", str(tmp_path), split="test"))) == 1
    assert len(load_images(DataOptions("cifar10"), wanted=False)) == 0

    folder = tmp_path / CIFAR10.base_folder
    second = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match="data_batch_2 has another MD5 than the published file"):
        load_images(DataOptions("cifar10", str(tmp_path)))
    (folder / "batches.meta").unlink()
    (folder / "data_batch_2").write_bytes(second)
    with pytest.raises(UserError, match=r"batches\.meta is missing"):
        load_images(DataOptions("cifar10", str(tmp_path)))


def test_solids_are_labelled_by_their_shape() -> None:
    """A solid's pictures differ, and the same call makes them again."""
    data = labelled_solids(views=1)
    assert (len(data), data.spec.shape, data.spec.classes) == (64, (3, 32, 32), 8)
    assert data.labels.bincount().tolist() == [8] * 8
    assert data.images.abs().max() <= 1
    assert torch.equal(labelled_solids(views=1).images, data.images)
    corner = data.images[:, :, 0, 0]
    assert torch.allclose(corner, torch.zeros_like(corner))  # grey behind them all
    assert (data.images.flatten(1).std(1) > 0.03).all()
