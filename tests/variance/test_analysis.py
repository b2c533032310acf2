"""An analysis of a gradient whose variances are known, and what is reported of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from carv_distill.carv import Chunk, FiniteDraws, NoiseLevelSampler, Proposal, Residual, Upstream, stream
from carv_distill.variance import (
    Analysis,
    MeasuredGradient,
    StageTimer,
    Table,
    analyse,
    analysis_dict,
    analysis_report,
    analysis_summary,
    analysis_tables,
    conclusions,
    estimate_gradient,
    largest_ecm,
    measure_pairs,
    standard_arms,
)
from tests.helpers.linear_gaussian import LinearGaussian

MODEL = LinearGaussian(between=2, level=6, noise=4)
STRATA = NoiseLevelSampler(Proposal.uniform(), "stratified")


def gradient_of(model: LinearGaussian) -> MeasuredGradient:
    theta = model.parameters()
    return MeasuredGradient(model.pipeline(theta), [theta], STRATA, 2, 4, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(gradient_of(MODEL), 2, (1, 4), 40, 40, 8, 8)


def test_parts_agree_with_the_closed_form(analysis: Analysis) -> None:
    """40 pairs and 40 upstream samples, 4 SE; a residual linear in ε lets a coupling through the gate."""
    assert analysis.setting == ("Strat", 2, 4)
    for estimate, exact in (
        (analysis.comparison.budget.between, MODEL.between),
        (analysis.comparison.budget.within, MODEL.level + MODEL.noise),
        (analysis.comparison.row("uniform", 4).total, (MODEL.between + (MODEL.level + MODEL.noise) / 4) / 2),
    ):
        assert abs(estimate.value - exact) < 4 * estimate.se
    assert analysis.noise in ("antithetic", "zero_sum")
    assert analysis.advice[analysis.best].ecm == max(a.ecm for a in analysis.advice.values())


def test_tables_and_json_hold_the_numbers(analysis: Analysis) -> None:
    """Nothing wraps in a plain terminal; the last sentences say what to do."""
    tables = analysis_tables(analysis)
    assert [len(t.rows) for t in tables] == [10, 4, 10, 10, 5, 2, 5]
    names = {row[0] for row in tables[0].rows}
    assert {r.arm for r in analysis.comparison.rows} | {"R", "K", "RE", "ECM"} <= names
    assert max(len(line) for table in tables for line in str(table).splitlines()) <= 80
    content = json.loads(json.dumps(analysis_dict(analysis)))
    assert list(content) == [
        *("step", "own", "budget", "cost", "rows", "within_over_between", "best_draws_iid"),
        *("largest_ecm_iid", "advice", "advised", "predicted", "check", "largest_reduction", "noise"),
        *("noise_factors", "proposals", "conclusions"),
    ]
    assert content["own"] == {"sampler": "Strat", "upstream": 2, "draws": 4, "shares": 1}
    assert content["rows"][3]["ecm"]["value"] == analysis.comparison.ecm(analysis.comparison.rows[3]).value
    assert content["conclusions"] == conclusions(analysis)
    assert content["conclusions"][-1].startswith("Its place: W/B = ")
    assert f"Use R = {analysis.advice[analysis.best].upstream}, K = " in " ".join(content["conclusions"])


def test_the_advice_is_told_beside_what_is_plain_and_what_was_predicted(analysis: Analysis) -> None:
    """So a sampler's gain is told from that of R and K, and a miss by variance from one by seconds."""
    c, best, said = analysis.comparison, analysis.advice[analysis.best], " ".join(conclusions(analysis))
    assert analysis.best != "uniform"
    plain, r, k = c.within_model("uniform"), best.upstream, best.draws
    there = plain.variance(2, 1) * c.cost(2, 1) / (plain.variance(r, k) * c.cost(r, k))
    assert f"uniform draws there {there:.2f}." in said
    assert f"{analysis.predicted.value / there:.2f} × that of uniform draws there, " in said
    arm, r, k = analysis.setting
    own = plain.variance(2, 1) * c.cost(2, 1) / (c.within_model(arm).variance(r, k) * c.cost(r, k))
    assert f"compute {analysis.predicted.value / own:.2f} × that of the run's own ({r}, {k}) {arm}" in said
    assert f" for {best.variance:.3g} as predicted, " in said


