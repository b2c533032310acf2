"""The residual against its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, average_residual, stream, surrogate
from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.conditions import Labels
from carv_distill.distillation.objective import DMDObjective, dmd_residual
from carv_distill.distillation.options import DMDConfig
from carv_distill.errors import UserError
from carv_distill.teachers.condition import Cond
from carv_distill.teachers.denoiser import Denoiser, GaussianDenoiser
from carv_distill.teachers.schedule import EDMSchedule

MakeConfig = Callable[..., DMDConfig]


def moved(config: DMDConfig) -> DMDObjective:
    """With a fake score that has moved by a few percent of its weights."""
    objective = build_module(config, load_images("digits")).objective
    with torch.no_grad():
        for i, p in enumerate(objective.fake.parameters()):
            p.add_(0.01 * torch.randn(p.shape, generator=stream("moved", i)))
    return objective


@torch.no_grad()
def residual(objective: DMDObjective, u: Tensor | None = None) -> Tensor:
    """Of 64 draws on one-step samples."""
    z, labels = objective.upstream_noise(64, stream("z"))
    x = objective.generate(objective.student, z, labels)
    eps = torch.randn(x.shape, generator=stream("eps"))
    u = torch.linspace(0, 1, 65)[:-1] if u is None else u
    return objective.residual(labels)(x, u, eps, torch.arange(64))


def test_mixed_precision_leaves_the_residual_in_float32(small_config: MakeConfig) -> None:
    """Under bfloat16 autocast it is the one of float32, to the bit, though the networks round there."""
    objective = moved(small_config())
    z, labels = objective.upstream_noise(64, stream("z"))
    with torch.no_grad():
        x = objective.generate(objective.student, z, labels)
        drawn = (stream("eps"), torch.linspace(0, 1, 65)[:-1], torch.arange(64))
        eps = torch.randn(x.shape, generator=drawn[0])
        exact = objective.residual(labels)(x, drawn[1], eps, drawn[2])
        with torch.autocast("cpu", torch.bfloat16):
            mixed = objective.residual(labels)(x, drawn[1], eps, drawn[2])
            assert not torch.equal(objective.generate(objective.student, z, labels), x)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, exact)


@pytest.mark.slow
def test_a_residual_in_bfloat16_keeps_no_copy_of_the_network(small_config: MakeConfig) -> None:
    """Nor does the training's own autocast, in which it stands."""
    objective = moved(small_config("dmd.residual_precision=bfloat16"))
    kept: list[bool] = []
    hook = objective.fake.network.register_forward_pre_hook
    with (
        hook(lambda *_: kept.append(torch.is_autocast_cache_enabled())),
        torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
    ):
        residual(objective)
    assert kept == [False]


@pytest.mark.parametrize(
    "word",
    ["dmd.residual_precision=bfloat16", pytest.param("teacher.precision=bfloat16", marks=pytest.mark.slow)],
)
def test_bfloat16_by_choice_loses_a_part_of_it(small_config: MakeConfig, word: str) -> None:
    """Relative error of 64 draws between 1 and 30 %, whatever the trainer's precision is."""
    exact, rough = residual(moved(small_config())), residual(moved(small_config(word)))
    assert rough.dtype == torch.float32
    assert 0.01 < float((rough - exact).norm() / exact.norm()) < 0.3


@pytest.mark.parametrize("key", ["dmd.residual_precision", "teacher.precision"])
def test_bfloat16_does_not_go_with_float64(small_config: MakeConfig, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}: bfloat16 does not go with trainer\.precision: 64-true"):
        small_config(f"{key}=bfloat16", "trainer.precision=64-true")


def test_the_levels_of_the_matching_term_have_a_range(small_config: MakeConfig) -> None:
    """u of [0.02, 0.98] is 0.02 + 0.96 u of the whole schedule; the fake score's levels stay whole."""
    u = torch.linspace(0, 1, 65)[:-1]
    part = moved(small_config("dmd.t_min=0.02", "dmd.t_max=0.98"))
    whole = moved(small_config())
    assert torch.equal(residual(part, u), residual(whole, 0.02 + (0.98 - 0.02) * u))
    samples = whole.student_samples(stream("samples"))
    share = build_module(small_config(), load_images("digits")).shares[0]
    losses = [o.fake_loss(share, samples, stream("own"), stream("shared")) for o in (part, whole)]
    assert torch.equal(*losses)


