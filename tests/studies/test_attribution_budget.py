"""The attribution study: its sums, and its small parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.data.images import load_images
from studies.attribution_budget import dimension, figures, retraining, tables
from studies.attribution_budget.arms import ARMS, BUDGETS, draws_of
from studies.attribution_budget.ranking import QUERIES, correlations
from studies.attribution_budget.variance import ecm_over_iid, variances

BEST = {"strategy": "paired", "noise": "antithetic", "mass": [0.7, 0.3]}


def test_every_arm_draws_what_it_says() -> None:
    for arm in ARMS:
        draws = draws_of(arm, BEST, 4, (2,), "test")
        assert draws.u.shape == draws.weight.shape == (1, 4)
        assert draws.eps.shape == (1, 4, 2)
    grid = draws_of("fixed grid", BEST, 4, (2,), "test")
    assert torch.equal(grid.u[0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    best = draws_of("best", BEST, 4, (2,), "test")
    assert torch.equal(best.u[:, ::2], best.u[:, 1::2])
    assert torch.equal(best.eps[:, ::2], -best.eps[:, 1::2])
    weights = draws_of("IW", BEST, 64, (2,), "test").weight.unique()
    assert weights.tolist() == pytest.approx([1 / 1.4, 1 / 0.6])


def test_variances_pool_the_iid_draws_and_add_a_grids_bias() -> None:
    replicates = []
    for r in range(3):
        terms = {f"{arm} {k}": (2.0 + r) / k for arm in ARMS for k in BUDGETS}
        terms |= {f"Strat {k}": (1.0 + r / 2) / k**2 for k in BUDGETS}
        terms |= {f"bias {k}": 0.5 for k in BUDGETS}
        replicates.append(terms)
    found = variances(replicates)
    assert found["iid", 4].value == pytest.approx(3 / 4)
    assert found["fixed grid", 4].value == pytest.approx(3 / 4 + 0.5)
    gains = ecm_over_iid(found)
    assert gains["Strat", 16].value == pytest.approx(32)
    assert gains["Strat", 16].se == pytest.approx(0, abs=1e-9)  # proportional, so paired exactly
    assert ("iid", 4) not in gains


def test_correlations_leave_the_query_out() -> None:
    """The own score of a query is wrong in every ranking, and does not count."""
    g = stream("correlations")
    truth = torch.randn(QUERIES, 20, generator=g)
    seen = truth.clone()
    for q in range(QUERIES):
        seen[q, q] = -9.0
    found = correlations([{str(k): seen.tolist() for k in BUDGETS}] * 2, truth.tolist())
    assert all(e.value == pytest.approx(1) for e in found.values())
    noisy = [{str(k): torch.randn(QUERIES, 20, generator=g).tolist() for k in BUDGETS} for _ in range(4)]
    unrelated = correlations(noisy, truth.tolist())
    assert all(abs(e.value) < 4 * e.se + 0.05 for e in unrelated.values())


def test_a_mosaic_is_made_of_digits() -> None:
    picture = dimension.mosaic(2, 24, stream("mosaic"))
    assert picture.shape == (2, 1, 24, 24)
    images = load_images("digits").images
    tile = picture[1, :, 8:16, 16:24]
    assert (images == tile).flatten(1).all(1).any()


def test_gains_are_ratios_of_iid_draws() -> None:
    replicates = [
        {
            "iid": 8.0 + r,
            **{f"{n} {k}": (8.0 + r) / k**2 for n in dimension.SAMPLERS for k in dimension.BUDGETS},
        }
        for r in range(3)
    ]
    found = dimension.gains(replicates)
    assert {k: found["Strat", k].value for k in dimension.BUDGETS} == pytest.approx({4: 4, 16: 16, 64: 64})


def test_models_of_halves_are_predicted_by_scores_that_cause_their_losses() -> None:
    members = torch.zeros(retraining.POOL, 30, dtype=torch.float64)
    for m in range(30):
        half = retraining.half(m, 0)
        assert len(set(half)) == retraining.POOL // 2
        members[half, m] = 1
    g = stream("lds")
    cause = torch.randn(4, retraining.POOL, generator=g, dtype=torch.float64)
    losses = -(cause @ members).T
    right = retraining.lds_over_halves(cause @ members, losses)
    assert (right.value, right.low, right.high) == pytest.approx((1, 1, 1))
    other = torch.randn(4, retraining.POOL, generator=g, dtype=torch.float64)
    wrong = retraining.lds_over_halves(other @ members, losses)
    assert abs(wrong.value) < 4 * wrong.se
    over = retraining.lds_over_halves(cause @ members, losses, other @ members)
    assert over.value == pytest.approx(1 - wrong.value)


def test_the_interval_of_the_score_covers_when_queries_share_their_luck() -> None:
    """Scores that say nothing; losses of all queries move together from half to half. Of 100 such studies the
    95 % interval holds zero in at least 86 (4 SE below 95, SE √(0.95 · 0.05/100) = 0.022)."""
    g, held = stream("lds coverage"), 0
    for _ in range(100):
        common = torch.randn(24, 1, generator=g, dtype=torch.float64)
        losses = common + torch.randn(24, 8, generator=g, dtype=torch.float64)
        found = retraining.lds_over_halves(torch.randn(8, 24, generator=g, dtype=torch.float64), losses)
        held += int(found.low < 0 < found.high)
    assert held >= 86


def test_queries_are_not_in_the_pool_and_classes_are_as_said() -> None:
    digits, pool, queries = retraining.data()
    assert not set(pool.tolist()) & set(queries.tolist())
    places = retraining.same_class(3, 40, 0)
    assert len(set(places)) == 40
    assert (digits.labels[pool[places]] == digits.labels[queries[3]]).all()


def test_a_removal_is_compared_with_random_ones_of_its_seed() -> None:
    queries = range(2)
    found = {
        "top": [[0]] * 32,
        "top_removed": {q: [[1.1 * (s + 1)] * 32 for s in range(2)] for q in queries},
        "class_removed": {q: [[1.0 * (s + 1)] * 32 for s in range(2)] for q in queries},
        "random_removed": {i: [[0.5 * (s + 1)] * 32 for s in range(2)] for i in queries},
    }
    rows = {(r["against"], r["query"]): r["percent"] for r in tables.removal_rows(found)}
    assert rows["class", 0] == rows["class", None] == pytest.approx(10)
    assert rows["random", 1] == pytest.approx(120)


def test_pictures_show_what_there_can_be() -> None:
    """Correlations of either model from −1 on, whatever their intervals; the digits that were left out."""
    rows = [
        {"model": model, "arm": arm, "K": k, "correlation": value, "correlation_low": low,
         "correlation_high": 1.5}
        for model, value, low in (("digits", 0.9, 0.8), ("latents", -0.5, -4.0))
        for arm in ("iid", "best")
        for k in BUDGETS
    ]  # fmt: skip
    low, high = figures.draw_ranking(rows).axes[1].get_ylim()
    assert -1.1 < low <= -1
    assert high == 1.01
    mild = [{**r, "correlation_low": min(r["correlation"], 0.0) - 0.1} for r in rows]
    assert -0.8 < figures.draw_ranking(mild).axes[0].get_ylim()[0] < -0.6
    gains = [{"against": "class", "query": 0, "percent": 3.0}]
    assert "leaving 50 of these out" in figures.draw_top([list(range(50))], gains).get_suptitle()


@pytest.mark.slow
def test_small_models_train_and_are_attributed(tmp_path: Path) -> None:
    """The parts that train, a few steps each: the same losses again, and scores of the right shapes."""
    path = str(tmp_path / "model.safetensors")
    first = retraining.train_on_all(path, 20, 0)
    assert retraining.train_on_all(path, 20, 0) == first
    found = retraining.scores(path, first["weights"], BEST, "best", 2, 3, 5, 0)
    assert torch.tensor(found["trak"]).shape == (retraining.QUERIES, 3)
    assert torch.tensor(found["top"]).shape == (retraining.QUERIES, 5)
    model = str(tmp_path / "mosaics.safetensors")
    trained = dimension.train(model, 40, 0)
    assert trained["loss"] < dimension.train(str(tmp_path / "short"), 4, 0)["loss"]
    replicate = dimension.replicate(model, trained["weights"], 8, 0, 0)
    assert all(value > 0 for value in replicate.values())
    assert set(dimension.budget(model, trained["weights"], 8, 3, 0)) == {"level", "noise"}
