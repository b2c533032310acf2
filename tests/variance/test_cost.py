"""Costs, effective compute multipliers, the optimum of iid draws."""

from __future__ import annotations

import itertools
import math
import time

import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, Upstream, stream
from carv_distill.variance import (
    CostModel,
    Estimate,
    StageTimer,
    VarianceMeter,
    best_draws,
    ecm,
    estimate_gradient,
    largest_ecm,
    relative_efficiency,
    time_stages,
)
from tests.helpers.linear_gaussian import LinearGaussian


def exactly(value: float) -> Estimate:
    return Estimate(value, 0.0, value, value)


def test_cost_is_linear_in_r_and_k() -> None:
    cost = CostModel(upstream=2, draw=0.5, backward=3, other=7)
    assert cost(1, 1) == 7 + 5 + 0.5
    assert cost(3, 4) == 7 + 3 * (5 + 2)
    assert cost.kappa == 10
    assert CostModel.declared(4)(2, 3) == 2 * 7


def test_calls_cost_once_a_gradient_and_are_shared_by_its_samples() -> None:
    """κ is of one more; at a given R the calls are part of its samples, for every K."""
    cost = CostModel(upstream=2, draw=0.5, backward=3, other=7, calls=4)
    assert cost(3, 4) == 7 + 4 + 3 * (5 + 2)
    assert cost.fixed == 11
    assert cost.kappa == 10
    for k in (1, 2, 16):
        assert cost.at(8)(8, k) == cost(8, k)
    assert cost.at(8).kappa == 11


@pytest.mark.parametrize("wrong", [{"upstream": -1.0}, {"draw": 0.0}, {"other": math.nan}])
def test_an_impossible_cost_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CostModel(**{"upstream": 1.0, "draw": 1.0, **wrong})


def timed(seconds: dict[str, tuple[float, float]], upstream: int, draws: int) -> StageTimer:
    """Of stages that take a + b n seconds: per unit, as stages are timed."""
    timer, units = StageTimer(), {"upstream": upstream, "backward": upstream, "draw": upstream * draws}
    for name, (a, b) in seconds.items():
        timer.seconds[name] = [(a + b * units[name]) / units[name]] * 3
    return timer


def test_costs_of_several_sizes_are_lines_through_them() -> None:
    """Exact where seconds are: slopes are the prices, and what a call takes besides is of the gradient."""
    stages = {"upstream": (1.0, 2.0), "backward": (0.5, 3.0), "draw": (4.0, 0.25)}
    sizes = [(8, 1), (32, 4), (8, 16)]
    cost = CostModel.fitted({at: timed(stages, *at) for at in sizes}, other=7.0)
    assert (cost.upstream, cost.backward, cost.draw) == pytest.approx((2.0, 3.0, 0.25))
    assert (cost.calls, cost.other) == pytest.approx((5.5, 7.0))
    for r, k in (*sizes, (2, 2), (64, 1)):
        assert cost(r, k) == pytest.approx(7 + 5.5 + r * 5 + r * k * 0.25)
    with pytest.raises(ValueError, match="timed at no"):
        CostModel.fitted({})


def test_at_one_size_the_price_is_its_share() -> None:
    """A line through one point says nothing of what one more takes; of several with the same n it is their
    median."""
    stages = {"upstream": (1.0, 2.0), "backward": (0.0, 3.0), "draw": (4.0, 0.25)}
    cost = CostModel.fitted({at: timed(stages, *at) for at in ((2, 1), (2, 8))})
    assert (cost.upstream, cost.backward, cost.draw) == pytest.approx((2.5, 3.0, 0.25))
    assert cost.calls == pytest.approx(4.0)
    nothing = CostModel.fitted({at: timed(stages | {"upstream": (0.0, 0.0)}, *at) for at in ((2, 1), (8, 1))})
    assert nothing.upstream < 1e-9


