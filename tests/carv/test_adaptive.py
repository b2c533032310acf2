import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from carv_distill.carv import AdaptiveProposal, NoiseLevelSampler, Proposal, stream

F64 = torch.float64
BINS = 8


def integrand(u: Tensor) -> Tensor:
    """f ≥ 0 with ∫ f = 1/4 and much of it in the last eighth."""
    return u**3


def residual(u: Tensor, g: torch.Generator) -> Tensor:
    """r = f(u) (1 + ε), [*u.shape, 1]: its expectation given u is f(u)."""
    return (integrand(u) * (1 + torch.randn(u.shape, generator=g, dtype=F64)))[..., None]


def run(
    adaptive: AdaptiveProposal, steps: int, weigh: Callable[[int, Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """Each step's estimate of ∫ f from R = 2, K = 4 stratified draws, [steps]."""
    g = stream("adaptive", adaptive.statistic)
    estimates = []
    for step in range(steps):
        draws = NoiseLevelSampler(adaptive.proposal(step)).draw(2, 4, (), g, dtype=F64)
        r = residual(draws.u, g)
        adaptive.observe(step, draws.u, r)
        weight = draws.weight if weigh is None else weigh(step, draws.u, r)
        estimates.append((weight * r[..., 0]).mean())
    return torch.stack(estimates)


@pytest.mark.parametrize("statistic", ["second_moment", pytest.param("neyman", marks=pytest.mark.slow)])
def test_unbiased_with_past_draws(statistic: str) -> None:
    """The mean over 1600 steps, q renewed at every step and forgetting fast, is ∫ f = 1/4 within 4 SE; the
    steps' errors are martingale differences, so SE = s/√1600."""
    adaptive = AdaptiveProposal(BINS, 0.1, statistic, decay=0.8, refresh=1)
    estimates = run(adaptive, 1600)
    assert abs(estimates.mean() - 0.25) < 4 * estimates.std() / 1600**0.5
    assert not torch.equal(adaptive.proposal(1600).mass, torch.full((BINS,), 1 / BINS, dtype=F64))


@pytest.mark.slow
def test_the_current_batch_would_bias() -> None:
    """The same draws weighted by the proposal that already learned from them: a large residual enlarges its
    bin's q and so shrinks its own weight. The mean over 4000 steps is below ∫ f by more than 10 SE and more
    than 5 %, where that with the proposal in force is within 4 SE."""

    def adaptive() -> AdaptiveProposal:
        return AdaptiveProposal(BINS, 0.1, decay=0.5, refresh=1)

    cheat = adaptive()

    def own_weight(step: int, u: Tensor, r: Tensor) -> Tensor:
        later = adaptive()
        later.load_state_dict(cheat.state_dict())
        return later.proposal(step + 1).weight(u)  # proposal(step) is refused

    biased, allowed = run(cheat, 4000, own_weight), run(adaptive(), 4000)
    assert biased.mean() < 0.25 - 10 * biased.std() / 4000**0.5
    assert biased.mean() < 0.95 * 0.25
    assert abs(allowed.mean() - 0.25) < 4 * allowed.std() / 4000**0.5


def test_the_current_batch_is_refused() -> None:
    """Once step 3 was observed there is no proposal for it or an earlier one, but one for step 4."""
    adaptive = AdaptiveProposal(BINS)
    adaptive.proposal(3)
    adaptive.observe(3, torch.rand(4), torch.randn(4, 2))
    for step in (2, 3):
        with pytest.raises(ValueError, match=rf"^the proposal of step {step} was asked for after step 3 was"):
            adaptive.proposal(step)
    adaptive.proposal(4)
    with pytest.raises(ValueError, match=r"^step 2 was observed after step 3$"):
        adaptive.observe(2, torch.rand(4), torch.randn(4, 2))
    adaptive.observe(3, torch.rand(4), torch.randn(4, 2))  # a second part of the same step


# ---------------------------------------------------------------- what is learned


def test_second_moments_by_hand() -> None:
    """Two bins, decay ½ per step: weighted means of ‖r‖², and the mixture with the prior."""
    u = torch.tensor([[0.1, 0.2], [0.6, 0.9]], dtype=F64)
    first = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [0.0, 0.0]]], dtype=F64)
    second = torch.tensor([[[1.0, 0.0], [1.0, 2.0]], [[0.0, 2.0], [4.0, 0.0]]], dtype=F64)
    adaptive = AdaptiveProposal(2, 0.2, decay=0.5, refresh=1)
    adaptive.observe(1, u, first)
    adaptive.observe(2, u, second)
    # bin 0: (9 + 1)/2 + 1 + 5, bin 1: 8/2 + 4 + 16, both over 3
    exact = Proposal.from_weights(torch.tensor([11.0, 24.0], dtype=F64).sqrt(), 0.2)
    torch.testing.assert_close(adaptive.proposal(3).mass, exact.mass, rtol=1e-12, atol=0)


