"""Variances of all samplers from draws in fine strata."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from studies.attribution_budget.strata import (
    PARTS,
    Moments,
    averaged,
    cells,
    gains,
    iid,
    importance,
    midpoints,
    neyman,
    refined,
    stratified,
    systematic,
    variances,
)

S, DIM = 16, 3


def mean_at(stratum: Tensor) -> Tensor:
    """m_s, [n, 3]."""
    t = (stratum.double() + 0.5) / S
    return torch.stack([t, t.square(), 1 - t], 1)


def spread_at(stratum: Tensor) -> Tensor:
    """Standard deviation of the noise."""
    return 0.2 + (stratum.double() + 0.5) / S


def gradient(u: Tensor, eps: Tensor) -> Tensor:
    """Constant within each of the 16 fine strata but for the noise, of which a part is even in ε."""
    stratum = (u * S).floor().long()
    noise = eps + 0.3 * (eps.square() - 1)
    return mean_at(stratum) + spread_at(stratum)[:, None] * noise


def exact() -> Moments:
    """E‖ε + 0.3 (ε² − 1)‖² = 3 (1 + 0.18)."""
    strata = torch.arange(S)
    m = mean_at(strata)
    return Moments(m.square().sum(1) + spread_at(strata).square() * DIM * 1.18, m @ m.T)


def test_moments_are_unbiased() -> None:
    """The mean over 2,000 sets of draws, within 4 SE."""
    g = stream("moments")
    u = (torch.arange(S).repeat_interleave(2) + torch.rand(2000, 2 * S, generator=g)) / S
    eps = torch.randn(2000, 2 * S, DIM, generator=g, dtype=torch.float64)
    draws = torch.stack([gradient(a, b) for a, b in zip(u.double(), eps, strict=True)]).view(2000, S, 2, DIM)
    found, truth = [Moments.of(d) for d in draws], exact()
    for name in ("square", "inner"):
        values = torch.stack([getattr(m, name) for m in found])
        error = (values.mean(0) - getattr(truth, name)).abs()
        assert (error < 4 * values.std(0) / 2000**0.5).all()
    level = mean_at(torch.arange(S))
    assert truth.level() == pytest.approx(float((level - level.mean(0)).square().sum(1).mean()))
    assert truth.noise() == pytest.approx(float(spread_at(torch.arange(S)).square().mean()) * DIM * 1.18)
    assert averaged(found).noise() == pytest.approx(truth.noise(), rel=0.05)


@pytest.mark.parametrize("draws", [1, 4, 16])
@pytest.mark.parametrize("by_importance", [False, True])
def test_variances_are_those_of_the_sampler(draws: int, by_importance: bool) -> None:
    """Of the method's own sampler, 40,000 sets of draws, within 4 SE; iid and stratified."""
    truth = exact()
    q = importance(truth, torch.ones(S).double()) if by_importance else torch.ones(S, dtype=torch.float64)
    proposal = Proposal((q / q.sum()).double())
    for strategy, formula in (("iid", iid), ("stratified", stratified)):
        sampler = NoiseLevelSampler(proposal, strategy)
        count = 40_000
        drawn = sampler.draw(count, draws, (DIM,), stream("sets", strategy, draws), dtype=torch.float64)
        values = gradient(drawn.u.flatten(), drawn.eps.flatten(0, 1)).view(count, draws, DIM)
        errors = (values * drawn.weight[..., None]).mean(1) - mean_at(torch.arange(S)).mean(0)
        squares = errors.square().sum(1)
        assert abs(squares.mean() - formula(truth, q, draws)) < 4 * squares.std() / count**0.5


def sets_of(u: Tensor, name: str) -> Tensor:
    """Means over K of gradients at levels [n, K], their noises drawn anew, [n, 3]."""
    eps = torch.randn(*u.shape, DIM, generator=stream("noises", name), dtype=torch.float64)
    return gradient(u.flatten(), eps.flatten(0, 1)).view(*u.shape, DIM).mean(1)


def test_systematic_levels_and_midpoints() -> None:
    """Drawn as they are, 40,000 sets, within 4 SE; a midpoint on an edge between two fine strata is on either
    side of it."""
    truth, count, k = exact(), 40_000, 4
    g = stream("systematic")
    cell = torch.arange(k, dtype=torch.float64) / k
    offsets = torch.rand(count, 1, generator=g, dtype=torch.float64) / k
    centre = mean_at(torch.arange(S)).mean(0)
    squares = (sets_of(cell + offsets, "systematic") - centre).square().sum(1)
    assert abs(squares.mean() - systematic(truth, k)) < 4 * squares.std() / count**0.5

    side = torch.where(torch.rand(count, k, generator=g) < 0.5, -1, 1) * 0.01 / k
    means = sets_of(cell + 0.5 / k + side, "midpoints")
    noise, bias = midpoints(truth, k)
    middle = mean_at((torch.arange(k)[:, None] * 4 + torch.tensor([1, 2])).flatten()).mean(0)
    assert bias == pytest.approx(float((middle - centre).square().sum()), abs=1e-12)
    spread = (means - middle).square().sum(1)
    # what the side of an edge adds is no part of a fixed grid
    half_steps = (mean_at(torch.arange(k) * 4 + 2) - mean_at(torch.arange(k) * 4 + 1)).square().sum(1) / 4
    assert abs(spread.mean() - float(half_steps.mean()) / k - noise) < 4 * spread.std() / count**0.5