def test_conditions_are_looked_up_once_for_an_update(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a student update with all its chunks and the discriminator's term; of all fake-score updates that
    reuse a set of samples one, and one more for the real images of each."""
    counts: list[int] = []
    gan = ("dmd.gan.fake_weight=0.1", "dmd.gan.student_weight=0.1")
    chunks = ("estimator.upstream=3", "estimator.draws=2", "estimator.chunk=1")
    module = build_module(small_config(*gan, *chunks), load_images("digits"))
    student, fake = module.configure_optimizers()
    forward = Labels.forward

    def counted(self: Labels, numbers: torch.Tensor) -> Cond:
        counts.append(len(numbers))
        return forward(self, numbers)

    monkeypatch.setattr(Labels, "forward", counted)
    module.student_update(student, 0)  # type: ignore[arg-type]
    assert counts == [3]
    o, batch = module.options, next(iter(module.train_dataloader()))
    counts.clear()
    module.fake_updates([fake], 0, batch)
    assert counts == [o.fake_batch] * (1 + o.fake_updates_per_student)


def test_a_range_without_levels_is_refused(small_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"dmd\.t_min: 0\.5 is not below dmd\.t_max, 0\.5"):
        small_config("dmd.t_min=0.5", "dmd.t_max=0.5")


def test_the_fake_scores_two_losses_have_other_gradients(small_config: MakeConfig) -> None:
    """The plain error weighs large levels, the weighted one small ones: cosine of the gradients below 0.9."""
    gradients = []
    for loss in ("weighted", "x0"):
        objective = moved(small_config(f"dmd.fake_loss={loss}"))
        share = build_module(small_config(), load_images("digits")).shares[0]
        samples = objective.student_samples(stream("samples"))
        value = objective.fake_loss(share, samples, stream("own"), stream("shared"))
        parts = torch.autograd.grad(value, objective.fake_parameters, allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in parts if g is not None]))
    assert 0 < float(torch.cosine_similarity(*gradients, dim=0)) < 0.9


def gaussians() -> tuple[GaussianDenoiser, GaussianDenoiser]:
    fake = GaussianDenoiser(torch.full((1, 2, 2), 0.3, dtype=torch.float64), torch.tensor(0.5))
    teacher = GaussianDenoiser(torch.full((1, 2, 2), -0.2, dtype=torch.float64), torch.tensor(0.25))
    return fake, teacher


def test_each_draw_is_normalised_by_its_own_divisor() -> None:
    """A row's residual is (D_fake − D_teacher)/(mean|x − D_teacher| + 1e-6), whatever the other rows are."""
    fake, teacher = gaussians()
    g = stream(0, "losses")
    x = torch.randn(6, 1, 2, 2, generator=g, dtype=torch.float64)
    eps = torch.randn(6, 1, 2, 2, generator=g, dtype=torch.float64)
    sigma = torch.tensor([0.02, 0.1, 0.5, 1, 5, 20], dtype=torch.float64)
    together = dmd_residual(fake, teacher, x, sigma, eps, None)
    for i in range(6):
        x_t = x[i] + sigma[i] * eps[i]
        d_fake = (sigma[i] ** 2 * 0.3 + 0.5 * x_t) / (0.5 + sigma[i] ** 2)
        d_teacher = (sigma[i] ** 2 * -0.2 + 0.25 * x_t) / (0.25 + sigma[i] ** 2)
        expected = (d_fake - d_teacher) / ((x[i] - d_teacher).abs().mean() + 1e-6)
        torch.testing.assert_close(together[i], expected, rtol=1e-12, atol=1e-12)


def test_equal_scores_give_no_gradient() -> None:
    """At D_fake = D_teacher the residual is exactly zero, at every noise level."""
    _, teacher = gaussians()
    x = torch.randn(3, 1, 2, 2, generator=stream(1), dtype=torch.float64)
    sigma = torch.tensor([1e-3, 1.0, 80.0], dtype=torch.float64)
    assert not dmd_residual(teacher, teacher, x, sigma, torch.ones_like(x), None).any()


def test_descent_carries_the_student_to_the_teacher() -> None:
    """A Gaussian student with its exact fake score: SGD takes its mean from −1 to the teacher's 1.

    The mean of the last 200 iterates is within 4 standard errors (from batch means) of 1.
    """
    shape = (1, 2, 2)
    teacher = GaussianDenoiser(torch.ones(shape, dtype=torch.float64), torch.tensor(0.25))
    sampler = NoiseLevelSampler(Proposal.uniform(), "stratified")
    schedule = EDMSchedule(0.02, 20.0)
    mean = torch.full(shape, -1.0, dtype=torch.float64, requires_grad=True)
    trace = []
    for step in range(400):
        g = stream(2, step)
        x = mean + 0.5 * torch.randn(8, *shape, generator=g, dtype=torch.float64)
        fake = GaussianDenoiser(mean.detach(), torch.tensor(0.25))

        def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor, fake: Denoiser = fake) -> Tensor:
            return dmd_residual(fake, teacher, x, schedule.sigma(u), eps, None)

        draws = sampler.draw(8, 4, shape, generator=g, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(surrogate(x, average_residual(residual, x, draws)), mean)
        with torch.no_grad():
            mean -= 0.05 * gradient
        trace.append(mean.detach().mean())
    batches = torch.stack(trace[-200:]).view(10, 20).mean(1)
    assert (batches.mean() - 1).abs() < 4 * batches.std() / 10**0.5 + 1e-3