def test_the_check_shares_no_stream_with_the_comparison(analysis: Analysis) -> None:
    """At the comparison's seed it would repeat a row, to the bit, where the advised (R, K) was compared."""
    g, a = gradient_of(MODEL), analysis.advice[analysis.best]
    arms = standard_arms(analysis.proposals["importance"], analysis.proposals["Neyman"], analysis.noise)
    sampler = next(arm.sampler for arm in arms if arm.name == analysis.best)
    compared = measure_pairs(g.sample, g.parameters, sampler, a.upstream, a.draws, 40, g.seed).total()
    row = measure_pairs(g.sample, g.parameters, sampler, 2, 4, 40, g.seed).within()
    assert row.value == analysis.comparison.row(analysis.best, 4).within.value  # so these are its streams
    check = analysis.check.total
    assert set(check.terms).isdisjoint(compared.terms)
    assert abs(check.value - compared.value) < 4 * (check.se**2 + compared.se**2) ** 0.5


def test_the_summary_fits_on_a_screen(analysis: Analysis) -> None:
    """The baseline and every sampler at the largest K, what to use, then what the names mean; the report has
    all of it, sentences first."""
    table, said, names = analysis_summary(analysis)
    assert isinstance(table, Table)
    arms = ["uniform", "IW", "Strat", "IW+Strat", "best"]
    assert [tuple(row[:2]) for row in table.rows] == [("uniform", "1"), *((arm, "4") for arm in arms)]
    assert isinstance(said, str)
    text = " ".join(said.split())
    assert text.startswith("Of a single draw's variance ")
    assert text.endswith(" ".join(conclusions(analysis)))
    lines = "\n\n".join(map(str, (table, said, names))).splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    report = analysis_report(analysis)
    assert report.startswith(said)
    assert all(str(part) in report for part in analysis_tables(analysis))


def test_too_little_is_refused_before_anything_is_measured() -> None:
    gradient = replace(gradient_of(MODEL), pipeline=lambda count, generator: pytest.fail("measured"))
    for name, options in (
        ("upstream must be at least 1, found 0", {"upstream": 0}),
        ("draws must be at least 1, found 0", {"draws": ()}),
        ("draws must be at least 1, found 0", {"draws": (4, 0)}),
        ("pairs must be at least 3, found 2", {"pairs": 2}),
        ("budget_upstreams must be at least 3, found 2", {"budget_upstreams": 2}),
        ("upstream must be the gradient's own R = 2 or less, found 3", {"upstream": 3}),
    ):
        with pytest.raises(ValueError, match=name):
            analyse(gradient, **options)  # type: ignore[arg-type]


def test_a_gradient_has_the_standard_arm_that_draws_the_same_or_its_own() -> None:
    """Not one that is much like it: another strategy, coupling or proposal has another variance."""
    weights, others = (Proposal.from_weights(torch.tensor(w)) for w in ([1.0, 2.0], [1.0, 3.0]))
    for sampler, arm in (
        (NoiseLevelSampler(Proposal.uniform(7), "iid"), "uniform"),
        (NoiseLevelSampler(weights, "iid"), "IW"),
        (NoiseLevelSampler(weights, "stratified"), "IW+Strat"),
        (NoiseLevelSampler(others, "stratified"), "own"),
        (NoiseLevelSampler(Proposal.uniform(), "stratified"), "Strat"),
        (NoiseLevelSampler(Proposal.uniform(), "global"), "own"),
        (NoiseLevelSampler(Proposal.uniform(), "nested"), "own"),
        (NoiseLevelSampler(Proposal.uniform(), "stratified", "antithetic"), "own"),
    ):
        gradient = replace(gradient_of(MODEL), sampler=sampler, importance=lambda defensive: weights)
        assert gradient.arm(0.1) == arm
    assert replace(gradient_of(MODEL), sampler=NoiseLevelSampler(weights, "iid")).arm(0.1) == "own"


def test_its_own_sampler_is_measured_where_no_standard_one_is_that() -> None:
    """Antithetic pairs remove what is linear in ε: with the samples fixed there is at (2, 4) only what strata
    leave of the level's part; 24 pairs, 4 SE. An odd K, which its strategy has not, is left out."""
    sampler = NoiseLevelSampler(Proposal.uniform(), "paired", "antithetic")
    told: list[str] = []
    a = analyse(replace(gradient_of(MODEL), sampler=sampler), 2, (1, 3, 4), 24, 8, 4, 4, progress=told.append)
    assert [t.split(":")[0] for t in told] == [f"{n} of {len(told)}" for n in range(1, len(told) + 1)]
    assert a.setting == ("own", 2, 4)
    assert [r.draws for r in a.comparison.rows if r.arm == "own"] == [1, 4]
    within = a.comparison.row("own", 4).within
    # of √2 sin(2πu) the means over [0, ½) and [½, 1) take 8/π²; two levels, each for two draws
    expected = MODEL.level * (1 - 8 / math.pi**2) / 2 / 2
    assert abs(within.value - expected) < 4 * within.se
    assert "run's own strategy, proposal and coupling" in str(analysis_tables(a)[0])
    assert "that of the run's own (2, 4)" in (said := " ".join(conclusions(a)))
    assert "(2, 4) own" not in said
    assert analysis_dict(a)["own"]["sampler"] == "own"
    assert all(row.draws % 2 == 0 for name, row in a.advice.items() if name == "own" and row.draws > 1)


