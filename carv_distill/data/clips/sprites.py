"""Solids and digits as flat pieces, without colour and place, that clips are put together from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.digits import load_digits_images
from carv_distill.geometry.camera import CameraSampler
from carv_distill.geometry.solids import SIDED, SOLIDS, meet

TURNING = ("cube", "torus", "cylinder", "cone", "octahedron", "capsule", "snowman", "mug")
"""The solids of clips: all that look different once they are turned, as a ball does not."""
OBJECTS = (*TURNING, *map(str, range(10)))
"""What clips show, by number: the solids, then the digits."""
SIDES = (16, 32, 64)
"""Pixels along one side of a sprite, from which the nearest to the size on the picture is taken."""
VIEWS = 16
"""Of each solid, as cameras from all sides see it."""
CAMERAS = CameraSampler(distance=(2.6, 2.6), fov=(38.0, 38.0), elevation=(-10.0, 50.0))
_DARKEST = 0.25


@dataclass(frozen=True, eq=False)
class Sprites:
    """Every view of every solid and every scan of every digit."""

    solids: tuple[Tensor, ...]
    """float32 [V, 2, P, P] for each side P of :data:`SIDES`: alpha, and alpha times brightness."""
    scans: Tensor
    """float32 [1797, 1, 8, 8] in [0, 1]."""
    places: tuple[Tensor, ...]
    """int64, of each object: where in `solids` or `scans` its pictures are."""

    def sprite(self, number: int, pick: float, side: float) -> Tensor:
        """A picture of an object, [2, P, P]: alpha, and alpha times brightness; 0 along the border.

        Args:
            number: place in :data:`OBJECTS`.
            pick: in [0, 1), which of its views or scans.
            side: pixels that it will have; P is the first of :data:`SIDES` that is no smaller.
        """
        level = next((i for i, p in enumerate(SIDES) if p >= side), len(SIDES) - 1)
        places = self.places[number]
        place = places[int(pick * len(places))]
        if number < len(TURNING):
            return self.solids[level][place]
        return _digit(self.scans[place], SIDES[level])


@cache
def sprites() -> Sprites:
    """A function of nothing; rendering takes seconds, once a process."""
    side = SIDES[-1]
    whole = []
    for name in TURNING:
        cameras = CAMERAS.sample(VIEWS, stream("sprites", name))
        hit = meet({**SOLIDS, **SIDED}[name], cameras, 2 * side)
        # The light is at the camera: turning the picture is turning the solid about the line of sight.
        facing = -(hit.normals * hit.toward).sum(-1).clamp(max=0)
        image = torch.zeros(VIEWS * 4 * side * side, 2)
        image[hit.rays] = torch.stack([torch.ones_like(facing), _DARKEST + (1 - _DARKEST) * facing], -1)
        whole.append(F.avg_pool2d(image.view(VIEWS, 2 * side, 2 * side, 2).permute(0, 3, 1, 2), 2))
    solids = torch.cat(whole)
    digits = load_digits_images()
    places = [
        *torch.arange(len(solids)).view(len(TURNING), VIEWS),
        *((digits.labels == digit).nonzero().squeeze(1) for digit in range(10)),
    ]
    levels = tuple(F.avg_pool2d(solids, side // p) if p < side else solids for p in SIDES)
    return Sprites(levels, (digits.images + 1) / 2, tuple(places))


def _digit(scan: Tensor, side: int) -> Tensor:
    """A scan [1, 8, 8] enlarged: strokes with soft borders, evenly bright."""
    inside = 13 * side // 16
    large = F.interpolate(scan[None], size=(inside, inside), mode="bicubic", align_corners=False)[0]
    # The grey levels of a scan are counts of ink: half of the greatest is where a stroke's border is.
    alpha = (0.5 + (large - 0.4) * side / 24).clamp(0, 1)
    margin = (side - inside) // 2
    alpha = F.pad(alpha, (margin, side - inside - margin) * 2)
    return torch.cat([alpha, alpha])
