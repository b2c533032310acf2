"""The exact laboratory of `dmd_bottleneck`."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from studies.exact_control import ESTIMATORS, FAKE_UPDATES, exact_points, exact_rows, exact_verdict
from studies.exact_dmd import Estimator, ExactDMD
from studies.levers import LEVERS, Lever

SMALL = Estimator(8, 4, "stratified")


def train(run: ExactDMD, updates: int) -> None:
    for _ in range(updates):
        run.learn_fake()
        run.learn_student()


def test_the_gradient_is_that_of_autograd() -> None:
    """(d ⊙ z, d) averaged against the surrogate's backward through x = a ⊙ z + b."""
    run = ExactDMD(SMALL, 0, 0)
    found = run.gradient(run.exact_fake(), Estimator(6, 4, "stratified"), stream("x"), stream("u"))
    z, x = run.samples(6, stream("x"))
    from carv_distill.carv import average_residual

    drawn = SMALL.sampler.draw(6, 4, (8,), stream("u"), dtype=x.dtype)
    d = average_residual(run.residual(run.exact_fake()), x, drawn)
    loss = ((run.a * z + run.b) * d).sum() / 6
    torch.testing.assert_close(found, torch.stack(torch.autograd.grad(loss, [run.a, run.b])))


def test_the_exact_fake_score_is_the_students_own_denoiser() -> None:
    """E[x | x_t] by regression on 400,000 samples at one level, 4 SE."""
    run = ExactDMD(SMALL, 0, 1)
    with torch.no_grad():
        run.a.copy_(torch.linspace(0.2, 1.5, 8))
        run.b.copy_(torch.linspace(-1, 1, 8))
    _, x = run.samples(400_000, stream("regression"))
    sigma = torch.full((len(x),), 0.7, dtype=x.dtype)
    x_t = x + 0.7 * torch.randn(x.shape, generator=stream("eps"), dtype=x.dtype)
    error = x - run.exact_fake()(x_t, sigma)  # orthogonal to every function of x_t
    for function in (torch.ones_like(x_t), x_t):
        product = error * function
        assert (product.mean(0).abs() < 4 * product.std(0) / len(x) ** 0.5).all()


def test_with_the_exact_fake_score_the_student_arrives() -> None:
    """Every residual vanishes at the optimum, so its gradient's variance does too: no floor."""
    run = ExactDMD(SMALL, 0, 0)
    train(run, 600)
    assert run.distance < 1e-3
    errors = run.errors([SMALL], pairs=8, samples=256)
    assert errors[SMALL.name] < 1e-2
    assert errors["fake"] == 0


def test_a_lagging_fake_score_leaves_a_floor_and_is_seen_as_the_error() -> None:
    run = ExactDMD(SMALL, 1, 0)
    train(run, 600)
    assert run.distance > 5e-3
    run.learn_fake()
    errors = run.errors([SMALL], pairs=8, samples=512)
    assert errors["fake"] > errors[SMALL.name]


def test_the_fake_scores_error_is_that_of_a_large_sample() -> None:
    """⟨f₁, f₂⟩ of halves against the gradient's shift on 200,000 other samples: 5 %."""
    run = ExactDMD(SMALL, 1, 0)
    train(run, 30)
    run.learn_fake()
    large = Estimator(200_000, 1, "iid")
    shift = run.gradient(run.met(), large, stream("l"), stream("u"))
    shift -= run.gradient(run.exact_fake(), large, stream("l"), stream("u"))
    found = run.errors([SMALL], pairs=2, samples=8192)["fake"]
    assert found == pytest.approx(float(shift.square().sum()), rel=0.05)


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
    rows = exact_rows(points, arrivals, 20)
    assert [r["variance_ratio"] for r in rows] == pytest.approx([1, 4, 16] * 4)
    assert rows[0]["arrived"] == 50.5
    assert "distance_ratio" not in rows[2]
    assert [r["distance_ratio"] for r in rows[3:6]] == pytest.approx([1, 1, 0.5])
    assert rows[5]["fake_share"] == pytest.approx((0.5 / (1 / 16) + 0.5 / (2 / 16)) / 2)
    said = exact_verdict(rows)
    assert len(said) == 8
    assert said[0].startswith("exact fake score: (8,16) stratified has 4 [4, 4] times less variance")
    assert "it ends at 0.5 [0.5, 0.5] times the other's distance" in said[3]
    late = [{**a, "arrived": None} for a in arrivals]
    assert "never near instead of never near" in exact_verdict(exact_rows(points, late, 20))[0]


def test_a_training_is_measured_where_the_student_meets_the_fake_score() -> None:
    points, arrivals = exact_points([3], 4, 2)
    assert len(points) == 2 * len(arrivals) == 2 * len(ESTIMATORS) * len(FAKE_UPDATES)
    run = ExactDMD(ESTIMATORS[0], FAKE_UPDATES[1], 3)
    run.learn_fake()
    run.learn_student()
    run.learn_fake()
    wanted = (ESTIMATORS[0].name, FAKE_UPDATES[1], 2)
    found = next(p for p in points if (p["estimator"], p["fake_updates"], p["step"]) == wanted)
    assert found["fake"] == run.errors([], samples=1024)["fake"]
    assert found["distance"] == run.distance


def test_levers_spend_the_compute_of_the_default() -> None:
    """To half an update; the cost formula by hand for R = 2, K = 3, one fake update."""
    assert Lever("x", upstream=2, draws=3, fake_updates=1).cost == 6 + 12 + 48 + 144
    for lever in LEVERS:
        spent = lever.updates(300) * lever.cost
        assert spent == pytest.approx(300 * LEVERS[0].cost, abs=lever.cost / 2)


def test_every_lever_has_a_run_of_its_own() -> None:
    names = {lever.job(seed, 300).name for lever in LEVERS for seed in range(3)}
    assert len(names) == 3 * len(LEVERS)
