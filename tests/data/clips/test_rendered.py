"""Clips that are rendered: the same whoever asks, motions as they are called, and nothing that tells them."""

from __future__ import annotations

import dataclasses
import time
from itertools import combinations, islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.data.batches import step_loader
from carv_distill.data.clips.rendered import DRIFT, RenderedClips, clip_vocabulary
from carv_distill.data.clips.sets import ClipSet
from carv_distill.data.clips.sprites import OBJECTS
from carv_distill.data.clips.trajectories import MOTIONS
from carv_distill.data.solids import COLOURS
from carv_distill.errors import UserError

MANY = RenderedClips(21_000, size=16, seed=3)
MOTION = list(MOTIONS)
GOLDEN: dict[str, list[Any]] = {
    "motion": [2, 0, 1, 4, 5, 3, 6],
    "object": [2, 16, 0, 4, 8, 3, 0],
    "colour": [6, 7, 5, 3, 1, 7, 0],
    "named": [True, True, False, False, True, True, False],
    "mean": [105.05, 127.68, 113.62, 106.62, 98.79, 153.77, 82.08],
}


def test_a_clip_is_the_same_alone_in_a_batch_and_of_a_larger_set() -> None:
    clips = RenderedClips(40, size=24, frames=5)
    together = clips.render(torch.arange(12))
    assert (together.shape, together.dtype) == (torch.Size([12, 5, 3, 24, 24]), torch.uint8)
    assert torch.equal(clips.render(torch.tensor([7, 3, 7])), together[[7, 3, 7]])
    assert torch.equal(RenderedClips(1000, size=24, frames=5).clip(9), together[9])
    assert not torch.equal(RenderedClips(40, size=24, frames=5, seed=1).clip(9), together[9])
    for a, b in zip(clips.facts, clips.facts_of(torch.arange(40)), strict=True):
        assert torch.equal(a, b)


def test_what_clips_show_is_the_same_on_every_machine() -> None:
    """Numbers exactly, pictures to the rounding of a byte."""
    clips = RenderedClips(7, size=32)
    motion, object_, colour, named, _ = clips.facts
    assert motion.tolist() == GOLDEN["motion"]
    assert object_.tolist() == GOLDEN["object"]
    assert colour.tolist() == GOLDEN["colour"]
    assert named.tolist() == GOLDEN["named"]
    assert clips.render(torch.arange(7)).float().mean((1, 2, 3, 4)).tolist() == pytest.approx(
        GOLDEN["mean"], abs=0.05
    )


def test_it_is_a_set_of_captioned_clips() -> None:
    clips: ClipSet = RenderedClips(30, size=16, frames=5)
    assert clips.spec.shape == (5, 3, 16, 16)
    assert clips.spec.classes == len(clips.captions) == len(set(clips.captions))
    x, labels = clips.batch(torch.tensor([4, 29]))
    assert (x.dtype, x.shape) == (torch.float32, (2, 5, 3, 16, 16))
    assert -1 <= x.min() < x.max() <= 1
    assert labels.tolist() == clips.labels[[4, 29]].tolist()
    for text, what in zip(clips.captions, clips.objects, strict=True):
        assert text == what or text.removeprefix(f"{what} ") in MOTIONS
        assert what.split()[0] in ("a", "an")
    assert set(" ".join(clips.captions).split()) <= set(clip_vocabulary())
    alone = list(islice(step_loader(clips, 3, 0, "clips", [0], 0, 0), 2))
    for (a, n), (b, m) in zip(alone, step_loader(clips, 3, 0, "clips", [0], 0, 1), strict=False):
        assert torch.equal(a, b)
        assert torch.equal(n, m)


def test_captions_say_what_is_shown() -> None:
    motion, object_, colour, named, _ = (fact[:300].tolist() for fact in MANY.facts)
    texts = [MANY.captions[n] for n in MANY.labels[:300].tolist()]
    tints = list(COLOURS)
    for text, m, o, c, tells in zip(texts, motion, object_, colour, named, strict=True):
        article, tint, what, *rest = text.split()
        assert (tint, what) == (tints[c], OBJECTS[o])
        assert article == ("an" if tint == "orange" else "a")
        assert " ".join(rest) == (MOTION[m] if tells else "")


