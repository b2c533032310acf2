"""evaluate.py reference: which sets have statistics, and of which size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carv_distill.commands.reference import REFERENCE, ReferenceOptions
from carv_distill.data.images import load_images
from carv_distill.errors import UserError
from carv_distill.evaluation.features import SOLIDS_CLIP, load_extractor
from carv_distill.evaluation.fid import HeldOut, frechet_distance
from carv_distill.evaluation.reference import Reference
from tests.helpers.captioned_files import beside, photos
from tests.helpers.fashion_files import save_fashion_features, save_fashion_mnist
from tests.helpers.image_files import as_folder, png


def test_captioned_pictures_have_statistics_of_the_size_that_is_given(tmp_path: Path) -> None:
    """They are of the pictures as a data set of that size gives them, and fit no other size."""
    path, out = as_folder(tmp_path, photos() | beside()), tmp_path / "photos.npz"
    options = ReferenceOptions(data="captioned", path=path, size=12, features="clip", workers=0, out=out)
    assert REFERENCE.measure(options, [], "cpu") is not None
    with np.load(out) as file:
        assert (file["size"].item(), file["images"].item()) == (12, 4)
    extractor = load_extractor("clip", str(SOLIDS_CLIP))
    assert Reference.from_file(out, extractor, 12).statistics.mu.shape == (extractor.dim,)
    with pytest.raises(UserError, match=r"statistics of 12×12 images; the data has 16×16"):
        Reference.from_file(out, extractor, 16)


def test_grey_among_colours_is_converted_as_in_a_run(tmp_path: Path) -> None:
    path = as_folder(tmp_path, {"a.png": png(0), "b.png": png(1, "L")})
    options = ReferenceOptions(data="images", path=path, features="clip", out=tmp_path / "set.npz", workers=0)
    with pytest.raises(UserError, match=r"data\.convert=rgb makes colours of all"):
        REFERENCE.measure(options, [], "cpu")
    assert REFERENCE.measure(replace(options, convert="rgb"), [], "cpu") is not None
    with pytest.raises(UserError, match=r"^--convert: rgb is given, but digits has none"):
        ReferenceOptions(data="digits", convert="rgb")


def test_rendered_shapes_have_their_cameras(tmp_path: Path) -> None:
    out = tmp_path / "shapes.npz"
    options = ReferenceOptions(data="shapes", size=8, views=2, features="clip", out=out)
    assert REFERENCE.measure(options, [], "cpu") is not None
    with np.load(out) as file:
        assert (file["size"].item(), file["images"].item()) == (8, 112)


def test_the_half_to_test_by_is_the_floor(tmp_path: Path) -> None:
    """Its FID against the half to train on, to the bit: both go through the network once."""
    save_fashion_mnist(tmp_path)
    weights, out = str(save_fashion_features(tmp_path / "features")), tmp_path / "fashion.npz"
    options = ReferenceOptions(
        data="fashion_mnist", path=str(tmp_path), features="classifier", weights=weights, out=out
    )
    measured = REFERENCE.measure(options, [], "cpu")
    assert measured is not None
    extractor = load_extractor("classifier", weights)
    kept = Reference.from_file(out, extractor, 32).statistics
    train, test = (
        Reference.from_set(load_images(replace(options.source, split=split)), extractor, most_features=0)
        for split in ("train", "test")
    )
    assert torch.equal(kept.mu, train.statistics.mu)
    assert kept.held_out == HeldOut(frechet_distance(test.statistics, train.statistics), 20)
    assert measured.result is not None
    assert measured.result["held_out"] == {"fid": kept.held_out.fid, "images": 20}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": "captioned", "path": "x"}, r"--size: captioned pictures have any size, .* as --size 512"),
        ({"data": "captioned", "size": 8}, r"data\.path: data\.name: captioned needs a folder"),
        ({"data": "captioned", "path": "x", "size": 8, "views": 3}, "--views: 3 is given, but captioned has"),
        ({"data": "digits", "size": 8}, "--size: 8 is given, but digits has none"),
        ({"data": "images", "path": "x", "size": 64}, "--size: 64 is given, but images has none"),
        ({"data": "shapes", "path": "x"}, r"data\.path: x is given, but .* is made in memory"),
    ],
)
def test_what_does_not_go_together_is_a_line_before_any_work(
    given: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        ReferenceOptions(**given, out=tmp_path / "x.npz")  # type: ignore[arg-type]
