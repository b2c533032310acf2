"""Pictures of coloured solids that need no file: with labels, or with prompts for a text-to-image teacher."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.geometry.camera import VIEWS, Cameras, CameraSampler
from carv_distill.geometry.solids import SOLIDS, trace

from .captioned import number_captions
from .sets import ImageSpec, LabelledImages

COLOURS = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.05),
    "yellow": (0.95, 0.85, 0.10),
    "green": (0.10, 0.60, 0.15),
    "cyan": (0.10, 0.75, 0.80),
    "blue": (0.10, 0.20, 0.85),
    "purple": (0.55, 0.15, 0.70),
    "white": (0.98, 0.98, 0.98),
}
CAMERAS = CameraSampler()
SIZE = 32


def labelled_solids(views: int = 64) -> LabelledImages:
    """The data set `solids`: each of 8 solids in each of 8 colours from V = `views` random cameras.

    Returns:
        images float32 [64 V, 3, 32, 32] in [-1, 1] and labels int64 [64 V] in 0..7, the solid's place in
        :data:`~carv_distill.geometry.solids.SOLIDS`. They are a function of V alone; rendering takes seconds.
    """
    images, labels = [], []
    for label, solid in enumerate(SOLIDS):
        for colour in COLOURS:
            cameras = CAMERAS.sample(views, stream("solids", colour, solid))
            images.append(picture(colour, solid, cameras, SIZE))
            labels += [label] * views
    spec = ImageSpec("solids", channels=3, size=SIZE, classes=len(SOLIDS), names=tuple(SOLIDS))
    return LabelledImages(torch.cat(images), torch.tensor(labels), spec)


def picture(colour: str, solid: str, cameras: Cameras, size: int) -> Tensor:
    """A solid as n cameras see it, [n, 3, size, size] in [-1, 1]."""
    return 2 * trace(SOLIDS[solid], COLOURS[colour], cameras, size) - 1


@dataclass(frozen=True, eq=False)
class PromptedImages:
    """Images in memory with a prompt each; a :class:`~.captioned.CaptionedSet` of these prompts."""

    images: Tensor
    """float32 [N, 3, S, S] in [-1, 1]."""
    prompts: list[str]
    """As "a red torus, side view"."""
    name: str = "shapes"
    cameras: CameraSampler = CAMERAS
    """That saw them."""
    numbers: Tensor | None = None
    """In the set that these are some of, int64 [N]; None: they are all of it."""

    decodes = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def spec(self) -> ImageSpec:
        channels, size = self.images.shape[1:3]
        return ImageSpec(self.name, channels, size, len(self.captions))

    @property
    def captions(self) -> list[str]:
        return self._numbered[0]

    @property
    def labels(self) -> Tensor:
        return self._numbered[1]

    @property
    def objects(self) -> list[str]:
        return [caption.rpartition(",")[0] for caption in self.captions]

    @cached_property
    def _numbered(self) -> tuple[list[str], Tensor]:
        return number_captions(self.prompts)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[indices], self.labels[indices]

    def some(self, numbers: Tensor) -> PromptedImages:
        """Those of these numbers, int64 [n]."""
        prompts = [self.prompts[n] for n in numbers.tolist()]
        of_all = numbers if self.numbers is None else self.numbers[numbers]
        return replace(self, images=self.images[numbers], prompts=prompts, numbers=of_all)

    def fingerprint(self) -> str:
        return hashlib.blake2b(self.images.numpy().tobytes(), digest_size=8).hexdigest()

    def rendered_anew(self, numbers: Tensor, seed: int) -> Tensor:
        """What these images show, [n], as other cameras see it: [n, 3, S, S].

        Args:
            seed: names the cameras.
        """
        shown = [self.objects[label] for label in self.labels[numbers].tolist()]
        anew = torch.empty(len(shown), *self.spec.shape)
        for colour, solid in [*combinations(held_out=False), *combinations(held_out=True)]:
            rows = [row for row, text in enumerate(shown) if text == object_prompt(colour, solid)]
            if rows:
                cameras = self.cameras.sample(len(rows), stream(seed, "shapes anew", colour, solid))
                anew[rows] = picture(colour, solid, cameras, self.spec.size)
        return anew


def prompted_solids(
    size: int = 32, views: int = 66, seed: int = 0, held_out: bool = False, elevation: float = 45.0
) -> PromptedImages:
    """The data set `shapes`: each (colour, solid) pair from `views` random cameras, as text-to-3D draws them.

    Args:
        size: S, pixels.
        seed: names the cameras.
        held_out: the pairs that the teacher must not see, instead of the others.
        elevation: the greatest of a camera, degrees.
    """
    images, prompts = [], []
    sampler = replace(CAMERAS, elevation=(CAMERAS.elevation[0], elevation))
    for colour, solid in combinations(held_out):
        cameras = sampler.sample(views, stream(seed, "shapes", colour, solid))
        images.append(picture(colour, solid, cameras, size))
        prompts += [view_prompt(object_prompt(colour, solid), view) for view in cameras.views()]
    return PromptedImages(torch.cat(images), prompts, cameras=sampler)


def combinations(held_out: bool) -> list[tuple[str, str]]:
    """(colour, solid) pairs: the 56 to learn from, or the 8 held out, one of every colour and every solid."""
    return [
        (colour, solid)
        for i, colour in enumerate(COLOURS)
        for j, solid in enumerate(SOLIDS)
        if ((3 * i + j) % len(SOLIDS) == 0) == held_out
    ]


def object_prompt(colour: str, solid: str) -> str:
    """As "a red torus"; with the article that an orange one needs."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {solid}"


def view_prompt(prompt: str, view: str) -> str:
    """As "a red torus, side view"."""
    return f"{prompt}, {view} view"


def vocabulary() -> list[str]:
    """Every word of every prompt, held-out ones included: their words are known, their pairing is not."""
    prompts = [object_prompt(*pair) for held_out in (False, True) for pair in combinations(held_out)]
    return [*dict.fromkeys(w for p in prompts for w in p.split()), *VIEWS, "view"]
