"""Outlines of solids in known poses, and of fields that are those solids."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from carv_distill.geometry.solids import SIDED, SOLIDS
from carv_distill.text_to_3d.scenes import Scene
from studies.likeness import Pose, likeness, outlines, outlines_of, standard_views

VIEWS = standard_views()


class Filled(Scene):
    """A solid, opaque, with haze about it that hides a third of what is behind."""

    def __init__(self, name: str) -> None:
        super().__init__(0.8)
        self.solid = {**SOLIDS, **SIDED}[name]

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        inside = self.solid(points) < 0
        return torch.where(inside, 200.0, 0.2), torch.ones_like(points)


@pytest.mark.parametrize(
    ("name", "pose"),
    [
        ("torus", Pose(0, 0.83, 0.07)),
        ("cube", Pose(0.6, 1.12, -0.04)),
        pytest.param(*("chair", Pose(4.0, 0.9, 0.1)), marks=pytest.mark.slow),
        pytest.param("mug", Pose(2.0, 1.05, -0.08), marks=pytest.mark.slow),
    ],
)
def test_a_solid_is_found_in_its_pose(name: str, pose: Pose) -> None:
    shown = outlines({**SOLIDS, **SIDED}[name], pose, VIEWS, 32)
    found = likeness(shown, name, VIEWS)
    assert found.iou > 0.95
    assert found.pose.scale == pytest.approx(pose.scale, abs=0.02)
    assert found.pose.height == pytest.approx(pose.height, abs=0.02)
    if name in SIDED:
        assert math.remainder(found.pose.turn - pose.turn, 2 * math.pi) == pytest.approx(0, abs=0.06)
    assert sum(found.by_row) / 2 == pytest.approx(found.iou)


def test_a_posed_solid_is_the_solid_moved() -> None:
    """A ball of radius 0.55 s at height h: its outline is centred and sized so, from the side."""
    seen = outlines(SOLIDS["ball"], Pose(0, 0.5, 0.2), VIEWS, 64)[0].nonzero().float()
    plain = outlines(SOLIDS["ball"], Pose(), VIEWS, 64)[0].nonzero().float()
    assert seen[:, 0].mean() < plain[:, 0].mean() - 5
    assert seen[:, 1].mean() == pytest.approx(31.5)
    assert len(seen) / len(plain) == pytest.approx(0.25, abs=0.04)


@pytest.mark.slow
def test_haze_does_not_count_and_other_solids_are_less_like() -> None:
    shown = outlines_of(Filled("cone"), VIEWS, 32)
    found = {name: likeness(shown, name, VIEWS).iou for name in ("cone", "ball", "cylinder", "torus")}
    assert found["cone"] > 0.93
    assert max(value for name, value in found.items() if name != "cone") < 0.88


def test_nothing_is_like_nothing() -> None:
    assert likeness(torch.zeros(16, 32, 32, dtype=torch.bool), "ball", VIEWS).iou == 0