def test_a_context_is_around_the_forward_passes_alone() -> None:
    """Under bf16 autocast a linear network's sample is rounded; samples, residuals, pushes and clips are made
    under it, draws and vectors stay float32, and the backward is outside."""
    linear = torch.nn.Linear(6, 6, bias=False)
    torch.nn.init.eye_(linear.weight)
    seen: list[str] = []

    def note(what: str, value: Tensor) -> Tensor:
        seen.append(f"{what} {torch.is_autocast_enabled('cpu')}")
        return value

    def pipeline(count: int, generator: torch.Generator) -> Upstream:
        x = linear(torch.randn(count, 6, generator=generator)).float()
        x.register_hook(lambda g: note("backward", g))

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            return note("residual", eps)

        return Upstream(
            note("sample", x),
            residual,
            lambda g: note("push", torch.zeros(count, 6)),
            clip=lambda direction: note("clip", direction),
        )

    gradient = replace(
        gradient_of(MODEL),
        pipeline=pipeline,
        parameters=[linear.weight],
        context=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    mixed, exact = (
        estimate_gradient(p, [linear.weight], STRATA, 2, 3, stream("a"), stream("b"))
        for p in (gradient.sample, pipeline)
    )
    names = ("sample", "residual", "push", "clip")
    expected = [[*(f"{name} {inside}" for name in names), "backward False"] for inside in (True, False)]
    assert seen == [*expected[0], *expected[1]]
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - exact).norm() < 0.01 * exact.norm()


def test_without_a_context_nothing_changes() -> None:
    """To the bit; a plain pair is an upstream sample."""
    gradient = gradient_of(MODEL)
    one, other = (
        estimate_gradient(p, gradient.parameters, STRATA, 4, 3, stream("a"), stream("b"))
        for p in (gradient.pipeline, gradient.sample)
    )
    assert torch.equal(one, other)