def test_motions_are_balanced_to_the_clip() -> None:
    for end in (7, 700, 21_000):
        assert MANY.facts.motion[:end].bincount().tolist() == [end // 7] * 7
    orders = {tuple(order) for order in MANY.facts.motion.view(-1, 7).tolist()}
    assert len(orders) > 2000  # of 5,040, 3,000 drawn: 2,260 expected


FEATURES: dict[str, Tensor] = {
    "object": MANY.facts.object,
    "colour": MANY.facts.colour,
    "named": MANY.facts.named.long(),
    "background moves": MANY.facts.drift.any(1).long(),
    "background goes left": (MANY.facts.drift[:, 0] < 0).long(),
    "background goes up": (MANY.facts.drift[:, 1] < 0).long(),
    "motion": MANY.facts.motion,
}


PAIRS = [
    (one, other)
    for one, other in combinations(FEATURES, 2)
    if not (one.startswith("background") and other.startswith("background"))  # one that goes left moves
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_is_shown_is_independent(one: str, other: str) -> None:
    """Each pair of values is as frequent as the product of its shares says, to 4 standard errors."""
    a, b = FEATURES[one], FEATURES[other]
    n = len(a)
    for i in range(int(a.max()) + 1):
        for j in range(int(b.max()) + 1):
            first, second = (a == i).double().mean(), (b == j).double().mean()
            share = first * second
            error = (share * (1 - first) * (1 - second) / n).sqrt()
            assert abs(((a == i) & (b == j)).double().mean() - share) < 4 * error


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("object", [1 / 18] * 18),
        ("colour", [1 / 8] * 8),
        ("named", [0.3, 0.7]),
        ("background moves", [0.3, 0.7]),
        ("background goes left", [0.65, 0.35]),
    ],
)
def test_shares_are_as_told(name: str, shares: list[float]) -> None:
    """To 4 standard errors of a share in 21,000."""
    found = FEATURES[name].bincount() / len(MANY)
    for share, expected in zip(found.tolist(), shares, strict=True):
        assert abs(share - expected) < 4 * (expected * (1 - expected) / len(MANY)) ** 0.5


def test_drifts_are_of_all_directions_and_in_their_range() -> None:
    drift = MANY.facts.drift[MANY.facts.drift.any(1)]
    length = drift.norm(dim=1)
    assert DRIFT[0] - 1e-6 <= length.min() <= length.max() <= DRIFT[1] + 1e-6
    unit = drift / length[:, None]
    assert (unit.mean(0).abs() < 4 * (0.5 / len(unit)) ** 0.5).all()  # standard error of a cosine's mean


STILL_BEHIND = RenderedClips(600, size=32, drifting=0.0, seed=5)


def red_of(clip: Tensor) -> Tensor:
    """Where a red object is bright, [F, S, S]: no background is so far from grey."""
    red, green, blue = clip.float().unbind(1)
    return ((red - torch.maximum(green, blue)) > 95).float()


def centres(mask: Tensor) -> tuple[Tensor, Tensor]:
    place = torch.arange(mask.shape[-1]) + 0.5
    mass = mask.sum((1, 2))
    return (mask.sum(1) * place).sum(1) / mass / len(place), (mask.sum(2) * place).sum(1) / mass / len(place)


@pytest.mark.parametrize("motion", range(len(MOTION)))
def test_pictures_show_the_motion(motion: int) -> None:
    """The centre of what is red, over time."""
    facts = STILL_BEHIND.facts
    numbers = ((facts.motion == motion) & (facts.colour == 0)).nonzero().flatten().tolist()
    assert len(numbers) >= 5
    for number in numbers:
        clip = STILL_BEHIND.clip(number)
        mask = red_of(clip)
        assert mask.sum((1, 2)).min() >= 8
        x, y = centres(mask)
        right, down = float(x[-1] - x[0]), float(y[-1] - y[0])
        along = {"moves left": -right, "moves right": right, "moves up": -down, "moves down": down}
        name = MOTION[motion]
        if name in along:
            aside = down if abs(right) > abs(down) else right
            assert along[name] > 0.1  # 0.2 and more, but for what is cut by a border
            assert abs(aside) < 0.06
        elif name == "bounces":
            assert y.max() - y.min() > 0.2
            assert x.max() - x.min() < 0.05
        elif name == "turns":
            assert max(x.max() - x.min(), y.max() - y.min()) < 0.25  # as the middle of ink is not of the scan
            assert (mask[1:] != mask[:-1]).flatten(1).any(1).all()
        else:
            assert torch.equal(clip, clip[:1].expand_as(clip))


@pytest.mark.parametrize("frame", [0, 2, 4])
def test_no_frame_of_an_endless_picture_tells_the_motion(frame: int) -> None:
    """On the ring of columns, and of rows, places of each motion have no direction: mean cosine and sine are
    0 to 4 standard errors of (1/2n)^½. In pictures with borders they have one."""
    for endless in (True, False):
        clips = RenderedClips(2800, size=32, frames=5, drifting=0.0, endless=endless, seed=8)
        for motion in range(len(MOTION)):
            chosen = (clips.facts.colour == 0) & (clips.facts.motion == motion)
            numbers = chosen.nonzero().flatten().tolist()
            masks = torch.stack([red_of(clips.clip(number)[frame : frame + 1])[0] for number in numbers])
            angles = torch.arange(32) * 2 * torch.pi / 32
            circle = torch.stack([angles.cos(), angles.sin()], 1)
            means = [F.normalize(masks.sum(axis) @ circle, dim=1).mean(0).abs().max() for axis in (1, 2)]
            within = max(means) < 4 * (0.5 / len(numbers)) ** 0.5
            assert bool(within) == endless


