"""The exact part: estimators × fake scores."""

from __future__ import annotations

import pytest

from studies.dmd_bottleneck.exact import ESTIMATORS, FAKE_UPDATES, draw_exact, summarise, train, verdict
from studies.dmd_bottleneck.gaussian_dmd import ExactDMD


def test_the_table_is_that_of_the_trainings() -> None:
    """Made-up trainings: (8,16) has a quarter of the variance, (64,16) a sixteenth and half the distance."""
    _, _, quiet = ESTIMATORS
    points, arrivals = [], []
    for n in FAKE_UPDATES:
        for e in ESTIMATORS:
            for seed in (0, 1):
                training = {"estimator": e.name, "fake_updates": n, "seed": seed}
                arrivals.append({**training, "arrived": 50 + seed})
                for step in (10, 20):
                    spread = {o.name: (1 + seed) / 4**i for i, o in enumerate(ESTIMATORS)}
                    distance = (2 + seed) / (2 if e is quiet else 1)
                    points.append({**training, "step": step, "distance": distance, "fake": 0.5, **spread})
    rows = summarise(points, arrivals, 20)
    assert [r["variance_ratio"] for r in rows] == pytest.approx([1, 4, 16] * 4)
    assert rows[0]["arrived"] == 50.5
    assert "distance_ratio" not in rows[2]
    assert [r["distance_ratio"] for r in rows[3:6]] == pytest.approx([1, 1, 0.5])
    assert rows[5]["fake_share"] == pytest.approx((0.5 / (1 / 16) + 0.5 / (2 / 16)) / 2)
    said = verdict(rows)
    assert len(said) == len(rows)
    assert said[1].startswith("exact fake score, (8,16) stratified: variance of (8,1) iid over its own 4.000")
    assert "distance at the end over that of the other 0.500 [0.500, 0.500]" in said[5]
    late = [{**a, "arrived": None} for a in arrivals]
    assert "updates to distance" in said[0]
    assert "updates to distance" not in verdict(summarise(points, late, 20))[0]


@pytest.mark.slow
def test_a_training_is_measured_where_the_student_meets_the_fake_score() -> None:
    points, arrivals = train([3], 4, 2)
    assert len(points) == 2 * len(arrivals) == 2 * len(ESTIMATORS) * len(FAKE_UPDATES)
    run = ExactDMD(ESTIMATORS[0], FAKE_UPDATES[1], 3)
    run.learn_fake()
    run.learn_student()
    run.learn_fake()
    wanted = (ESTIMATORS[0].name, FAKE_UPDATES[1], 2)
    found = next(p for p in points if (p["estimator"], p["fake_updates"], p["step"]) == wanted)
    assert found["fake"] == run.errors([], samples=1024)["fake"]
    assert found["distance"] == run.distance
    assert draw_exact(points).axes
