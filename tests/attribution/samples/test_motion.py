"""Weights of a clip's loss by its motion."""

from __future__ import annotations

import pytest
import torch

from carv_distill.attribution.samples.motion import Motion
from carv_distill.carv import stream
from carv_distill.data.clips.rendered import RenderedClips
from carv_distill.data.clips.trajectories import MOTIONS


def test_a_still_clip_weighs_all_positions_alike() -> None:
    motion = Motion("differences", 0.1)
    clip = torch.rand(1, 1, 3, 8, 8, generator=stream("still")).expand(1, 5, 3, 8, 8)
    weights = motion.weights(motion.magnitude(clip, (2, 2, 2)))
    torch.testing.assert_close(weights, torch.ones(1, 2, 2, 2))


@pytest.mark.parametrize("kind", ["flow", "differences"])
def test_the_lower_the_floor_the_more_motion_counts(kind: str) -> None:
    clips = RenderedClips(14, size=32, drifting=0.0)
    moving = (clips.facts.motion == list(MOTIONS).index("moves left")).nonzero()[:, 0]
    pictures, _ = clips.batch(moving[:1])
    spreads = []
    for floor in (10.0, 0.1, 0.01):
        motion = Motion(kind, floor)
        weights = motion.weights(motion.magnitude(pictures, (5, 8, 8)))
        torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(1))
        spreads.append(float(weights.std()))
    assert spreads[0] < spreads[1] < spreads[2]
