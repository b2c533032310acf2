"""Training sets, whole and in part."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from carv_distill.attribution.samples.sets import names_of, numbers_of
from carv_distill.data.clips.rendered import RenderedClips
from carv_distill.data.clips.sets import SomeClips
from carv_distill.data.images import load_images
from carv_distill.data.options import DataOptions
from carv_distill.data.sets import LabelledImages, Some, Unlabelled
from carv_distill.data.solids import prompted_solids
from carv_distill.data.stored import load_stored_images
from tests.helpers.attributed import training_set

X = torch.arange(24.0).view(8, 1, 1, 3)
WORDS = [f"w{n}" for n in range(8)]


def test_some_of_a_set_keep_their_names_and_numbers() -> None:
    whole = training_set(X, WORDS)
    some = whole.some([6, 1, 4]).some([2, 0])
    assert (some.names, some.words) == (["#4", "#6"], ["w4", "w6"])
    assert some.numbers.tolist() == [4, 6]
    assert torch.equal(some.batch(torch.tensor([1, 0])).x, X[[6, 4]])
    one = some.at([1])
    assert one.numbers is not None
    assert (one.words, one.numbers.tolist()) == (["w6"], [6])
    assert torch.equal(one.pictures, X[[6]])


def test_the_digest_is_of_what_is_in_it() -> None:
    whole = training_set(X, WORDS)
    digests = {
        whole.digest, whole.some([0, 1]).digest, whole.some([1, 0]).digest, training_set(X + 1, WORDS).digest,
    }  # fmt: skip
    assert len(digests) == 4
    assert whole.some([0, 1]).digest == whole.some([0, 1]).digest


def test_names_are_those_of_files_whatever_is_made_of_a_set(tmp_path: Path) -> None:
    """Also without its labels, and of a part of it; what has no files has numbers."""
    for name in ("a/x.png", "b/y.png", "b/z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    images = load_stored_images(str(tmp_path))
    assert names_of(images) == ["a/x.png", "b/y.png", "b/z.png"]
    assert names_of(Unlabelled(Some(images, torch.tensor([2, 0])))) == ["b/z.png", "a/x.png"]
    plain = LabelledImages(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.long), images.spec)
    assert names_of(Some(plain, torch.tensor([2, 0]))) == ["#2", "#0"]


def test_numbers_are_those_of_the_whole_set_whatever_is_taken_of_it(tmp_path: Path) -> None:
    """So that those that a ranking names can be written into a file for data.only."""
    digits = load_images("digits")
    (tmp_path / "only.txt").write_text("9 5 100")
    images = load_images(DataOptions("digits", only=str(tmp_path / "only.txt"), labels=False))
    assert numbers_of(images).tolist() == [5, 9, 100]
    assert names_of(images) == ["#5", "#9", "#100"]
    assert torch.equal(images.batch(torch.tensor([2]))[0], digits.images[[100]])
    assert numbers_of(Some(images, torch.tensor([2, 0]))).tolist() == [100, 5]
    clips = SomeClips(RenderedClips(12, 16, 5, 3), torch.tensor([9, 2]))
    assert numbers_of(clips).tolist() == [9, 2]
    shapes = prompted_solids(8, 1).some(torch.tensor([7, 3, 40]))
    assert numbers_of(shapes.some(torch.tensor([2, 1]))).tolist() == [40, 3]
    assert numbers_of(prompted_solids(8, 1)).tolist() == list(range(56))
