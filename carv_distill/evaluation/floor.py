"""The floor of every metric: what a perfect generator would score against the same reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.sets import to_uint8
from carv_distill.data.solids import PromptedImages

from .features import FeatureExtractor
from .fid import NEIGHBOURS, HeldOut, Metrics, compute_metrics
from .prompted import ROWS, Prompted
from .reference import Reference

SPLITS = 10
UNEVEN = 1.25
"""Largest class over smallest from which on classes count as of unequal size."""
WHOLE = 0.96
"""Least share of the wanted images: where classes run out, what is left is spread more evenly."""
USED = 0.8
"""Share of the real images in a split; the rest is for classes that chance draws more often."""
STATISTICS_ALONE = "the reference has statistics alone, no features of single images"


@dataclass(frozen=True)
class NoFloor:
    """Why there is none, in words."""

    reason: str

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        return {"none": self.reason}


@dataclass(frozen=True)
class Floor:
    """Real images against real images, as many as of a generator against the reference.

    A perfect generator draws N images from where the M of the reference came from, and still errs by chance:
    to first order FID is then a quadratic form in the errors of both sides, with expectation ∝ 1/N + 1/M,
    and so is KID's spread. Real images beside the reference are not to be had, so disjoint sets of s N and
    s M of its own are compared, the first with labels drawn as the generator's are (in turn, or at
    random), the second with each class's share of the reference, and

        floor = s · FID(s N images, s M images),    s = 0.8 M/(N + M),

    which has to first order the distribution of the FID of a perfect generator against another such
    reference: the spread is of both sides drawn anew, in a shift of the mean by 15 % more than that of a
    generator against one reference. KID's mean likewise, its spread only up to the 1,000 images of a subset.
    Labels have the reference's shares of classes; a generator whose labels are equally many has a higher FID
    where these are unequal. Precision and recall as they are, since the expected cover of a k-th neighbour's
    ball hardly depends on the number of images.

    Source: linear in 1/N: Chong and Forsyth (2020), Effectively Unbiased FID.
    """

    metrics: tuple[Metrics, ...]
    """One entry per split; `images` are the N that it stands for."""
    sizes: tuple[int, int]
    """Images on the two sides of a split."""
    scale: float
    """s."""
    uneven: bool = False
    """Whether the reference's classes are of unequal size."""
    rendered: bool = False
    """Whether the first side was rendered anew, and the second is the whole reference: nothing is scaled."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sizes": list(self.sizes),
            "scale": self.scale,
            "splits": [asdict(metrics) for metrics in self.metrics],
        }


def rendered_floor(
    data: PromptedImages,
    prompted: Prompted,
    extractor: FeatureExtractor,
    reference: Reference,
    images: int,
    labels: str,
    splits: int = SPLITS,
    kid_subsets: int = 100,
) -> Floor | NoFloor:
    """The floor of rendered images, which can be had anew: N whose objects are drawn as a generator's are, by
    other cameras (whatever view the caption names), against the reference itself, that many times, where that
    has features.

    A split of the reference, as :func:`measure_floor` makes, takes its images for independent ones; but each
    object is there equally often, and the floor of a split is then too high.

    Args:
        labels: how the captions of seeds are drawn; see :func:`~.generate.image_latents`.
        splits: sets of N.
    """
    if reference.features is None:
        return NoFloor(STATISTICS_ALONE)
    scores = []
    for split in range(splits):
        seeds = range(split * images, (split + 1) * images)
        numbers = prompted.images(seeds, labels)
        batches = data.rendered_anew(numbers, split).split(ROWS)
        features = torch.cat([extractor(to_uint8(batch)).float().cpu() for batch in batches])
        measured = compute_metrics(features, reference.features, reference.statistics, kid_subsets)
        if prompted.recognition is not None:
            clip, recognised = prompted.recognition.scores(features, prompted.labels[numbers])
            measured = replace(measured, clip=clip, recognised=recognised)
        scores.append(measured)
    return Floor(tuple(scores), (images, len(reference.features)), 1.0, rendered=True)


def measure_floor(
    reference: Reference,
    images: int,
    labels: str,
    splits: int = SPLITS,
    kid_subsets: int = 100,
) -> Floor | HeldOut | NoFloor:
    """The floor for N images whose labels are drawn as `labels` says, where the reference has enough of them;
    of statistics alone, what they say of real images held out.

    Args:
        images: N.
        labels: turn | random; without meaning where the reference has no classes.
        splits: of the real images; the spread over them is that of one perfect generator.
    """
    if reference.features is None:
        return reference.statistics.held_out or NoFloor(STATISTICS_ALONE)
    total = len(reference.features)
    share = USED * total / (images + total)
    if min(round(share * images), round(share * total)) <= NEIGHBOURS:
        return NoFloor(f"{total:,} images of the reference, {images:,} of a generator: too few to split")
    scores = []
    for split in range(splits):
        g = stream("fid", "floor", split)
        first, second = _split(reference.labels, total, share, images, labels, g)
        if len(first) < WHOLE * share * images:
            return NoFloor("the reference has too few images of a class")
        scale = (1 / images + 1 / total) / (1 / len(first) + 1 / len(second))
        measured = compute_metrics(reference.features[first], reference.features[second], None, kid_subsets)
        assert measured.kid is not None
        scores.append(replace(measured, fid=scale * measured.fid, kid=scale * measured.kid, images=images))
    counts = None if reference.labels is None else reference.labels.unique(return_counts=True)[1].double()
    uneven = counts is not None and bool(counts.max() > UNEVEN * counts.min())
    return Floor(tuple(scores), (len(first), len(second)), scale, uneven)


def _split(
    labels: Tensor | None, total: int, share: float, images: int, drawn: str, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of numbers of real images, about s N and s M of them."""
    order = torch.randperm(total, generator=g)
    if labels is None:
        count = round(share * total)
        return order[count : count + round(share * images)], order[:count]
    classes = [order[labels[order] == c] for c in labels.unique()]
    parts = torch.tensor([len(c) for c in classes], dtype=torch.float64) / total
    if drawn == "random":
        wanted = round(share * images)
        counts = torch.multinomial(parts, wanted, replacement=True, generator=g).bincount(
            minlength=len(classes)
        )
    else:
        counts = (share * images * parts).round().long()
    first, second = [], []
    for numbers, count in zip(classes, counts.tolist(), strict=True):
        own = round(share * len(numbers))
        second.append(numbers[:own])
        first.append(numbers[own : own + count])
    return torch.cat(first), torch.cat(second)