@pytest.mark.parametrize("noise", [-0.03, 0.0, 0.03])
def test_draws_that_take_no_longer_are_not_free(noise: float) -> None:
    """A call that takes 4 s whatever its size, as on a GPU at small batches: the baseline costs nearly that,
    and one more draw a tenth of the largest size's share, whichever way the noise tilts the line."""
    flat = {"upstream": (0.0, 1.0), "backward": (0.0, 1.0), "draw": (4.0, 0.0)}
    timers = {at: timed(flat, *at) for at in ((1, 1), (1, 8), (1, 16))}
    timers[1, 16].seconds["draw"] = [t * (1 + noise) for t in timers[1, 16].seconds["draw"]]
    cost = CostModel.fitted(timers)
    assert cost(1, 1) == pytest.approx(6.0, rel=0.06)
    assert 0.09 * 4 / 16 < cost.draw < 0.2 * 4 / 16


def test_a_timer_gives_medians_per_piece() -> None:
    timer = StageTimer()
    for _ in range(3):
        with timer.stage("upstream", units=4):
            time.sleep(0.02)
        with timer.stage("draw"), timer.stage("backward"):
            pass
    assert 0.005 <= timer.median("upstream") < 0.02
    cost = CostModel.measured(timer)
    assert cost.upstream == timer.median("upstream")
    assert cost.other == 0
    with pytest.raises(ValueError, match="'render' was never timed"):
        timer.median("render")


def test_the_spread_of_a_stage_tells_a_busy_machine() -> None:
    timer = StageTimer()
    timer.seconds["draw"] = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert timer.spread("draw") == 2  # quartiles 2 and 4
    timer.seconds["once"] = [1.0]
    with pytest.raises(ValueError, match="'once' was timed once"):
        timer.spread("once")


def test_a_ratio_carries_both_errors() -> None:
    a, b = Estimate(8, 0.8, 6.4, 9.6), Estimate(2, 0.2, 1.6, 2.4)
    re = relative_efficiency(a, b)
    assert re.value == 4
    assert re.se == pytest.approx(4 * math.hypot(0.1, 0.1))
    assert ecm(a, 3, b, 6).value == 2
    assert ecm(a, 3, b, 6).se == pytest.approx(re.se / 2)


def test_predicted_and_measured_ecm_agree() -> None:
    """(1, K) against (2, 1) at κ = 5 for K = 1 … 16: prediction and measurement within 4 SE."""
    model, cost = LinearGaussian(between=1, level=4, noise=6), CostModel.declared(5)
    theta = model.parameters()
    pipeline, sampler = model.pipeline(theta), NoiseLevelSampler(Proposal.uniform(), "iid")

    def measured(upstream: int, draws: int) -> Estimate:
        g, meter = stream("ecm", upstream, draws), VarianceMeter()
        for _ in range(600):
            meter.update(estimate_gradient(pipeline, [theta], sampler, upstream, draws, g, g))
        return meter.estimate()

    def variance(upstream: int, draws: int) -> float:
        return (model.between + (model.level + model.noise) / draws) / upstream

    base = measured(2, 1)
    for k in (1, 2, 4, 8, 16):
        predicted = variance(2, 1) * cost(2, 1) / (variance(1, k) * cost(1, k))
        found = ecm(base, cost(2, 1), measured(1, k), cost(1, k))
        assert abs(found.value - predicted) < 4 * found.se, k
        assert found.se < 0.1 * found.value