def test_differences_of_neighbours_by_hand() -> None:
    """Samples 0 and 1 with unsorted levels: neighbours in level within a sample, each in both its bins."""
    u = torch.tensor([[0.9, 0.1, 0.6], [0.2, 0.3, 0.7]], dtype=F64)
    r = torch.tensor([[5.0, 1.0, 2.0], [10.0, 14.0, 16.0]], dtype=F64)[..., None]
    # sample 0: (0.1, 0.6) → 1/2, (0.6, 0.9) → 9/2; sample 1: (0.2, 0.3) → 8, (0.3, 0.7) → 2
    low, high = (0.5 + 8 + 8 + 2) / 4, (0.5 + 4.5 + 4.5 + 2) / 4
    exact = Proposal.from_weights(torch.tensor([low, high], dtype=F64).sqrt(), 0.2)
    sample = torch.tensor([[0, 0, 0], [1, 1, 1]])
    for places in (torch.arange(6), torch.tensor([3, 0, 5, 1, 4, 2])):  # in any order, sample by sample named
        adaptive = AdaptiveProposal(2, 0.2, "neyman", refresh=1)
        adaptive.observe(0, u.flatten()[places], r.flatten(0, 1)[places], sample.flatten()[places])
        torch.testing.assert_close(adaptive.proposal(1).mass, exact.mass, rtol=1e-12, atol=0)
    adaptive = AdaptiveProposal(2, 0.2, "neyman", refresh=1)
    adaptive.observe(0, u, r)
    torch.testing.assert_close(adaptive.proposal(1).mass, exact.mass, rtol=1e-12, atol=0)


def test_neyman_knows_what_strata_remove() -> None:
    """r = 4(1−u) x + (0.2 + 2u²) ε, x, ε ~ N(0, I₃): the spread over x is large where the noise is small, and
    strata of one sample's draws remove it. At K = 16 the learned q leaves less variance given x than the
    uniform one by more than 4 SE, and no more than 10 % above q ∝ (0.2 + 2u²), Neyman's exact one."""

    def within(proposal: Proposal, repeats: int = 4000) -> tuple[float, float]:
        g = stream("within", proposal.mass[0].item())
        draws = NoiseLevelSampler(proposal, "stratified").draw(repeats * 2, 16, (3,), g, dtype=F64)
        x = torch.randn(repeats, 1, 3, generator=g, dtype=F64).expand(-1, 2, -1).flatten(0, 1)
        r = 4 * (1 - draws.u)[..., None] * x[:, None] + (0.2 + 2 * draws.u.square())[..., None] * draws.eps
        mean = (draws.weight[..., None] * r).mean(1).view(repeats, 2, 3)
        terms = mean.diff(dim=1).square().sum((1, 2)) / 2
        return terms.mean().item(), (terms.std() / repeats**0.5).item()

    adaptive = AdaptiveProposal(BINS, 0.1, "neyman", decay=1.0, refresh=10)
    g = stream("learn")
    for step in range(200):
        draws = NoiseLevelSampler(adaptive.proposal(step)).draw(8, 16, (3,), g, dtype=F64)
        x = torch.randn(8, 1, 3, generator=g, dtype=F64)
        r = 4 * (1 - draws.u)[..., None] * x + (0.2 + 2 * draws.u.square())[..., None] * draws.eps
        adaptive.observe(step, draws.u, r)
    grid = (torch.arange(BINS, dtype=F64) + 0.5) / BINS
    exact, _ = within(Proposal.from_weights(0.2 + 2 * grid.square(), 0.1))
    learned, learned_se = within(adaptive.proposal(200))
    uniform, uniform_se = within(Proposal.uniform(BINS))
    assert uniform - learned > 4 * (uniform_se**2 + learned_se**2) ** 0.5
    assert learned < 1.1 * exact + 4 * learned_se