def test_another_law_of_the_level() -> None:
    """Drawn by rejection from r ∝ 1 + s, as its own uniform law: 40,000 sets, within 4 SE."""
    truth, count, k = exact(), 40_000, 2
    law = 1 + torch.arange(S, dtype=torch.float64)
    law = law / law.mean()
    edges = torch.cat([torch.zeros(1).double(), law.cumsum(0) / S])

    def levels(v: Tensor) -> Tensor:
        stratum = (torch.searchsorted(edges, v, right=True) - 1).clamp(0, S - 1)
        return (stratum + 0.5) / S

    found = variances(truth, truth, (truth, truth), law)
    centre = (law[:, None] * mean_at(torch.arange(S))).mean(0)
    for arm in ("iid", "Strat"):
        v = torch.rand(count, k, generator=stream("law", arm), dtype=torch.float64)
        v = v if arm == "iid" else (v + torch.arange(k)) / k
        squares = (sets_of(levels(v), arm) - centre).square().sum(1)
        assert abs(squares.mean() - found[arm, k]) < 4 * squares.std() / count**0.5, arm
    assert found["IW", 8] < found["iid", 8]
    assert ("systematic", 2) not in found
    assert ("systematic", 2) in (own := variances(truth, truth, (truth, truth)))
    assert own["systematic", 1] == pytest.approx(own["iid", 1])
    total = truth.level(law) + truth.noise(law)
    assert total == pytest.approx(found["iid", 1])


@pytest.mark.parametrize("draws", [16, 32, 64])
def test_levels_within_a_stratum_hardly_count_against_strata(draws: int) -> None:
    """A smooth E g, known on 4,096 levels; cells of another law cut the 64 strata. The charge falls to a
    quarter, or to less than 0.1 % of the variance; what is refined has the moments that it is made of."""

    def known(parts: int) -> tuple[Moments, Tensor]:
        u = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
        level = torch.stack([(3 * u).cos(), (3 * u).sin(), 0.6 * (-u / 0.05).exp()], 1)
        mean = level.view(parts, -1, 3).mean(1)
        square = (level.square().sum(1) + 0.02 + 0.1 * u).view(parts, -1).mean(1)
        edges = torch.linspace(0, 1, parts + 1, dtype=torch.float64)
        return Moments(square, mean @ mean.T), parts * (3 * edges / (1 + 2 * edges)).diff()

    (coarse, law), (fine, finer) = known(64), known(64 * PARTS)
    line = refined(coarse)
    truth = stratified(fine.under(finer), finer, draws)
    before = abs(stratified(coarse.under(law), law, draws) / truth - 1)
    after = abs(stratified(line.under(finer), finer, draws) / truth - 1)
    assert after < max(before / 4, 1e-3)
    torch.testing.assert_close(line.square.view(64, PARTS).mean(1), coarse.square)
    torch.testing.assert_close(line.inner.view(64, PARTS, 64, PARTS).mean((1, 3)), coarse.inner)


def test_cells_share_the_strata() -> None:
    q = torch.tensor([1.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(cells(q, 2), expected)
    q = torch.rand(S, generator=stream("q"), dtype=torch.float64) + 0.1
    for count in (1, 3, 64):
        torch.testing.assert_close(cells(q, count).sum(1), torch.ones(count, dtype=torch.float64))
        torch.testing.assert_close(cells(q, count).mean(0), q / q.sum())


def test_what_each_arm_is_worth() -> None:
    """No spread over levels: strata are worth nothing, iid or not; pairs of an odd noise everything."""
    flat = Moments(torch.full((S,), 3.0).double(), torch.ones(S, S).double())
    still = Moments(torch.ones(S).double(), torch.ones(S, S).double())
    for (arm, k), gain in gains([variances(flat, flat, (flat, flat))] * 3).items():
        wanted = 0.5 if "pairs" in arm else 1  # a pair that is no better than a draw costs two
        assert gain.value == pytest.approx(wanted), (arm, k)
    assert variances(flat, still, (flat, still))["pairs", 4] == pytest.approx(0, abs=1e-12)
    truth = exact()
    found = variances(truth, truth, (truth, truth))
    assert found["IW", 8] < found["iid", 8]
    assert found["IW+Strat", 16] < found["Strat", 16] < found["iid", 16]
    assert found["Neyman", 64] <= found["Strat", 64]
    assert neyman(truth, torch.ones(S).double()).mean() == pytest.approx(1)
