from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NOISES, STRATEGIES, NoiseLevelSampler, Proposal, average_residual, stream
from carv_distill.carv.random_numbers import permutations_by_sorting
from carv_distill.teachers.denoiser import GaussianDenoiser
from carv_distill.teachers.schedule import EDMSchedule

F64 = torch.float64
UNIFORM = Proposal.uniform(1)  # u = v
UNEVEN = torch.logspace(0, -2, 50, dtype=F64)

PROPOSALS = {
    "uniform": Proposal.uniform(),
    "weights": Proposal.from_weights(1 + torch.arange(40)),
    "uneven": Proposal.from_weights(UNEVEN),
    "defensive": Proposal.from_weights(UNEVEN, defensive=0.1),
}
FAST = ("uniform", "defensive")
"""In every run of the tests: the equal cells, and those with all that can be uneven."""


def batches(strategy: str, upstream: int, draws: int, count: int, proposal: Proposal = UNIFORM) -> Tensor:
    """u and ω of `count` independent batches, [count, R, K, 2]."""
    sampler = NoiseLevelSampler(proposal, strategy)
    key = (strategy, upstream, draws)
    if strategy in ("iid", "stratified", "systematic"):  # upstream samples are independent
        d = sampler.draw(upstream * count, draws, (), stream(*key), dtype=F64)
        return torch.stack([d.u, d.weight], -1).view(count, upstream, draws, 2)
    g = stream(*key)
    parts = [sampler.draw(upstream, draws, (), g, dtype=F64) for _ in range(count)]
    return torch.stack([torch.stack([d.u, d.weight], -1) for d in parts])


def variance(y: Tensor) -> tuple[Tensor, Tensor]:
    """(variance, its SE) of independent numbers y [n]."""
    square = (y - y.mean()).square()
    return square.sum() / (len(y) - 1), square.std() / len(y) ** 0.5


# ---------------------------------------------------------------- unbiased

TEACHER = GaussianDenoiser(torch.tensor([1.0, -0.5], dtype=F64), torch.tensor(0.25, dtype=F64))
FAKE = GaussianDenoiser(torch.tensor([0.2, 0.3], dtype=F64), torch.tensor([0.5, 0.1], dtype=F64))
X = torch.tensor([[0.3, 0.4], [-1.5, 2.0]], dtype=F64)
SCHEDULE = EDMSchedule()


def dmd_like(x: Tensor, u: Tensor, eps: Tensor, index: Tensor | None = None) -> Tensor:
    """D_fake(x_t) − D_teacher(x_t): linear in x_t, so its expectation over ε is its value at ε = 0."""
    sigma = SCHEDULE.sigma(u)
    x_t = x + sigma[:, None] * eps
    return FAKE(x_t, sigma) - TEACHER(x_t, sigma)


def closed_form(x: Tensor, points: int = 400_000) -> Tensor:
    """E_u E_ε of the residual at one x by the midpoint rule."""
    u = (torch.arange(points, dtype=F64) + 0.5) / points
    return dmd_like(x.expand(points, 2), u, torch.zeros(points, 2, dtype=F64)).mean(0)


EXACT = torch.stack([closed_form(x) for x in X])


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in PROPOSALS]
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_unbiased_given_x(strategy: str, name: str, draws: int) -> None:
    """Mean direction of each fixed x_r over n independent batches equals E_u E_ε within 4 SE, SE = s/√n."""
    sampler = NoiseLevelSampler(PROPOSALS[name], strategy)
    g = stream("unbiased", strategy, name, draws)
    if strategy in ("iid", "stratified", "paired", "systematic"):  # one call gives independent batches
        n = 40_000
        batch = sampler.draw(2 * n, draws, (2,), g, dtype=F64)
        direction = average_residual(dmd_like, X.repeat(n, 1), batch).view(n, 2, 2)
    else:
        n = 1000
        direction = torch.stack(
            [average_residual(dmd_like, X, sampler.draw(2, draws, (2,), g, dtype=F64)) for _ in range(n)]
        )
    se = direction.std(0) / n**0.5
    assert ((direction.mean(0) - EXACT).abs() < 4 * se).all()


