"""The twelve objects: what is said of them, and one of a run that takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from carv_distill.data.solids import combinations
from carv_distill.tasks import load_config, train
from studies.sds_objects import objects
from tests.helpers.small import ROOT


def test_half_of_the_pairs_were_held_out() -> None:
    unseen = set(combinations(held_out=True))
    assert [pair in unseen for pair in objects.PAIRS] == [True] * 6 + [False] * 6


def test_what_is_said() -> None:
    good = {"iou": 0.9, "haze": 0.01, "bodies": 1, "held_out": False}
    rows = [
        {"prompt": "a red torus", "euler": 0, **good},
        {"prompt": "a blue cube", "euler": 2, **good, "iou": 0.85},
        {"prompt": "a yellow torus", "euler": 2, **good, "iou": 0.849, "bodies": 2, "haze": 0.034},
    ]
    assert objects.verdict(rows) == [
        "Outlines overlap by 0.85 or more on 2 of 3; least a yellow torus, 0.849.",
        "Haze on at most 3.4% of an object's pictures.",
        "One body on 2 of 3, the solid's Euler number on 2.",
    ]


@pytest.mark.slow
def test_an_object_is_measured_and_drawn(tmp_path: Path) -> None:
    """The blob that a run starts from: a ball, with haze at its edge, and one body."""
    job = objects.run_of("red", "ball", 0, 1)
    few = ["scene.resolution=8", "estimator.draws=1", "export.mesh=32", "export.size=16", "clip.every=0"]
    run = train(
        load_config(ROOT / objects.CONFIG, [*job.words, *few, f"name={job.name}", f"folder={tmp_path}"])
    )
    found = objects.measure(run, "ball")
    assert found.iou > 0.9
    assert found.iou == pytest.approx((found.iou_15 + found.iou_60) / 2)
    assert 0 < found.haze < 0.9
    assert (found.bodies, found.euler, found.watertight) == (1, 2, True)
    rows = [{"prompt": "a red ball", "held_out": True, "iou": found.iou}]
    (axes,) = objects.draw(tmp_path, rows, [job.name], "white").axes
    assert axes.get_ylabel() == f"a red ball *\n{found.iou:.2f}"
    assert axes.images[0].get_array().shape == (64, 64 * 2 * objects.VIEWS, 3)