def test_no_iid_choice_beats_the_largest_ecm_and_a_whole_one_reaches_it() -> None:
    """Over whole K ≥ 1; real K* < 1 would gain what no one can take. K = 1 is best where κ · W/B ≤ 2."""
    for between, within, kappa in itertools.product((0.2, 1, 5), (0.5, 3, 40), (0.3, 2, 20)):
        cost = CostModel.declared(kappa)
        base = (between + within) * cost(1, 1)
        bound = largest_ecm(between, within, cost)

        def efficiency(
            k: float, base: float = base, b: float = between, w: float = within, c: float = kappa
        ) -> float:
            return base / ((b + w / k) * (c + k))

        assert max(efficiency(k) for k in range(1, 200)) == pytest.approx(bound, rel=1e-12)
        assert (bound == 1) == (kappa * within / between <= 2)
        # against K = 3, which is efficiency(3) times better than K = 1
        assert largest_ecm(between, within, cost, 3) == pytest.approx(bound / efficiency(3), rel=1e-12)
        # real K is no worse, and (1 + W/B)(1 + κ)/(√(W/B) + √κ)² at K*
        star, rho = best_draws(between, within, cost), within / between
        closed = (1 + rho) * (1 + kappa) / (rho**0.5 + kappa**0.5) ** 2
        assert efficiency(star) == pytest.approx(closed, rel=1e-12)
        assert closed >= bound * (1 - 1e-12)


@pytest.mark.parametrize(
    ("within", "kappa", "gain"),
    [
        (0.1, 0.1, 1.0),  # K* = 0.1, where the formula of real K says 3.0
        (0.0, 4.0, 1.0),
        (5.0, 0.0, 1.0),
        (2.0, 1.0, 1.0),  # K = 1 and 2 are equal
        (4.0, 4.0, 25 / 16),  # K* = 4
        (3.0, 2.0, 4 * 3 / (2.5 * 4)),  # K* = 2.45: K = 2 and 3 are equal
    ],
)
def test_the_largest_ecm_in_closed_form(within: float, kappa: float, gain: float) -> None:
    assert largest_ecm(1.0, within, CostModel.declared(kappa)) == pytest.approx(gain, rel=1e-12)


def test_a_negative_estimate_of_a_component_counts_as_zero() -> None:
    """Without variance between samples only draws count: (c_u + c_d)/c_d; without any nothing is gained."""
    assert largest_ecm(-0.1, 5.0, CostModel.declared(4)) == pytest.approx(5, rel=1e-12)
    assert largest_ecm(-0.1, -2.0, CostModel.declared(4)) == 1
    assert largest_ecm(0.0, 0.0, CostModel.declared(4), draws=8) == 1


def test_twice_the_best_draws_regret_at_most_an_eighth() -> None:
    """variance × cost at 2K* over that at K*, over 961 settings; 12.5 % is the sharp bound."""
    worst = 0.0
    for i, j in itertools.product(range(-15, 16), repeat=2):
        between, kappa = 10 ** (i / 5), 10 ** (j / 5)
        cost = CostModel.declared(kappa)
        star = best_draws(between, 1.0, cost)
        price = lambda k, b=between, c=kappa: (b + 1 / k) * (c + k)  # noqa: E731
        worst = max(worst, price(2 * star) / price(star) - 1)
    assert worst <= 0.125 + 1e-12
    assert worst > 0.12  # the bound is sharp


def test_stages_are_timed_per_piece() -> None:
    """A push is drawn once a round, in the stage of its upstream samples; seconds are those of one of two."""
    theta = torch.ones(3, dtype=torch.float64, requires_grad=True)
    pushes: list[int] = []

    def pipeline(count: int, generator: torch.Generator) -> Upstream:
        x = theta * torch.ones(count, 1, dtype=torch.float64)

        def push(g: torch.Generator) -> torch.Tensor:
            pushes.append(count)
            time.sleep(0.01)
            return torch.zeros(count, 3)

        return Upstream(x, lambda x, u, eps, index: eps, push, theta.sum())

    timer = StageTimer()
    time_stages(pipeline, [theta], NoiseLevelSampler(Proposal.uniform()), 2, 3, timer, repeats=4)
    assert {name: len(s) for name, s in timer.seconds.items()} == {"upstream": 4, "draw": 4, "backward": 4}
    assert pushes == [2] * 5
    assert min(timer.seconds["upstream"]) >= 0.005
    assert timer.median("draw") < 0.005