@pytest.mark.parametrize("noise", NOISES)
def test_unbiased_under_every_noise_coupling(noise: str) -> None:
    """Stratified draws with coupled noises keep the mean within 4 SE, SE = s/√n, n = 40 000 sets of 4."""
    n = 40_000
    sampler = NoiseLevelSampler(PROPOSALS["defensive"], "stratified", noise)
    draws = sampler.draw(n, 4, (2,), stream("coupling", noise), dtype=F64)
    direction = average_residual(dmd_like, X[:1].expand(n, 2), draws)
    assert ((direction.mean(0) - EXACT[0]).abs() < 4 * direction.std(0) / n**0.5).all()


def test_float32_draws_reach_bins_below_float32_resolution() -> None:
    """512 bins of mass 2⁻²⁶ at the end: float32 probabilities, multiples of 2⁻²⁴ there, can only ever reach
    128 of them; among the 32 that the sampler's float32 draws hit are some of the other 384."""
    tiny = torch.full((512,), 2.0**-26, dtype=F64)
    proposal = Proposal(torch.cat([torch.full((512,), (1 - 2.0**-17) / 512, dtype=F64), tiny]))
    draws = NoiseLevelSampler(proposal).draw(1, 2**22, (), stream("float32"))
    assert draws.weight.dtype == draws.u.dtype == torch.float32
    hit = (draws.u * 1024).long()
    hit = hit[hit >= 512]
    assert hit.numel() == 32  # 2²² · 2⁻¹⁷
    coarse = (proposal.icdf(torch.arange(2**24 - 128, 2**24).float() / 2**24) * 1024).long()
    assert coarse.unique().numel() <= 128
    assert torch.isin(hit, coarse, invert=True).sum() >= 16


# ---------------------------------------------------------------- where the draws fall


@pytest.mark.parametrize("strategy", ["stratified", "systematic", "sobol", "nested"])
def test_each_upstream_sample_hits_its_strata_once(strategy: str) -> None:
    """⌊u K⌋ is a permutation of 0 … K−1 for every upstream sample."""
    u = batches(strategy, 8, 16, 5)[..., 0]
    assert torch.equal((u * 16).long().sort(-1).values, torch.arange(16).expand(5, 8, 16))


@pytest.mark.parametrize("strategy", ["global", "sobol", "nested"])
def test_all_draws_of_a_batch_hit_the_fine_strata_once(strategy: str) -> None:
    """⌊u R K⌋ is a permutation of 0 … R K−1 over the batch (R K a power of two for Sobol)."""
    u = batches(strategy, 4, 8, 20)[..., 0]
    assert torch.equal((u * 32).long().flatten(1).sort(-1).values, torch.arange(32).expand(20, 32))


def test_systematic_has_one_shift() -> None:
    """u_rk K − k is the same for all k of one upstream sample, and differs between samples."""
    u = batches("systematic", 3, 4, 1)[0, ..., 0]
    shift = u * 4 - torch.arange(4)
    torch.testing.assert_close(shift, shift[:, :1].expand(3, 4), rtol=0, atol=1e-14)
    assert shift[:, 0].unique().numel() == 3


def ranks(strategy: str, shared: bool, upstream: int, draws: int, call: int, world_size: int = 3) -> Tensor:
    """u of all ranks in one step, [world, R, K]."""
    sampler = NoiseLevelSampler(UNIFORM, strategy)
    return torch.stack(
        [
            sampler.draw(
                upstream,
                draws,
                (),
                stream("own", strategy, call, rank),
                rank,
                world_size,
                stream("shared", strategy, call) if shared else None,
                F64,
            ).u
            for rank in range(world_size)
        ]
    )


@pytest.mark.parametrize("shared", [True, False])
def test_global_strata_are_dealt_over_ranks(shared: bool) -> None:
    """The ranks together hit each of the R K W strata exactly once, with and without a shared stream."""
    for call in range(20):
        strata = (ranks("global", shared, 2, 4, call) * 24).long()
        assert torch.equal(strata.flatten().sort().values, torch.arange(24))


@pytest.mark.parametrize("shared", [True, False])
def test_nested_strata_are_dealt_over_ranks(shared: bool) -> None:
    """Draw k of each upstream sample lies in coarse stratum k, and two ranks with two accumulated parts each
    (world_size 4) hit each of the R K W = 32 fine strata exactly once, with and without a shared stream."""
    for call in range(20):
        u = ranks("nested", shared, 2, 4, call, world_size=4)
        assert torch.equal((u * 4).long(), torch.arange(4).expand(4, 2, 4))
        assert torch.equal((u * 32).long().flatten().sort().values, torch.arange(32))


