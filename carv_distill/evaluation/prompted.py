"""Generated images with prompts: whose captions they have, and whether a CLIP model recognises them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from carv_distill.data.captioned import CaptionedSet, PromptedSet
from carv_distill.data.sets import ImageSpec, Unlabelled

from .clip import ClipFeatures
from .features import FeatureExtractor
from .generate import Sample, image_latents
from .options import FIDOptions
from .reference import FIDSetup

ROWS = 1024
"""Images that are compared with all prompts at a time."""


class Recognition:
    """Which of all prompts an image goes with best, by a CLIP model's own two halves.

    Args:
        extractor: gives image features; its text model reads the prompts.
        objects: what each caption is of, [C]; equal ones are one prompt.

    Source: Park et al. 2021 (R-Precision); Hessel et al. 2021 (CLIP score, here without its factor 2.5).
    """

    def __init__(self, extractor: ClipFeatures, objects: Sequence[str]) -> None:
        distinct = {text: i for i, text in enumerate(dict.fromkeys(objects))}
        self.object_of = torch.tensor([distinct[text] for text in objects])
        self.texts = normalize(extractor.text_features(list(distinct)).cpu().float(), dim=-1)

    def scores(self, features: Tensor, captions: Tensor) -> tuple[float, float]:
        """The means of :meth:`each`."""
        score, recognised = self.each(features, captions)
        return float(score.mean()), float(recognised.float().mean())

    def each(self, features: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        """100 max(cos, 0) of each image and its own prompt, [N], and whether that is the best match of all,
        bool [N], of features [N, D] and caption numbers [N]."""
        scores, recognised = [], []
        for rows, numbers in zip(features.split(ROWS), captions.split(ROWS), strict=True):
            cosines = normalize(rows.float(), dim=-1) @ self.texts.T
            own = self.object_of[numbers]
            scores.append(100 * cosines.gather(1, own[:, None])[:, 0].clamp(min=0))
            recognised.append(cosines.argmax(1) == own)
        return torch.cat(scores), torch.cat(recognised)


@dataclass(frozen=True)
class Prompted:
    """How images are generated for a set of captions: seed i gets the caption of an image drawn at random, so
    that captions come as often as the data has them.

    Args:
        captions: the distinct ones, [C].
        labels: the caption of each image of the data, [N].
        latent: shape of one z.
        recognition: None where features are not CLIP's.
    """

    captions: Sequence[str]
    labels: Tensor
    latent: tuple[int, ...]
    recognition: Recognition | None

    @classmethod
    def of(cls, data: PromptedSet, extractor: FeatureExtractor, latent: tuple[int, ...]) -> Prompted:
        """For a data set and the features that it is measured with."""
        clip = isinstance(extractor, ClipFeatures)
        recognition = Recognition(extractor, data.objects) if clip else None  # type: ignore[arg-type]
        return cls(data.captions, data.labels, latent, recognition)

    def spec(self, spec: ImageSpec) -> ImageSpec:
        """That of generated images: as many labels as there are images in the data."""
        return replace(spec, classes=len(self.labels))

    def sample(self, draw: Sample) -> Sample:
        """A generator by caption as one by image of the data."""
        return lambda z, images: draw(z, self.labels.to(images.device)[images])

    def numbers(self, seeds: Sequence[int], labels: str = "random") -> Tensor:
        """The caption of each seed's image, [n]."""
        return self.labels[self.images(seeds, labels)]

    def images(self, seeds: Sequence[int], labels: str = "random") -> Tensor:
        """Each seed's image of the data, whose caption it gets, [n]."""
        return image_latents(seeds, self.latent, len(self.labels), labels)[1]


def captioned_setup(
    options: FIDOptions, data: CaptionedSet, workers: int, device: str, latent: tuple[int, ...]
) -> tuple[FIDSetup, Prompted]:
    """Features and reference of images with captions, which are no classes to the floor; and how images are
    generated for them."""
    setup = FIDSetup.load(options, Unlabelled(data), workers, device)
    return setup, Prompted.of(data, setup.extractor, latent)
