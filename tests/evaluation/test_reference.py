"""References: from a set, summed or kept, and files that say what they are of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from carv_distill.data.digits import load_digits_images
from carv_distill.data.sets import LabelledImages, to_uint8
from carv_distill.errors import UserError
from carv_distill.evaluation.classifier import ClassifierFeatures
from carv_distill.evaluation.fid import FeatureStatistics, HeldOut
from carv_distill.evaluation.options import FIDOptions
from carv_distill.evaluation.reference import FIDSetup, Reference
from carv_distill.processes import Processes
from tests.helpers.features import reference_of


def test_a_set_gives_what_its_images_give(digits_features: ClassifierFeatures) -> None:
    """Kept or summed; the covariance's divisor is N − 1 in both."""
    data = load_digits_images()
    images = reference_of("digits", to_uint8(data.images), digits_features)
    counts: list[int] = []
    kept = Reference.from_set(data, digits_features, progress=counts.append)
    summed = Reference.from_set(data, digits_features, most_features=100)
    assert sum(counts) == len(data)
    assert kept.name == summed.name == "digits"
    assert kept.features is not None
    assert images.features is not None
    assert torch.equal(kept.features.double(), images.features)
    assert summed.features is None
    for found in (kept, summed):
        torch.testing.assert_close(found.statistics.mu, images.statistics.mu, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.statistics.sigma, images.statistics.sigma, rtol=0, atol=1e-9)
    pixels = to_uint8(data.images)
    again = Reference.from_set(LabelledImages(pixels, data.labels, data.spec), digits_features)
    assert torch.equal(again.statistics.sigma, kept.statistics.sigma)
    few = LabelledImages(pixels[:1], data.labels[:1], data.spec)
    with pytest.raises(UserError, match="digits has 1 images; statistics need at least 2"):
        Reference.from_set(few, digits_features)


def test_a_file_says_what_it_is_of(digits_features: ClassifierFeatures, tmp_path: Path) -> None:
    statistics = FeatureStatistics(torch.zeros(64).double(), torch.eye(64).double())
    path = tmp_path / "statistics.npz"
    own = digits_features.fingerprint
    statistics.save(path, images=7, size=8, extractor=own)
    assert torch.equal(Reference.from_file(path, digits_features, 8).statistics.sigma, statistics.sigma)
    with pytest.raises(UserError, match="statistics of 8×8 images; the data has 32×32"):
        Reference.from_file(path, digits_features, 32)
    statistics.save(path, size=8, extractor="0123456789abcdef")
    with pytest.raises(UserError, match=f"the extractor 0123456789abcdef; fid.features gives {own}"):
        Reference.from_file(path, digits_features, 8)


def test_a_file_may_hold_the_floor(tmp_path: Path) -> None:
    statistics = FeatureStatistics(torch.zeros(2).double(), torch.eye(2).double(), HeldOut(0.25, 10_000))
    path = tmp_path / "statistics.npz"
    statistics.save(path)
    assert FeatureStatistics.load(path).held_out == HeldOut(0.25, 10_000)
    replace(statistics, held_out=None).save(path)
    assert FeatureStatistics.load(path).held_out is None


@pytest.mark.parametrize(
    "about",
    [
        {"held_out_fid": 0.25},
        {"held_out_images": 10},
        {"held_out_fid": float("nan"), "held_out_images": 10},
        {"held_out_fid": 0.25, "held_out_images": 0},
        {"held_out_fid": 0.25, "held_out_images": 2.5},
        {"held_out_fid": "low", "held_out_images": 10},
    ],
)
def test_a_floor_that_is_none_is_refused(about: dict[str, float | str], tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    FeatureStatistics(torch.zeros(2).double(), torch.eye(2).double()).save(path, **about)
    with pytest.raises(UserError, match=r"statistics\.npz: found held_out_fid .* or neither"):
        FeatureStatistics.load(path)


def test_a_files_name_may_say_its_resolution(digits_features: ClassifierFeatures, tmp_path: Path) -> None:
    statistics = FeatureStatistics(torch.zeros(64).double(), torch.eye(64).double())
    for name, fits in (("imagenet-64x64.npz", False), ("digits-8x8.npz", True), ("plain.npz", True)):
        statistics.save(tmp_path / name)
        if fits:
            Reference.from_file(tmp_path / name, digits_features, 8)
            continue
        with pytest.raises(UserError, match=r"imagenet-64x64\.npz: statistics of 64×64 images; .* 8×8"):
            Reference.from_file(tmp_path / name, digits_features, 8)


@pytest.mark.parametrize(("count", "world"), [(10, 3), (2, 3), (9, 1), (12, 2)])
def test_batches_are_dealt_out_once(count: int, world: int) -> None:
    shares = [Processes(rank, world).batches(count, 4) for rank in range(world)]
    numbers = sorted(n for share in shares for batch in share for n in batch)
    assert numbers == list(range(count))
    whole = {(b.start, b.stop) for b in Processes().batches(count, 4)}
    assert {(b.start, b.stop) for share in shares for b in share} == whole


@pytest.mark.parametrize(("count", "enough"), [(1, False), (3, False), (4, True)])
def test_images_are_counted_before_anything_is_made(count: int, enough: bool) -> None:
    """Three neighbours of an image are three others; a file of statistics needs no images."""
    digits = load_digits_images()
    data = LabelledImages(digits.images[:count], digits.labels[:count], digits.spec)
    options = FIDOptions()
    if enough:
        FIDSetup.load(options, data, 0, "cpu")
        return
    with pytest.raises(UserError, match=rf"^data: digits has {count} images; FID, .* needs at least 4"):
        FIDSetup.load(options, data, 0, "cpu")