def test_it_converges_to_the_best_proposal() -> None:
    """r = f(u)(1 + ε): q_b is within 5 % of √E f² after 3000 steps without forgetting; u is drawn from the
    adapting proposal all along."""
    grid = (torch.arange(8000, dtype=F64) + 0.5) / 8000
    adaptive = AdaptiveProposal(BINS, 0.1, decay=1.0, refresh=50)
    run(adaptive, 3000)
    exact = Proposal.from_weights(integrand(grid).square().view(BINS, -1).mean(1).sqrt(), 0.1)
    torch.testing.assert_close(adaptive.proposal(3000).mass, exact.mass, rtol=0.05, atol=0)


def test_bins_without_draws_get_the_mean_of_the_others() -> None:
    """Bins 0 and 1 seen with ‖r‖ = 1 and 3: bins 2 and 3 count 2. Neyman needs two draws of a sample."""
    adaptive = AdaptiveProposal(4, 0.1, refresh=1)
    adaptive.observe(0, torch.tensor([0.1, 0.3]), torch.tensor([[1.0], [3.0]]))
    exact = Proposal.from_weights(torch.tensor([1.0, 3.0, 2.0, 2.0]), 0.1)
    torch.testing.assert_close(adaptive.proposal(1).mass, exact.mass)
    adaptive = AdaptiveProposal(4, 0.1, "neyman", decay=1.0, refresh=1)
    adaptive.observe(0, torch.tensor([0.1, 0.1, 0.3]), torch.tensor([[1.0], [3.0], [9.0]]))  # three samples
    torch.testing.assert_close(adaptive.proposal(1).mass, torch.full((4,), 0.25, dtype=F64))
    for u, apart in ((0.1, 2.0), (0.3, 8.0)):
        adaptive.observe(1, torch.tensor([[u, u]]), torch.tensor([[[0.0], [apart]]]))
    exact = Proposal.from_weights(torch.tensor([1.0, 4.0, 2.5, 2.5]), 0.1)
    torch.testing.assert_close(adaptive.proposal(2).mass, exact.mass)


def test_before_and_without_anything_to_learn_the_prior_is_kept() -> None:
    """No draw yet, only zeros, and for neyman only constants: uniform."""
    uniform = torch.full((4,), 0.25, dtype=F64)
    for statistic, value in (("second_moment", 0.0), ("neyman", 2.0)):
        adaptive = AdaptiveProposal(4, statistic=statistic, refresh=1)
        assert torch.equal(adaptive.proposal(0).mass, uniform)
        adaptive.observe(0, torch.rand(5, 10), torch.full((5, 10, 3), value))
        torch.testing.assert_close(adaptive.proposal(1).mass, uniform)


