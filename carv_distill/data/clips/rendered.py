"""Clips that need no file: a solid or a digit that moves before a background that may move too."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.captioned import number_captions
from carv_distill.data.sets import from_uint8
from carv_distill.data.solids import COLOURS, object_prompt
from carv_distill.errors import UserError
from carv_distill.geometry.backdrops import CHOICES, NOISES, backdrops, drifted

from .sets import ClipSpec, require_frames
from .sprites import OBJECTS, sprites
from .trajectories import MOTIONS, course

EXTENT = (0.2, 0.32)
"""Half the side of what holds the object, as a share of the picture's."""
DRIFT = (0.08, 0.35)
"""How far a background moves during a clip, as a share of the picture's side."""
SMOOTH, CONTRAST, BRIGHTEST = (0.3, 1.0), (0.0, 0.6), 0.8
"""Of backgrounds: the parts of the ranges of :mod:`~carv_distill.geometry.backdrops` that exponent and
contrast are from, and what white becomes."""
_PLACE, _SIZE, _LOOK, _BEHIND = slice(0, 8), 8, slice(9, 13), slice(13, 16)
_NUMBERS = 16 + CHOICES
_MOTIONS, _COLOURS = list(MOTIONS), list(COLOURS)


class ClipFacts(NamedTuple):
    """What n clips show, to be evaluated by; each [n]."""

    motion: Tensor
    """int64, place in :data:`~.trajectories.MOTIONS`."""
    object: Tensor
    """int64, place in :data:`~.sprites.OBJECTS`."""
    colour: Tensor
    """int64, place in :data:`~carv_distill.data.solids.COLOURS`."""
    named: Tensor
    """bool, whether the caption names the motion."""
    drift: Tensor
    """float32 [n, 2], how far the background moves during the clip, right and down, as a share of the side;
    0 where it stands still."""


