"""Pictures of coloured solids with prompts: what a miniature text-to-image teacher learns from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.geometry.camera import VIEWS, CameraSampler
from carv_distill.geometry.solids import SOLIDS, trace

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


@dataclass(frozen=True, eq=False)
class PromptedImages:
    """Images with a prompt each.

    Attributes:
        images: float32 [N, 3, S, S] in [-1, 1].
        prompts: N of them, as "a red torus, side view".
    """

    images: Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.images)


def combinations(held_out: bool) -> list[tuple[str, str]]:
    """(colour, solid) pairs: the 56 to learn from, or the 8 held out, one of every colour and every solid."""
    pairs = [
        (colour, solid, (3 * i + j) % len(SOLIDS) == 0)
        for i, colour in enumerate(COLOURS)
        for j, solid in enumerate(SOLIDS)
    ]
    return [(colour, solid) for colour, solid, out in pairs if out == held_out]


def object_prompt(colour: str, solid: str) -> str:
    """As "a red torus"; with the article that an orange one needs."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {solid}"


def view_prompt(prompt: str, view: str) -> str:
    """As "a red torus, side view"."""
    return f"{prompt}, {view} view"


def vocabulary() -> list[str]:
    """Every word of every prompt, held-out ones included: their words are known, their pairing is not."""
    prompts = [object_prompt(c, s) for out in (False, True) for c, s in combinations(out)]
    words = dict.fromkeys(w for p in prompts for w in p.split())
    return [*words, *VIEWS, "view"]


def shape_images(size: int = 32, views: int = 66, seed: int = 0, held_out: bool = False) -> PromptedImages:
    """`views` random cameras on each (colour, solid) pair, as text-to-3D draws them.

    Args:
        size: S, pixels.
        views: per pair.
        seed: names the cameras.
        held_out: the pairs that the teacher must not see, instead of the others.
    """
    images, prompts = [], []
    for colour, solid in combinations(held_out):
        cameras = CAMERAS.sample(views, stream(seed, "shapes", colour, solid))
        images.append(2 * trace(SOLIDS[solid], COLOURS[colour], cameras, size) - 1)
        prompts += [view_prompt(object_prompt(colour, solid), view) for view in cameras.views()]
    return PromptedImages(torch.cat(images), prompts)
