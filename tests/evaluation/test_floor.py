"""The floor against perfect generators that are known."""

import math

import pytest
import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.sets import to_uint8
from carv_distill.data.solids import prompted_solids
from carv_distill.evaluation.clip import ClipFeatures
from carv_distill.evaluation.features import SOLIDS_CLIP
from carv_distill.evaluation.fid import FeatureStatistics, compute_metrics, frechet_distance
from carv_distill.evaluation.floor import Floor, NoFloor, measure_floor, rendered_floor
from carv_distill.evaluation.generate import image_latents
from carv_distill.evaluation.prompted import Prompted
from carv_distill.evaluation.quality_table import report_table
from carv_distill.evaluation.reference import Reference
from carv_distill.evaluation.report import Report

CLASSES, DIM = 5, 6
CENTRES = 3 * torch.randn(CLASSES, DIM, generator=stream("floor", "centres"), dtype=torch.float64)


def features(labels: Tensor, *key: int | str) -> Tensor:
    """N(centre of the label, I), [n, DIM]."""
    noise = torch.randn(len(labels), DIM, generator=stream("floor", *key), dtype=torch.float64)
    return CENTRES[labels] + noise


def reference(count: int, seed: int, labelled: bool = True) -> Reference:
    """All classes equally often, or labels at random of which nothing is known."""
    g = stream("floor", "labels", seed)
    labels = torch.arange(count) % CLASSES if labelled else torch.randint(CLASSES, (count,), generator=g)
    known = features(labels, "reference", seed, int(labelled))
    return Reference("test", FeatureStatistics.from_features(known), known, labels if labelled else None)


def mean_and_se(values: list[float]) -> tuple[float, float]:
    v = torch.tensor(values)
    return v.mean().item(), v.std().item() / math.sqrt(len(v))


@pytest.mark.parametrize(
    ("images", "labels", "labelled"),
    [(400, "random", True), (400, "turn", True), (1200, "random", True), (100, "random", False)],
)
def test_the_floor_is_the_fid_of_a_perfect_generator(images: int, labels: str, labelled: bool) -> None:
    """Mean over 12 references of 400 of the floor, and of the FID of 4 perfect sets each; the two differ by
    less than 4 SE of the difference, SE from the spread over references, plus 3 % for the next order."""
    floors, truths = [], []
    for seed in range(12):
        ref = reference(400, seed, labelled)
        floor = measure_floor(ref, images, labels, splits=6, kid_subsets=1)
        assert isinstance(floor, Floor)
        floors.append(sum(m.fid for m in floor.metrics) / 6)
        scores = []
        for start in range(4):
            seeds = range(start * images, (start + 1) * images)
            drawn = image_latents(seeds, (1,), CLASSES, labels)[1]
            if not labelled:
                g = stream("floor", "perfect", seed, start)
                drawn = torch.randint(CLASSES, (images,), generator=g)
            made = FeatureStatistics.from_features(features(drawn, "made", seed, start))
            scores.append(frechet_distance(made, ref.statistics))
        truths.append(sum(scores) / 4)
    (floor_mean, floor_se), (truth, truth_se) = mean_and_se(floors), mean_and_se(truths)
    assert abs(floor_mean - truth) < 4 * math.hypot(floor_se, truth_se) + 0.03 * truth


def test_labels_in_turn_lower_fid_and_pull_kid_below_zero() -> None:
    """Of perfect generators, against a reference with all classes equally often; by 4 SE over splits."""
    ref = reference(600, 0)
    random, turn = (measure_floor(ref, 600, labels, 40, 1) for labels in ("random", "turn"))
    assert random is not None
    assert turn is not None
    fids = [mean_and_se([m.fid for m in f.metrics]) for f in (random, turn)]
    assert fids[0][0] - fids[1][0] > 4 * math.hypot(fids[0][1], fids[1][1])
    kid, se = mean_and_se([m.kid for m in turn.metrics if m.kid is not None])
    assert kid < -4 * se


def test_a_split_is_disjoint_and_says_its_sizes() -> None:
    """Of 400 images 0.8 · 400/(400 + 200) = 8/15 stand for each side's number; metrics as measured there."""
    ref = reference(400, 1)
    floor = measure_floor(ref, 200, "turn", splits=1, kid_subsets=1)
    assert isinstance(floor, Floor)
    assert floor.sizes == (105, 215)  # 21 and 43 of each class of 80
    assert floor.scale == pytest.approx((1 / 200 + 1 / 400) / (1 / 105 + 1 / 215))
    assert floor.metrics[0].images == 200
    doubled = torch.cat([ref.features] * 2)  # type: ignore[list-item]
    both = compute_metrics(doubled[:400], doubled[400:], kid_subsets=1)
    assert floor.metrics[0].fid > 100 * both.fid  # no image is on both sides
    assert floor.to_dict()["splits"][0]["precision"] == floor.metrics[0].precision


def why(ref: Reference, images: int) -> str:
    """There is no floor."""
    floor = measure_floor(ref, images, "random")
    assert isinstance(floor, NoFloor)
    return floor.reason


