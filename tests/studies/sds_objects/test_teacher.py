"""What the teacher shows of a prompt."""

from __future__ import annotations

import pytest

from studies.sds_objects import objects, teacher
from tests.helpers.small import ROOT


def test_the_teacher_shows_a_prompt_from_two_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "PICTURES", 2)
    monkeypatch.setattr(teacher, "STEPS", 4)
    picture = teacher.pictures(ROOT / objects.CONFIG, "a blue cube")
    assert picture.shape == (32, 4 * 32, 3)
    assert 0 <= picture.min() < picture.max() <= 1
    middle = picture[12:20].unflatten(1, (4, 32))[:, :, 12:20].mean((0, 1, 2))
    assert middle[2] > middle[:2].max() + 0.2  # blue
    rows = [{"prompt": "a blue cube", "held_out": True, "iou": 0.5}]
    figure = objects.sheet(rows, [picture], teacher.TITLE)
    assert figure.get_suptitle() == teacher.TITLE
    (axes,) = figure.axes
    assert axes.get_ylabel() == "a blue cube *\n0.50"