def test_a_background_moves_as_its_facts_say() -> None:
    """In the corners, where no object comes: the shift between frames by phase correlation over the drift."""
    clips = RenderedClips(60, size=64, frames=17, drifting=1.0, seed=2)
    moved = 0
    for number in range(20):
        first, last = clips.clip(number)[[0, -1]].float().mean(1)
        cross = torch.fft.fft2(last - last.mean()) * torch.fft.fft2(first - first.mean()).conj()
        peak = int(torch.fft.ifft2(cross / cross.abs().clamp(min=1e-9)).real.argmax())
        down, right = (s - 64 if s > 32 else s for s in divmod(peak, 64))
        expected = clips.facts.drift[number] * 64
        moved += abs(right - float(expected[0])) < 1.5 and abs(down - float(expected[1])) < 1.5
    assert moved >= 18  # an object that covers much may win


def test_a_still_object_stands_still_before_a_background_that_moves() -> None:
    clips = RenderedClips(200, size=32, drifting=1.0, seed=5)
    facts = clips.facts
    still = (facts.motion == MOTION.index("stands still")) & (facts.colour == 0)
    numbers = still.nonzero().flatten().tolist()
    assert numbers
    for number in numbers:
        clip = clips.clip(number)
        x, y = centres(red_of(clip))
        assert max(x.max() - x.min(), y.max() - y.min()) < 0.03
        assert not torch.equal(clip[0], clip[-1])


def test_without_tilt_things_stand_upright_and_some_are_chosen() -> None:
    clips = RenderedClips(70, size=32, objects_shown=("cone", "7"), tilt=0.0, unnamed=0.0)
    assert {OBJECTS[n] for n in clips.facts.object.tolist()} == {"cone", "7"}
    assert all(len(text.split()) > 3 for text in clips.captions)
    assert set(RenderedClips(20, unnamed=1.0).facts.named.tolist()) == {False}
    cones = (clips.facts.object == OBJECTS.index("cone")) & (clips.facts.colour == 0)
    cones &= clips.facts.motion != MOTION.index("turns")
    assert cones.any()
    for number in cones.nonzero().flatten().tolist():
        rows = red_of(clips.clip(number))[0].sum(1)
        rows = rows[rows > 0]
        assert rows[len(rows) // 2 :].mean() > rows[: len(rows) // 2].mean()  # its base is below


def test_the_fingerprint_is_of_pictures() -> None:
    plain = RenderedClips(10, size=16, frames=5)
    assert plain.fingerprint() == RenderedClips(10, size=16, frames=5, unnamed=0.9).fingerprint()
    changes: list[dict[str, Any]] = [
        {"count": 11},
        {"size": 24},
        {"frames": 9},
        {"seed": 1},
        {"drifting": 0.1},
        {"tilt": 5.0},
        {"endless": True},
        {"objects_shown": ("cube",)},
    ]
    found = {plain.fingerprint(), *(dataclasses.replace(plain, **c).fingerprint() for c in changes)}
    assert len(found) == 1 + len(changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 16}, r"^frames: 16 is not 4k \+ 1"),
        ({"size": 20}, "^size: 20 is no multiple of 8 from 16 on"),
        ({"size": 8}, "^size: 8 is no multiple"),
        ({"count": 0}, "^count: 0 clips; at least 1"),
        ({"unnamed": 1.5}, r"^unnamed: 1.5 is not in 0 … 1"),
        ({"drifting": float("nan")}, "^drifting: nan is not in 0 … 1"),
        ({"tilt": 181.0}, "^tilt: 181.0 is not in 0 … 180"),
        ({"objects_shown": ("ball",)}, r"^objects_shown: \['ball'\]; allowed: cube, "),
        ({"objects_shown": ()}, "^objects_shown: none; allowed: cube, "),
    ],
)
def test_numbers_out_of_range_are_a_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RenderedClips(**{"count": 3, **options})


def test_thousands_take_seconds() -> None:
    """2,000 clips of 17 × 96 × 96 in under two minutes of one core; 9 seconds where it was measured."""
    clips = RenderedClips(100, size=96)
    clips.clip(0)  # the sprites
    start = time.process_time()
    clips.render(torch.arange(50))
    assert time.process_time() - start < 120 / 40