@pytest.mark.parametrize("shared", [True, False])
def test_latin_hypercube_strata_are_dealt_over_ranks(shared: bool) -> None:
    """For every k, the k-th draws of all ranks' samples hit each of the R W = 6 strata exactly once."""
    for call in range(20):
        strata = (ranks("latin_hypercube", shared, 2, 4, call) * 6).long().view(6, 4)
        assert torch.equal(strata.sort(0).values, torch.arange(6)[:, None].expand(6, 4))


def test_permutations_by_sorting_are_permutations() -> None:
    """What other devices use in place of randperm: rows are permutations, each entry uniform; n = 20 000 rows
    of 5, every frequency within 4 SE of 1/5, SE = √(0.16/n)."""
    n = 20_000
    rows = permutations_by_sorting(n, 5, stream("sorting"), torch.device("cpu"))
    assert torch.equal(rows.sort(1).values, torch.arange(5).expand(n, 5))
    share = torch.nn.functional.one_hot(rows, 5).double().mean(0)
    assert (share - 0.2).abs().max() < 4 * (0.16 / n) ** 0.5


def test_sobol_points_are_dealt_over_ranks() -> None:
    """With a shared stream, 4 ranks of R K = 8 Sobol points hit the 32 strata once each."""
    for call in range(20):
        strata = (ranks("sobol", True, 2, 4, call, world_size=4) * 32).long()
        assert torch.equal(strata.flatten().sort().values, torch.arange(32))


@pytest.mark.parametrize("name", [pytest.param("uniform", marks=pytest.mark.slow), "defensive"])
@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("strategy", ["nested", "latin_hypercube", "global"])
def test_unbiased_given_x_on_every_rank(strategy: str, draws: int, name: str) -> None:
    """Two ranks with a shared stream: the mean over n batches of each rank's direction for its own fixed x
    equals E_u E_ε within 4 SE, SE = s/√n, n = 600."""
    n = 600
    sampler = NoiseLevelSampler(PROPOSALS[name], strategy)
    for rank in range(2):
        g = stream("own", strategy, draws, name, rank)
        shared = stream("shared", strategy, draws, name)
        direction = torch.stack(
            [
                average_residual(dmd_like, X, sampler.draw(2, draws, (2,), g, rank, 2, shared, F64))
                for _ in range(n)
            ]
        )
        assert ((direction.mean(0) - EXACT).abs() < 4 * direction.std(0) / n**0.5).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_levels_are_those_of_draw(strategy: str) -> None:
    """levels(...) gives the u and ω that draw(...) gives from the same streams, bit for bit."""
    sampler = NoiseLevelSampler(PROPOSALS["uneven"], strategy)
    draws = sampler.draw(3, 4, (2,), stream("levels"), 1, 2, stream("levels", "shared"))
    u, weight = sampler.levels(3, 4, stream("levels"), 1, 2, stream("levels", "shared"))
    assert torch.equal(u, draws.u)
    assert torch.equal(weight, draws.weight)


@pytest.mark.parametrize("strategy", ["global", "sobol"])
def test_u_is_uniform_given_x_on_every_rank(strategy: str) -> None:
    """Every (rank, r, k) falls into each eighth of [0, 1) with frequency 1/8 within 4 SE, SE = √(7/64n)."""
    n = 1500
    u = torch.stack([ranks(strategy, True, 1, 2, call) for call in range(n)])
    share = torch.nn.functional.one_hot((u * 8).long(), 8).double().mean(0)
    assert share.shape == (3, 1, 2, 8)
    assert (share - 1 / 8).abs().max() < 4 * (7 / 64 / n) ** 0.5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_u_is_uniform_given_x(strategy: str) -> None:
    """The mean of u and of u² over the K draws of each x is 1/2 and 1/3 within 4 SE, SE = s/√1500."""
    u = batches(strategy, 2, 4, 1500)[..., 0]
    for power in (1, 2):
        mean = (u**power).mean(-1)  # over the K draws of one x
        assert ((mean.mean(0) - 1 / (power + 1)).abs() < 4 * mean.std(0) / 1500**0.5).all()