def test_other_costs_are_timed() -> None:
    """What an iteration does besides is in the costs, and a chunk reaches all residuals."""
    rows: list[int] = []
    theta = MODEL.parameters()
    plain = MODEL.pipeline(theta)

    def pipeline(count: int, generator: torch.Generator) -> tuple[Tensor, Residual]:
        x, residual, *_ = plain(count, generator)

        def counted(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            rows.append(len(u))
            return residual(x, u, eps, index)

        return x, counted

    def time_other(timer: StageTimer) -> None:
        timer.seconds["other"] = [7.0, 7.0, 7.0]

    gradient = replace(
        gradient_of(MODEL), pipeline=pipeline, parameters=[theta], chunk=Chunk(3), time_other=time_other
    )
    told: list[str] = []
    analysis = analyse(gradient, 1, (1,), 3, 3, 2, 2, progress=told.append)
    assert [t.split(":")[0] for t in told] == [f"{n} of {len(told)}" for n in range(1, len(told) + 1)]
    assert analysis.comparison.cost.other == 7.0
    assert max(rows) == 3  # in the pilots, too
    assert analysis.check.seconds > 7


def test_costs_are_of_the_sizes_that_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at (2, 4) whose calls take long: (2, 1) is priced by what it takes, not by a quarter of (2, 4)'s
    draws, and two samples not by twice one. Sizes take turns, the own one with the own sampler."""
    sizes: list[tuple[int, int]] = []
    own = gradient_of(MODEL)

    def stages(
        pipeline: object, parameters: object, sampler: object, r: int, k: int, timer: StageTimer, **_: object
    ) -> None:
        sizes.append((r, k))
        assert (sampler is own.sampler) == ((r, k) == (own.upstream, own.draws)) or len(sizes) > 20
        for name, seconds, n in (("upstream", 6 + 3 * r, r), ("draw", 10 + r * k, r * k), ("backward", r, r)):
            timer.seconds[name] += [seconds / n] * 2

    monkeypatch.setattr("carv_distill.variance.analysis.time_stages", stages)
    analysis = analyse(own, 2, (1, 8), 3, 3, 2, 2)
    assert sizes[:-1] == [(2, 1), (2, 8), (8, 1), (2, 4)] * 5  # the last one is the check's
    cost = analysis.comparison.cost
    assert (cost.calls, cost.draw, cost.sample) == pytest.approx((16.0, 1.0, 4.0))
    for r, k in ((2, 1), (2, 8), (2, 4), (4, 3)):
        assert cost(r, k) - cost.other == pytest.approx(16 + r * (4 + k))
    row = analysis.comparison.row("uniform", 8)
    paid = (16 + 2 * 5) / (16 + 2 * 12)
    less = analysis.comparison.base.total.value / row.total.value
    assert analysis.comparison.ecm(row).value == pytest.approx(less * paid)
    between, within = (getattr(analysis.comparison.budget, part).value for part in ("between", "within"))
    assert analysis_dict(analysis)["largest_ecm_iid"] == largest_ecm(between, within, cost.at(2))


def test_more_samples_than_fit_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the run's own R may not: then costs are of the other sizes. Its own must."""
    most = 2

    def stages(
        pipeline: object, parameters: object, sampler: object, r: int, k: int, timer: StageTimer, **_: object
    ) -> None:
        if r > most:
            raise torch.OutOfMemoryError
        for name, n in (("upstream", r), ("draw", r * k), ("backward", r)):
            timer.seconds[name] += [(1 + n) / n] * 2

    monkeypatch.setattr("carv_distill.variance.analysis.time_stages", stages)
    cost = analyse(gradient_of(MODEL), 2, (1, 8), 3, 3, 2, 2).comparison.cost
    assert (cost.upstream, cost.draw, cost.calls) == pytest.approx((1.5, 1.0, 1.0))
    most = 1
    with pytest.raises(torch.OutOfMemoryError):
        analyse(gradient_of(MODEL), 2, (1, 8), 3, 3, 2, 2)


def test_of_several_shares_costs_are_of_one() -> None:
    """What an iteration of four does besides is shared out: advice is for the seconds of one share."""

    def time_other(timer: StageTimer) -> None:
        timer.seconds["other"] = [8.0, 8.0]

    analysis = analyse(replace(gradient_of(MODEL), shares=4, time_other=time_other), 1, (1,), 3, 3, 2, 2)
    assert analysis.comparison.cost.other == 2.0
    assert any("accumulates 4 such batches" in said for said in conclusions(analysis))
    assert analysis_dict(analysis)["own"]["shares"] == 4


def test_draws_that_all_lie_above_its_own_are_refused_before_anything_is_measured() -> None:
    def never(timer: StageTimer) -> None:
        raise AssertionError("measured")

    with pytest.raises(ValueError, match="at the gradient's own K = 4 or below, found"):
        analyse(replace(gradient_of(MODEL), time_other=never), 2, (5, 8), 3, 3)


@pytest.mark.slow
def test_few_samples_are_compared_by_more_pairs() -> None:
    """As many upstream samples stand behind a row at R = 1 as at 8, at the run's own R of both."""
    for own, upstream, pairs in ((1, 1, 128), (2, 2, 64), (8, 8, 16), (32, 8, 16)):
        gradient = replace(gradient_of(MODEL), upstream=own)
        rows = analyse(gradient, draws=(1,), budget_upstreams=3, profile_bins=2, profile_upstreams=2)
        base = rows.comparison.base
        assert (base.upstream, len(base.within.terms)) == (upstream, pairs)


def test_draws_that_are_not_finite_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """One in twelve: the measures stay finite, and close to those without."""
    theta = MODEL.parameters()
    plain = MODEL.pipeline(theta)
    finite = FiniteDraws()

    def pipeline(count: int, generator: torch.Generator) -> Upstream:
        x, residual, *_ = plain(count, generator)

        def spoilt(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
            lost = (eps[:, 0] > 1.383)[:, None]  # Φ(1.383) = 11/12
            return torch.where(lost, torch.inf, residual(x, u, eps, index))

        return Upstream(x, spoilt, finite=finite)

    gradient = replace(gradient_of(MODEL), pipeline=pipeline, parameters=[theta], finite=finite)
    a = analyse(gradient, 2, (1, 4), 16, 32, 4, 8)
    assert all(math.isfinite(row.total.value) for row in a.comparison.rows)
    assert a.comparison.budget.within.value == pytest.approx(MODEL.level + MODEL.noise, rel=0.5)
    (said,) = [r.getMessage() for r in caplog.records if "not finite" in r.getMessage()]
    left_out, total = (int(word) for word in said.split(" draws")[0].split(" of "))
    assert left_out / total == pytest.approx(1 / 12, abs=4 * (11 / 144 / total) ** 0.5)


def test_what_spread_strata_gain_from_a_larger_r_is_said_not_to_be_counted() -> None:
    """Compared at R = 2, its own R is 4."""
    nested = NoiseLevelSampler(Proposal.uniform(), "nested")
    for sampler, told in ((nested, True), (STRATA, False)):
        a = analyse(replace(gradient_of(MODEL), sampler=sampler, upstream=4), 2, (1,), 3, 3, 2, 2)
        assert any("is not counted, so that" in said for said in conclusions(a)) == told
