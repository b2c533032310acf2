"""Fashion-MNIST from torchvision's files, wherever they lie, and without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carv_distill.data.fashion import CLASSES, FASHION_MNIST, LAYOUTS
from carv_distill.data.images import load_images
from carv_distill.data.options import DATA_SETS, DataOptions
from carv_distill.data.sets import to_uint8
from carv_distill.errors import UserError
from tests.helpers.fashion_files import idx, save_fashion_mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def fashion(path: Path | None, split: str = "train") -> DataOptions:
    return DataOptions("fashion_mnist", None if path is None else str(path), split=split)


def missing(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """As where Debian's package would put its files in this folder."""
    entry = replace(DATA_SETS["fashion_mnist"], installed=str(place))
    monkeypatch.setitem(DATA_SETS, "fashion_mnist", entry)


def test_pictures_have_a_black_margin_of_two_pixels(tmp_path: Path) -> None:
    pixels, labels = save_fashion_mnist(tmp_path)
    data = load_images(fashion(tmp_path))
    assert data.spec == FASHION_MNIST
    assert len(CLASSES) == data.spec.classes
    x, numbers = data.batch(torch.arange(40))
    assert np.array_equal(to_uint8(x)[:, 0, 2:30, 2:30].numpy(), pixels)
    assert np.array_equal(numbers.numpy(), labels)
    x[:, :, 2:30, 2:30] = -1
    assert torch.equal(x, torch.full((40, 1, 32, 32), -1.0))


@pytest.mark.parametrize("below", LAYOUTS)
def test_files_are_found_in_every_layout(below: str, tmp_path: Path) -> None:
    save_fashion_mnist(tmp_path / "made")
    (tmp_path / "set" / below).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "made/FashionMNIST/raw").rename(tmp_path / "set" / below)
    assert len(load_images(fashion(tmp_path / "set"))) == 40
    assert len(load_images(fashion(tmp_path / "set", "test"))) == 20


def test_without_a_path_debians_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, tmp_path / "FashionMNIST/raw")
    with pytest.raises(
        UserError, match=r"apt install dataset-fashion-mnist.*give the folder, data"
    ) as caught:
        load_images(fashion(None))
    assert "\n" not in str(caught.value)
    save_fashion_mnist(tmp_path)
    assert len(load_images(fashion(None))) == 40


def test_what_pictures_are_like_is_known_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(monkeypatch, tmp_path / "nowhere")
    for source in (fashion(None), fashion(tmp_path / "nowhere")):
        data = load_images(source, wanted=False)
        assert (data.spec, len(data)) == (FASHION_MNIST, 0)
    unlabelled = load_images(replace(fashion(None), labels=False), wanted=False)
    assert unlabelled.spec.classes == 0
    assert len(load_images(DataOptions("digits"), wanted=False)) == 1797  # there is nothing to be spared


def test_the_half_to_test_by_is_a_set_of_its_own() -> None:
    assert fashion(None).test_half == fashion(None, "test")
    assert fashion(None, "test").test_half is None
    assert DataOptions("digits").test_half is None
    with pytest.raises(UserError, match=r"data\.split: test is given, but data\.name: digits has none"):
        load_images(DataOptions("digits", split="test"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "train-labels-idx1-ubyte",
            idx(np.zeros(39, np.uint8)),
            "has 39 labels, train-images-.* 40 pictures",
        ),
        (LABELS, idx(np.full(40, 10, np.uint8)), "has the label 10; allowed are 0 … 9"),
        (IMAGES, idx(np.zeros((40, 8, 9), np.uint8)), "has pictures of 8×9"),
        (IMAGES, idx(np.zeros((40, 28), np.uint8)), "begins with 00 00 08 02"),
        (IMAGES, None, r"data\.path: neither .* nor .* has train-images-idx3-ubyte or"),
    ],
)
def test_files_that_do_not_fit_are_named(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    save_fashion_mnist(tmp_path)
    file = tmp_path / "FashionMNIST/raw" / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        load_images(fashion(tmp_path))
    assert "\n" not in str(caught.value)