def test_paired_levels_with_antithetic_noises_remove_all_that_is_odd() -> None:
    """Both draws of a pair have one level, in its own stratum of K/2: h(u) ε of a pair sums to exactly zero,
    whatever the proposal, where neighbouring strata leave the difference of their levels."""
    proposal = PROPOSALS["uneven"]
    draws = NoiseLevelSampler(proposal, "paired", "antithetic").draw(50, 6, (2,), stream("paired"), dtype=F64)
    assert torch.equal(draws.u[:, 0::2], draws.u[:, 1::2])
    levels = NoiseLevelSampler(UNIFORM, "paired").draw(50, 6, (), stream("paired"), dtype=F64).u
    assert torch.equal((levels[:, ::2] * 3).long(), torch.arange(3).expand(50, 3))
    h = (1 + 5 * draws.u) * draws.weight
    terms = h[..., None] * draws.eps
    assert (terms[:, 0::2] + terms[:, 1::2] == 0).all()
    apart = NoiseLevelSampler(proposal, "stratified", "antithetic").draw(50, 6, (2,), stream("p"), dtype=F64)
    assert (((1 + 5 * apart.u) * apart.weight)[..., None] * apart.eps).mean(1).abs().max() > 0.01


def test_without_a_shared_stream_global_is_uniform_only_over_the_ranks() -> None:
    """Rank r sees the strata r modulo W alone, as the docstring warns."""
    for call in range(10):
        strata = (ranks("global", False, 2, 4, call) * 24).long()
        assert torch.equal(strata.flatten(1) % 3, torch.arange(3)[:, None].expand(3, 8))


# ---------------------------------------------------------------- variance

INTEGRANDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "monotone": lambda u, a: torch.exp(2 * u),
    "bump": lambda u, a: torch.exp(-(((u - 0.3) / 0.1) ** 2)),
    "with x": lambda u, a: a + (1 + 0.5 * a) * (u - 0.2) ** 2,
    "weighted": lambda u, a: u * (1 - u),
}


@pytest.mark.parametrize(("upstream", "draws"), [(2, 8), (4, 1)])
@pytest.mark.parametrize(
    ("strategy", "name"),
    # systematic draws promise something on monotone integrands only
    [(s, name) for s in ("stratified", "sobol", "global", "nested", "latin_hypercube") for name in INTEGRANDS]
    + [("systematic", "monotone")],
)
def test_never_above_iid(strategy: str, upstream: int, draws: int, name: str) -> None:
    """Var ≤ Var_iid + 4 SE of the difference at equal (R, K), with x drawn afresh; n = 1000 and 20 000."""
    proposal = PROPOSALS["weights"] if name == "weighted" else UNIFORM

    def estimates(strategy: str, count: int) -> Tensor:
        u, weight = batches(strategy, upstream, draws, count, proposal).unbind(-1)
        a = torch.randn(count, upstream, 1, generator=stream("x", strategy), dtype=F64)
        return (weight * INTEGRANDS[name](u, a)).mean((1, 2))

    batched = strategy not in ("stratified", "systematic")
    ours, ours_se = variance(estimates(strategy, 1000 if batched else 20_000))
    iid, iid_se = variance(estimates("iid", 20_000))
    assert ours <= iid + 4 * torch.hypot(ours_se, iid_se)
    # and far below where stratification has something to bite on
    bites = draws == 8 and name in ("monotone", "bump") and strategy != "latin_hypercube"
    if bites or (name == "monotone" and strategy in ("global", "nested")):
        assert ours + 4 * ours_se < iid / 2


@pytest.mark.parametrize("draws", [1, 2, 4, 8])
def test_rate_on_a_linear_integrand(draws: int) -> None:
    """f(u) = u: Var is 1/(12 K) for iid and 1/(12 K³) for stratified draws, within 4 SE; n = 100 000."""
    for strategy, power in (("iid", 1), ("stratified", 3)):
        mean = batches(strategy, 1, draws, 100_000)[..., 0].mean((1, 2))
        value, se = variance(mean)
        assert (value - 1 / (12 * draws**power)).abs() < 4 * se


