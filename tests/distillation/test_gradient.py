"""One gradient: what is descended is what the trace, evaluate.py and the costs measure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from carv_distill.carv import NoiseLevelSampler, Proposal, stream
from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.gradient import gradient_of, measure_variance, update_gradient
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.variance import StageTimer, estimate_gradient, measure_pairs
from tests.helpers.trainers import bare_trainer

MakeConfig = Callable[..., DMDConfig]
GAN = ("dmd.gan.student_weight=10", "dmd.gan.fake_weight=0.1")
FASTGEN = (*GAN, "dmd.gan.features=teacher", "dmd.gan.scales=2", "dmd.gan.optimiser=own", "dmd.t_max=0.9")


def build(config: DMDConfig) -> DMDModule:
    """With a fake score and a discriminator that have moved, so that there is something to measure."""
    module = build_module(config, load_images("digits"))
    with torch.no_grad():
        for i, p in enumerate([*module.objective.fake_parameters, *module.objective.head_parameters]):
            p += 0.03 * torch.randn(p.shape, generator=stream("moved", i))
    return module


@pytest.mark.parametrize("words", [(), GAN, FASTGEN])
def test_trace_and_evaluation_take_one_gradient_to_the_bit(
    small_config: MakeConfig, words: tuple[str, ...]
) -> None:
    """From the same streams; with a discriminator its part is in both, and is not small."""
    module = build(small_config(*words))
    sampler, key, own_key = module.estimator.sampler, ("trace", 1), (0, "own")
    traced = update_gradient(module, sampler, 2, key, own_key)
    (share,), g = module.shares, gradient_of(module)
    upstream, _ = module.streams(share.index, *key, "upstream")
    own, _ = module.streams(share.index, *key, *own_key)
    _, dealt = module.streams(share.index, *key, "upstream")
    evaluated = estimate_gradient(
        gradient_of(module, share, dealt).sample, g.parameters, sampler, g.upstream, 2, upstream, own
    )
    assert torch.equal(traced, evaluated)
    module.options.gan.student_weight = 0.0
    without = update_gradient(module, sampler, 2, key, own_key)
    assert torch.equal(traced, without) is not bool(words)


@pytest.mark.parametrize("words", [(), GAN, FASTGEN])
def test_training_descends_the_gradient_that_is_measured(
    small_config: MakeConfig, words: tuple[str, ...]
) -> None:
    """The first update's gradient against an estimate from the training's own streams, to the bit."""
    module = build(small_config(*words, "dmd.fake_lr=1e-30", "dmd.fake_updates_per_student=1"))
    (share,), e = module.shares, module.estimator
    own, shared = module.streams(share.index, 0, "student")
    g = gradient_of(module, share, shared)
    expected = estimate_gradient(
        g.sample, g.parameters, e.sampler, g.upstream, g.draws, own, own, e.chunk, shared=shared
    )
    bare_trainer(1).fit(module)
    descended = module.student_vector.theta.grad
    assert descended is not None
    assert torch.equal(descended, expected)


def test_a_pair_shares_what_the_discriminator_adds(small_config: MakeConfig) -> None:
    """It is the upstream samples': with the residual weighted by nothing, the two halves are one."""
    module = build(small_config(*GAN))
    module.objective.residual = lambda labels: lambda x, u, eps, index: torch.zeros_like(eps)  # type: ignore[method-assign]
    halves = [
        update_gradient(module, module.estimator.sampler, 2, ("trace", 1), (half, "own")) for half in (0, 1)
    ]
    assert halves[0].any()
    assert torch.equal(*halves)


@pytest.mark.slow
def test_trace_and_evaluation_agree_within_their_intervals(small_config: MakeConfig) -> None:
    """Total variance at (4, 2) with a discriminator of weight 10, 80 pairs each, from other streams."""
    module = build(small_config(*GAN))
    sampler = NoiseLevelSampler(Proposal.uniform(), "stratified")
    traced = measure_variance(module, sampler, 2, 80, ("test",)).total()
    g = gradient_of(module)
    evaluated = measure_pairs(g.sample, g.parameters, sampler, g.upstream, 2, 80, seed=1).total()
    assert max(traced.low, evaluated.low) < min(traced.high, evaluated.high)


@pytest.mark.parametrize(
    "words", [pytest.param(GAN, marks=pytest.mark.slow), (*FASTGEN, "dmd.ema_beside=[0.5,0.9]")]
)
def test_what_an_update_does_besides_is_timed_and_changes_nothing(
    small_config: MakeConfig, words: tuple[str, ...]
) -> None:
    module = build(small_config(*words))
    before = [p.clone() for p in module.parameters()]
    timer = StageTimer()
    gradient_of(module).time_other(timer)
    assert len(timer.seconds["other"]) == 10
    assert timer.median("other") > 0
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_the_shares_of_a_larger_batch_are_told(small_config: MakeConfig) -> None:
    """What an update does besides is timed of all its shares, its gradient of one."""
    module = build(small_config("estimator.upstream=4", "dmd.global_batch=12"))
    assert (gradient_of(module).upstream, gradient_of(module).shares) == (4, 3)