def test_a_new_proposal_every_refresh_steps() -> None:
    """refresh = 3: the object changes at steps 1, 4 and 7 and stays between."""
    adaptive = AdaptiveProposal(4, refresh=3)
    proposals = []
    for step in range(9):
        proposals.append(adaptive.proposal(step))
        adaptive.observe(step, torch.rand(16), torch.randn(16, 2))
    changes = [step for step in range(1, 9) if proposals[step] is not proposals[step - 1]]
    assert changes == [1, 4, 7]


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("statistic", ["second_moment", "neyman"])
def test_a_saved_state_goes_on_bit_for_bit(statistic: str, tmp_path: object) -> None:
    """Saved to a file in the middle of a refresh period and loaded: proposals and sums are equal bits."""

    def make() -> AdaptiveProposal:
        return AdaptiveProposal(BINS, 0.1, statistic, decay=0.9, refresh=4)

    def go_on(adaptive: AdaptiveProposal, steps: range) -> list[Tensor]:
        masses = []
        for step in steps:
            masses.append(adaptive.proposal(step).mass)
            g = stream("go on", step)
            u = adaptive.proposal(step).icdf(torch.rand(2, 4, generator=g, dtype=F64))
            adaptive.observe(step, u, torch.randn(2, 4, 3, generator=g))
        return masses

    original = make()
    go_on(original, range(10))
    path = f"{tmp_path}/adaptive.pt"
    torch.save(original.state_dict(), path)
    loaded = make()
    loaded.load_state_dict(torch.load(path, weights_only=True))
    for a, b in zip(go_on(original, range(10, 30)), go_on(loaded, range(10, 30)), strict=True):
        assert torch.equal(a, b)
    for name, sums in original.state_dict()["sums"].items():
        assert torch.equal(sums, loaded.state_dict()["sums"][name])


def test_a_state_is_a_copy() -> None:
    """Further draws do not change a state that was taken, nor one that was loaded from."""
    adaptive = AdaptiveProposal(4)
    adaptive.observe(0, torch.rand(4), torch.randn(4, 2))
    state = adaptive.state_dict()
    before = state["sums"]["value"].clone()
    other = AdaptiveProposal(4)
    other.load_state_dict(state)
    for one in (adaptive, other):
        one.observe(1, torch.rand(4), torch.randn(4, 2))
    assert torch.equal(state["sums"]["value"], before)


def test_a_state_of_something_else_is_refused() -> None:
    """Another number of bins, or another statistic."""
    adaptive = AdaptiveProposal(4)
    adaptive.observe(0, torch.rand(4), torch.randn(4, 2))
    with pytest.raises(ValueError, match=r"^the saved proposal has 4 bins, this one 5$"):
        AdaptiveProposal(5).load_state_dict(adaptive.state_dict())
    with pytest.raises(ValueError, match=r"^the saved proposal learned another statistic than neyman$"):
        AdaptiveProposal(4, statistic="neyman").load_state_dict(adaptive.state_dict())


# ---------------------------------------------------------------- a part of [0, 1), several processes


def test_a_part_has_the_learned_weights_at_its_places() -> None:
    """Norms 1, 3, 2, 4 on quarters of [0, 1): six bins with middles from 0.3 to 0.8 have 3 3 2 2 4 4, mixed
    with the prior on those six; then 2 and 4 alone, from the same draws."""
    adaptive = AdaptiveProposal(4, 0.1, refresh=1)
    adaptive.observe(0, torch.tensor([0.1, 0.3, 0.6, 0.9]), torch.tensor([[1.0], [3.0], [2.0], [4.0]]))
    whole = adaptive.proposal(1).mass
    for at, weights in (
        ([0.3, 0.4, 0.5, 0.6, 0.75, 0.8], [3.0, 3.0, 2.0, 2.0, 4.0, 4.0]),
        ([0.7, 0.8], [2.0, 4.0]),
    ):
        exact = Proposal.from_weights(torch.tensor(weights), 0.1)
        found = adaptive.proposal(1, torch.tensor(at))
        torch.testing.assert_close(found.mass, exact.mass, rtol=1e-12, atol=0)
        assert adaptive.proposal(1, torch.tensor(at)) is found  # kept while the part stays
    assert torch.equal(adaptive.proposal(1).mass, whole)


def test_a_part_without_residuals_is_uniform() -> None:
    adaptive = AdaptiveProposal(2, 0.1, refresh=1)
    adaptive.observe(0, torch.tensor([0.1, 0.9]), torch.tensor([[0.0], [1.0]]))
    assert torch.equal(adaptive.proposal(1, torch.tensor([0.1, 0.2])).mass, torch.tensor([0.5, 0.5]).double())