def test_rate_of_global_at_one_draw_per_upstream_sample() -> None:
    """f(u) = u, K = 1, R = 8: Var of the batch mean is 1/(12 R³) within 4 SE; n = 1500."""
    value, se = variance(batches("global", 8, 1, 1500)[..., 0].mean((1, 2)))
    assert (value - 1 / (12 * 8**3)).abs() < 4 * se


def test_nested_removes_the_main_effect_of_the_level() -> None:
    """R = K = 4: against strata per upstream sample, Var falls R² = 16 times, exactly so for f(u) = u and to
    leading order for e^u; within 4 SE of the ratio, n = 4000 and 40 000 batches (SE = 2.4 % of it)."""
    u = batches("nested", 4, 4, 4000)[..., 0]
    per_sample = batches("stratified", 4, 4, 40_000)[..., 0]
    for f in (lambda u: u, torch.exp):
        ours, ours_se = variance(f(u).mean((1, 2)))
        theirs, theirs_se = variance(f(per_sample).mean((1, 2)))
        ratio = theirs / ours
        assert abs(ratio - 16) < 4 * ratio * torch.hypot(ours_se / ours, theirs_se / theirs)
    # f(u) = u exactly: 1/(12 (R K)³)
    assert abs(variance(u.mean((1, 2)))[0] - 1 / (12 * 16**3)) < 4 * variance(u.mean((1, 2)))[1]


def test_latin_hypercube_is_global_per_draw_and_iid_per_sample() -> None:
    """f(u) = u, R = 8, K = 2: Var of the batch mean is 1/(12 R³ K), that of a sample's mean 1/(12 K), within
    4 SE; n = 3000 batches, of which one sample each."""
    u = batches("latin_hypercube", 8, 2, 3000)[..., 0]
    for y, exact in ((u.mean((1, 2)), 1 / (12 * 8**3 * 2)), (u[:, 0].mean(1), 1 / 24)):
        value, se = variance(y)
        assert abs(value - exact) < 4 * se


def test_systematic_fails_on_a_periodic_integrand() -> None:
    """f(u) = cos 2πKu: one shift makes all K draws equal, so Var is 1/2 and not 1/(2K), within 4 SE."""
    f = torch.cos(2 * torch.pi * 4 * batches("systematic", 1, 4, 20_000)[..., 0]).mean((1, 2))
    value, se = variance(f)
    assert (value - 0.5).abs() < 4 * se


# ---------------------------------------------------------------- edges


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_shapes_dtype_and_range(strategy: str, dtype: torch.dtype) -> None:
    """u and ω are [R, K], ε [R, K, *shape], all in the dtype asked for; the same stream gives the same."""
    sampler = NoiseLevelSampler(PROPOSALS["uneven"], strategy)
    for shape in ((3, 4, 4), (2, 3, 4, 4), (5,)):
        draws = sampler.draw(3, 4, shape, stream("shape"), dtype=dtype)
        again = sampler.draw(3, 4, shape, stream("shape"), dtype=dtype)
        assert draws.u.shape == draws.weight.shape == (3, 4)
        assert draws.eps.shape == (3, 4, *shape)
        assert {draws.u.dtype, draws.weight.dtype, draws.eps.dtype} == {dtype}
        assert ((draws.u >= 0) & (draws.u < 1)).all()
        assert torch.equal(draws.u, again.u)
        assert torch.equal(draws.eps, again.eps)


def test_unknown_names_and_impossible_counts_are_refused() -> None:
    """Each refusal names what was found and what is allowed."""
    with pytest.raises(ValueError, match=r"^strategy must be one of iid, .*sobol; found 'halton'$"):
        NoiseLevelSampler(UNIFORM, "halton")
    with pytest.raises(ValueError, match=r"^noise must be one of iid, antithetic, zero_sum; found 'pink'$"):
        NoiseLevelSampler(UNIFORM, noise="pink")
    with pytest.raises(ValueError, match=r"^paired draws must be even in number, found 3$"):
        NoiseLevelSampler(UNIFORM, "paired").draw(2, 3, ())
    sampler = NoiseLevelSampler(UNIFORM)
    for upstream, draws in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"at least 1, found {upstream} and {draws}$"):
            sampler.draw(upstream, draws, ())
    for rank in (-1, 2):
        with pytest.raises(ValueError, match=rf"^rank must lie in 0 … 1, found {rank}$"):
            sampler.draw(1, 1, (), rank=rank, world_size=2)