@dataclass(frozen=True)
class RenderedClips:
    """A :class:`~.sets.ClipSet` of N clips. A clip is a function of its number and of the fields but
    `count`: in whatever batch the same to the bit, on another machine to the rounding of a byte.

    Every seven clips from 7 j on have the seven motions in random order. Nothing else depends on the motion:
    object, colour, size, the middle of the way and the angle, the background and its drift have one law for
    all, as has the share of captions that are silent on the motion, "a red cube" for "a red cube turns".

    Args:
        count: N.
        size: H = W in pixels, a multiple of 8.
        frames: F = 4k + 1.
        unnamed: the share of captions that do not name the motion.
        drifting: the share of backgrounds that move.
        tilt: the greatest angle, in degrees, that an object is turned by to either side. Below 180 digits and
            solids are easier to learn, and a turn can be guessed from one frame.
        endless: what leaves the picture on one side comes in on the other, as the background does. Then each
            single frame has one law for all motions; otherwise what moves left begins, on average, on the
            right. Objects are often cut in two.
        objects_shown: some of :data:`~.sprites.OBJECTS`.

    Raises:
        UserError: a number out of range, or an object that is none of these.
    """

    count: int
    size: int = 64
    frames: int = 17
    seed: int = 0
    unnamed: float = 0.3
    drifting: float = 0.7
    tilt: float = 180.0
    endless: bool = False
    objects_shown: Sequence[str] = OBJECTS

    decodes = True

    def __post_init__(self) -> None:
        require_frames(self.frames)
        if self.size < 16 or self.size % 8:
            raise UserError(f"size: {self.size} is no multiple of 8 from 16 on; give one, as 64")
        if self.count < 1:
            raise UserError(f"count: {self.count} clips; at least 1")
        for name, most in (("unnamed", 1), ("drifting", 1), ("tilt", 180)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise UserError(f"{name}: {value} is not in 0 … {most}")
        unknown = [name for name in self.objects_shown if name not in OBJECTS]
        if unknown or not self.objects_shown:
            raise UserError(f"objects_shown: {unknown or 'none'}; allowed: {', '.join(OBJECTS)}")

    def __len__(self) -> int:
        return self.count

    @property
    def spec(self) -> ClipSpec:
        return ClipSpec("clips", self.frames, self.size, self.size, len(self.captions))

    @property
    def captions(self) -> list[str]:
        return self._numbered[0]

    @property
    def labels(self) -> Tensor:
        return self._numbered[1]

    @property
    def objects(self) -> list[str]:
        """What each caption is of, without the motion."""
        return [" ".join(caption.split()[:3]) for caption in self.captions]

    @cached_property
    def facts(self) -> ClipFacts:
        """Of all the clips; without rendering, 20,000 a second."""
        return self.facts_of(torch.arange(self.count))

    def facts_of(self, indices: Tensor) -> ClipFacts:
        """Of some of them, int64 [n]."""
        numbers = indices.tolist()
        drawn = torch.stack([self._drawn(i)[0] for i in numbers])
        object_, colour, _, silent = drawn[:, _LOOK].unbind(1)
        shown = torch.tensor([OBJECTS.index(name) for name in self.objects_shown])
        drift = torch.stack([torch.tensor(self._drift(v)) for v in drawn[:, _BEHIND].tolist()])
        return ClipFacts(
            torch.tensor([self._motion(i) for i in numbers]),
            shown[(object_ * len(shown)).long()],
            (colour * len(COLOURS)).long(),
            silent >= self.unnamed,
            drift,
        )

    def render(self, indices: Tensor) -> Tensor:
        """Some of the clips, int64 [n] → uint8 [n, F, 3, S, S]."""
        clips = torch.empty(len(indices), self.frames, 3, self.size, self.size, dtype=torch.uint8)
        for row, number in enumerate(indices.tolist()):
            clips[row] = self.clip(number)
        return clips

    @torch.no_grad()
    def clip(self, number: int) -> Tensor:
        """One clip, uint8 [F, 3, S, S].

        Its frames are made at once, but clips one by one: all of one fits into a processor's cache, and the
        sums do not depend on which others are wanted.
        """
        v, generator = self._drawn(number)
        numbers = v.tolist()
        shown, colour, pick, _ = numbers[_LOOK]
        object_ = OBJECTS.index(self.objects_shown[int(shown * len(self.objects_shown))])
        tint = torch.tensor(COLOURS[_COLOURS[int(colour * len(COLOURS))]])
        time = torch.linspace(0, 1, self.frames)
        tilt = math.radians(self.tilt)
        way = course(numbers[_PLACE], tilt, (0, 1)) if self.endless else course(numbers[_PLACE], tilt)
        pose = MOTIONS[_MOTIONS[self._motion(number)]](way, time)
        extent = EXTENT[0] + (EXTENT[1] - EXTENT[0]) * numbers[_SIZE]
        sprite = sprites().sprite(object_, pick, 2 * extent * self.size)

        centres = (torch.arange(self.size) + 0.5) / self.size
        x, y = centres - pose.x[:, None], centres - pose.y[:, None]
        if self.endless:
            x, y = ((p + 0.5) % 1 - 0.5 for p in (x, y))
        x, y = x[:, None, :], y[:, :, None]
        cos, sin = (pose.angle.cos() / extent)[:, None, None], (pose.angle.sin() / extent)[:, None, None]
        grid = torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
        piece = F.grid_sample(sprite.expand(self.frames, -1, -1, -1), grid, align_corners=False)

        noise = torch.randn(1, NOISES, self.size, self.size, generator=generator)
        frames = drifted(_muted(noise, v[None, 16:].float()), self._drift(numbers[_BEHIND]), time)
        frames = frames * (1 - piece[:, :1]) + piece[:, 1:] * tint[:, None, None]
        return (255 * frames).round_().clamp_(0, 255).to(torch.uint8)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return from_uint8(self.render(indices)), self.labels[indices]

    def fingerprint(self) -> str:
        numbers = (self.count, self.size, self.frames, self.seed, self.drifting, self.tilt, self.endless)
        hashed = hashlib.blake2b(repr((*numbers, *self.objects_shown)).encode(), digest_size=8)
        hashed.update(self.clip(0).numpy().tobytes())
        return hashed.hexdigest()

    @cached_property
    def _numbered(self) -> tuple[list[str], Tensor]:
        motion, object_, colour, named, _ = (fact.tolist() for fact in self.facts)
        return number_captions(
            [caption(*numbers) for numbers in zip(motion, object_, colour, named, strict=True)]
        )

    def _drawn(self, number: int) -> tuple[Tensor, torch.Generator]:
        """What a clip is made of but its motion: uniform numbers, float64, and the stream of its noise."""
        generator = stream(self.seed, "clip", number)
        return torch.rand(_NUMBERS, generator=generator, dtype=torch.float64), generator

    def _motion(self, number: int) -> int:
        block, place = divmod(number, len(MOTIONS))
        order = torch.randperm(len(MOTIONS), generator=stream(self.seed, "motions", block))
        return int(order[place])

    def _drift(self, v: list[float]) -> tuple[float, float]:
        if v[0] >= self.drifting:
            return 0.0, 0.0
        length, angle = DRIFT[0] + (DRIFT[1] - DRIFT[0]) * v[1], 2 * math.pi * v[2]
        return length * math.cos(angle), length * math.sin(angle)


def caption(motion: int, object_: int, colour: int, named: bool) -> str:
    """As "a red cube turns", "an orange 7 moves left"; without the motion where it is not named."""
    words = object_prompt(_COLOURS[colour], OBJECTS[object_])
    return f"{words} {_MOTIONS[motion]}" if named else words


def clip_vocabulary() -> list[str]:
    """Every word of every caption."""
    return list(dict.fromkeys(" ".join(["a an", *COLOURS, *OBJECTS, *MOTIONS]).split()))


def _muted(noise: Tensor, choice: Tensor) -> Tensor:
    """A backdrop [3, S, S] that no object is lost before: smoother, of less contrast, half as colourful."""
    low, high = torch.tensor([SMOOTH, CONTRAST]).unbind(1)
    muted = torch.cat([low + (high - low) * choice[:, :2], choice[:, 2:]], 1)
    picture = backdrops(noise, muted)[0]
    return BRIGHTEST * (picture + picture.mean(0)) / 2