@pytest.mark.parametrize("statistic", ["second_moment", "neyman"])
def test_rows_of_two_processes_teach_what_all_their_draws_do(statistic: str) -> None:
    """Three numbers per draw (neyman: per end of a pair), joined; only rounding differs."""
    apart, together = (AdaptiveProposal(4, 0.1, statistic, refresh=1) for _ in range(2))
    u, r = torch.rand(4, 3), torch.randn(4, 3, 5)
    halves = [apart.rows(u[part], r[part]) for part in (slice(0, 2), slice(2, 4))]
    assert all(half.shape[1] == 3 for half in halves)
    apart.add(0, torch.cat(halves))
    together.observe(0, u, r)
    assert apart.state_dict()["sums"]["weight"].sum() == (12 if statistic == "second_moment" else 16)
    torch.testing.assert_close(apart.proposal(1).mass, together.proposal(1).mass, rtol=1e-12, atol=0)


def test_what_one_process_saw_amiss_all_find() -> None:
    """A NaN goes through the rows and is refused where they are added."""
    adaptive = AdaptiveProposal(4)
    rows = adaptive.rows(torch.rand(3), torch.full((3, 2), torch.nan))
    with pytest.raises(ValueError, match="must be finite"):
        adaptive.add(0, rows)


@pytest.mark.parametrize("statistic", ["second_moment", "neyman"])
def test_a_draw_that_is_not_finite_spoils_no_others(statistic: str) -> None:
    """Where such draws are left out, all of other samples teach what they did."""
    adaptive = AdaptiveProposal(4, statistic=statistic)
    u, r = torch.rand(3, 4), torch.randn(3, 4, 5)
    r[1, 2] = torch.inf
    others = torch.tensor([0, 2])
    rows = adaptive.rows(u, r)
    kept = rows[rows.isfinite().all(1) & (rows[:, 1] > 0)]
    wanted = adaptive.rows(u[others], r[others])
    wanted = wanted[wanted[:, 1] > 0]
    found = {tuple(row) for row in kept.tolist()}
    assert {tuple(row) for row in wanted.tolist()} < found
    assert not rows.isfinite().all()


# ---------------------------------------------------------------- edges


def test_what_cannot_be_learned_from_is_refused() -> None:
    """Shapes, sizes, NaN, infinity and u outside [0, 1), each without a trace in the sums."""
    adaptive = AdaptiveProposal(4, statistic="neyman")
    u, r = torch.rand(2, 3), torch.randn(2, 3, 5)
    adaptive.observe(0, u, r)
    before = adaptive.state_dict()["sums"]
    with pytest.raises(
        ValueError, match=re.escape("of [2, 3] draws must have shape [2, 3, '…'], found [3, 2]")
    ):
        adaptive.observe(1, u, torch.randn(3, 2))
    with pytest.raises(ValueError, match=re.escape("must have the shape of u, [2, 3], found [3]")):
        adaptive.observe(1, u, r, torch.arange(3))
    for bad_u, bad_r in ((u, r / 0), (u, r * torch.nan), (u + 1, r), (u - 1.1, r), (u * torch.nan, r)):
        with pytest.raises(ValueError, match=r"^observed residuals must be finite and u in \[0, 1\)$"):
            adaptive.observe(1, bad_u, bad_r)
    assert all(torch.equal(before[name], sums) for name, sums in adaptive.state_dict()["sums"].items())


def test_arguments_outside_their_range_are_refused() -> None:
    """Each message names the argument and what was found."""
    for bad, message in (
        ({"bins": 0}, "bins must be at least 1, found 0"),
        ({"refresh": 0}, "refresh must be at least 1, found 0"),
        ({"defensive": 0.0}, r"defensive must lie in \(0, 1\], found 0.0"),
        ({"decay": 1.5}, r"decay must lie in \(0, 1\], found 1.5"),
        ({"statistic": "norm"}, "statistic must be one of second_moment, neyman; found 'norm'"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            AdaptiveProposal(**({"bins": 4} | bad))  # type: ignore[arg-type]
