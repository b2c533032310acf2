"""The main job on a CUDA device: bf16 autocast, and no synchronisation in a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from carv_distill.carv import (
    STRATEGIES,
    AdaptiveProposal,
    Chunk,
    NoiseLevelSampler,
    Proposal,
    average_residual,
    stream,
)
from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.metrics import read_metrics
from carv_distill.tasks import train
from carv_distill.variance import CountSketch
from tests.helpers.loops import fit_without_waiting
from tests.helpers.small import ON_GPU

pytestmark = ON_GPU
MakeConfig = Callable[..., DMDConfig]


def test_a_sketch_is_that_of_the_cpu_and_waits_for_nothing() -> None:
    x = torch.randn(3, 100_003, generator=stream("sketch"), dtype=torch.float64)
    on_device = x.cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = CountSketch(4096)(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), CountSketch(4096)(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_draws_and_averages_on_the_device_without_waiting_for_it(strategy: str) -> None:
    """`draw` and `average_residual` make no host–device synchronisation, in float32 and float64."""
    sampler = NoiseLevelSampler(Proposal.from_weights(torch.arange(1.0, 11), 0.1), strategy)
    for dtype in (torch.float32, torch.float64):
        g = stream(0, device="cuda")
        x = torch.randn(4, 1, 8, 8, device="cuda", dtype=dtype)
        sampler.draw(4, 8, (1, 8, 8), generator=g, dtype=dtype)  # builds the tables
        torch.cuda.set_sync_debug_mode("error")
        try:
            draws = sampler.draw(4, 8, (1, 8, 8), generator=g, dtype=dtype)
            average_residual(lambda x, u, eps, index: eps, x, draws, 7)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert draws.u.is_cuda
        assert draws.u.dtype == dtype


@pytest.mark.parametrize("statistic", ["second_moment", "neyman"])
def test_an_adaptive_proposal_observes_without_waiting(statistic: str) -> None:
    """`observe` makes no host–device synchronisation; a NaN is found when the next proposal is made."""
    adaptive = AdaptiveProposal(10, statistic=statistic, refresh=1)
    u, r = torch.rand(4, 8, device="cuda"), torch.randn(4, 8, 3, device="cuda")
    adaptive.observe(0, u, r)
    torch.cuda.set_sync_debug_mode("error")
    try:
        adaptive.observe(1, u, r)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    adaptive.proposal(2)
    adaptive.observe(2, u, r * torch.nan)
    with pytest.raises(ValueError, match="must be finite"):
        adaptive.proposal(3)


@pytest.mark.parametrize("proposal", ["uniform", "adaptive"])
def test_a_bf16_run_goes_through_and_resumes(small_config: MakeConfig, proposal: str) -> None:
    """With what an adaptive proposal has learned, too, which is loaded before the networks are moved."""
    words = (
        f"estimator.proposal={proposal}",
        "trainer.accelerator=cuda",
        "fid.every=2",
        "fid.images=64",
        "variance.every=3",
        "variance.pairs=3",
    )
    run = train(small_config(*words))
    rows = read_metrics(run / "metrics.csv")
    assert all(torch.tensor(list(r.values())).isfinite().all() for r in rows)
    longer = train(small_config(*words, "trainer.max_steps=8"), resume=True)
    assert longer == run
    assert read_metrics(run / "metrics.csv")[-1]["step"] == 8


def test_an_update_does_not_wait_for_the_device(small_config: MakeConfig) -> None:
    """A whole student update, fake-score updates included, under torch's synchronisation check."""

    fit_without_waiting(build_module(small_config(), load_images("digits")))


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_the_direction_in_mixed_precision(small_config: MakeConfig, precision: str, error: float) -> None:
    """Under autocast against the one outside, same draws: equal, or within 5 % where that is chosen."""
    module = build_module(small_config(f"dmd.residual_precision={precision}"), load_images("digits"))
    assert isinstance(module, DMDModule)
    module.to("cuda")
    with torch.no_grad():
        for i, p in enumerate(module.objective.fake.parameters()):
            p += 0.03 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).cuda()
    z, labels = module.objective.upstream_noise(16, stream(0, device="cuda"))
    x = module.objective.generate(module.objective.student, z, labels)
    draws = module.estimator.sampler.draw(16, 8, module.objective.shape, generator=stream(1, device="cuda"))
    with torch.autocast("cuda", torch.bfloat16):
        rough = average_residual(module.objective.residual(labels), x, draws)
    module.objective.options.residual_precision = "float32"
    exact = average_residual(module.objective.residual(labels), x, draws)
    assert (rough - exact).norm() < error * exact.norm()


@pytest.mark.parametrize(
    "words",
    [
        ("dmd.gan.student_weight=0.001", "dmd.gan.fake_weight=0.01"),
        (
            "dmd.gan.student_weight=0.001",
            "dmd.gan.fake_weight=1",
            "dmd.gan.features=teacher",
            "dmd.gan.scales=2",
            "dmd.gan.optimiser=own",
            "dmd.gan.r1_weight=1",
            "dmd.fake_loss=x0",
            "dmd.ema_beside=[0.5]",
            "dmd.clip_norm=1",
            "dmd.fake_clip_norm=1",
        ),
        ("dmd.global_batch=12", "estimator.proposal=adaptive"),
        ("teacher.precision=bfloat16",),
    ],
)
def test_updates_of_every_kind_do_not_wait(small_config: MakeConfig, words: tuple[str, ...]) -> None:
    """With a discriminator on real images, over three shares, and with the teacher in bfloat16."""
    fit_without_waiting(build_module(small_config(*words), load_images("digits")))


def test_a_full_device_halves_the_chunk(small_config: MakeConfig) -> None:
    """With little memory beyond what is held, 4,096 re-noisings do not go through at once; the direction is
    that of a device with room, to rounding."""
    module = build_module(small_config(), load_images("digits")).to("cuda")
    z, labels = module.objective.upstream_noise(64, stream(0, device="cuda"))
    with torch.no_grad():
        x = module.objective.generate(module.objective.student, z, labels)
    draws = module.estimator.sampler.draw(64, 64, module.objective.shape, generator=stream(1, device="cuda"))
    expected = average_residual(module.objective.residual(labels), x, draws, 256)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 64 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    chunk = Chunk()
    try:
        found = average_residual(module.objective.residual(labels), x, draws, chunk)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert chunk.rows is not None
    assert chunk.rows < 4096
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_update_is_close_to_an_eager_one(small_config: MakeConfig) -> None:
    """Losses of four updates, to 2 %."""
    losses = []
    for compiled in ("false", "true"):
        module = build_module(small_config(f"dmd.compile={compiled}"), load_images("digits"))
        fit_without_waiting(module)
        losses.append(torch.stack(list(module.latest_losses.values())))
    torch.testing.assert_close(*losses, rtol=0.02, atol=1e-3)