def test_without_images_there_is_no_floor() -> None:
    ref = reference(400, 2)
    assert "statistics alone" in why(Reference("file", ref.statistics), 400)
    few = Reference("few", ref.statistics, features(torch.zeros(7, dtype=torch.long), "few"))
    assert why(few, 7).startswith("7 images of the reference, 7 of a generator: too few")


@pytest.mark.slow
def test_a_class_that_runs_out_leaves_no_floor() -> None:
    """Ten images each of 200 classes: what is drawn at random from what the other side leaves falls short."""
    labels = torch.arange(200).repeat(10)
    known = torch.randn(2000, 3, generator=stream("rare"), dtype=torch.float64)
    reference = Reference("rare", FeatureStatistics.from_features(known), known, labels)
    assert "too few images of a class" in why(reference, 2000)


@pytest.mark.parametrize(("sizes", "uneven"), [((100, 110), False), ((160, 50), True)])
def test_classes_of_unequal_size_are_noted(sizes: tuple[int, int], uneven: bool) -> None:
    """The floor's labels have the data's shares, which is then said."""
    labels = torch.tensor([0] * sizes[0] + [1] * sizes[1])
    known = torch.randn(210, 3, generator=stream("uneven"), dtype=torch.float64)
    reference = Reference("uneven", FeatureStatistics.from_features(known), known, labels)
    floor = measure_floor(reference, 210, "turn")
    assert isinstance(floor, Floor)
    assert floor.uneven is uneven
    assert abs(floor.sizes[0] - 84) <= 1


@pytest.mark.slow
def test_renders_by_other_cameras_are_their_own_floor() -> None:
    """224 renders: each set is of as many fresh ones with the captions of a generator's seeds, measured
    against the reference as a generator is, and CLIP recognises them as it does the reference."""
    data, extractor = prompted_solids(32, 4), ClipFeatures(SOLIDS_CLIP)
    known = extractor(to_uint8(data.images))
    ref = Reference("shapes", FeatureStatistics.from_features(known), known)
    prompted = Prompted.of(data, extractor, (2,))
    floor = rendered_floor(data, prompted, extractor, ref, 224, "random", splits=3, kid_subsets=1)
    assert isinstance(floor, Floor)
    assert (floor.sizes, floor.scale, floor.rendered) == ((224, 224), 1.0, True)
    numbers = image_latents(range(224, 448), (2,), 224, "random")[1]  # seeds of the second set
    fresh = data.rendered_anew(numbers, 1)
    again = compute_metrics(extractor(to_uint8(fresh)), known, ref.statistics, 1)
    assert floor.metrics[1].fid == pytest.approx(again.fid, rel=1e-6)
    assert floor.metrics[1].recall == again.recall
    assert len({m.fid for m in floor.metrics}) == 3
    assert all(m.recognised is not None and m.recognised > 0.85 for m in floor.metrics)
    assert all(m.precision is not None and m.precision > 0.85 for m in floor.metrics)
    file = Reference("file", ref.statistics)
    assert isinstance(rendered_floor(data, prompted, extractor, file, 224, "turn"), NoFloor)
    report = Report("student", ((0, 223),), floor.metrics[:1], "clip", "f", "shapes")
    table = str(report_table([report], floor))
    assert "3 sets of as many real images, rendered by other cameras" in " ".join(table.split())
    assert "splits" not in table


@pytest.mark.slow
def test_a_split_of_renders_lies_above_the_floor_of_fresh_ones() -> None:
    """It takes them for independent ones, but each object is there equally often: by 4 SE over 30 splits and
    10 sets of fresh ones, of 504."""
    data, extractor = prompted_solids(32, 9), ClipFeatures(SOLIDS_CLIP)
    known = extractor(to_uint8(data.images))
    ref = Reference("shapes", FeatureStatistics.from_features(known), known)
    fresh = rendered_floor(data, Prompted.of(data, extractor, (2,)), extractor, ref, 504, "random", 10, 1)
    split = measure_floor(ref, 504, "random", 30, 1)
    assert isinstance(fresh, Floor)
    assert isinstance(split, Floor)
    high, low = (mean_and_se([m.fid for m in f.metrics]) for f in (split, fresh))
    assert high[0] - low[0] > 4 * math.hypot(high[1], low[1])


def test_fresh_renders_show_the_same_objects_from_elsewhere() -> None:
    """The mean colour of a picture tells its object's colour: nearer to its own than to another one's."""
    data = prompted_solids(16, 2)
    numbers = torch.tensor([0, 1, 60, 0])
    fresh = data.rendered_anew(numbers, 5)
    assert torch.equal(fresh, data.rendered_anew(numbers, 5))
    assert not torch.equal(fresh, data.rendered_anew(numbers, 6))
    assert not any(torch.equal(image, data.images[n]) for image, n in zip(fresh, numbers, strict=True))
    assert not torch.equal(fresh[0], fresh[3])
    colours = fresh.amin((2, 3)), data.images[numbers].amin((2, 3))
    distance = torch.cdist(*colours)
    assert distance[0, 0] < distance[0, 2]
    assert distance[2, 2] < distance[2, 0]
