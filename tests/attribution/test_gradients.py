"""Per-sample gradients against loops of backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from carv_distill.attribution.gradients import attribution_pipeline, sample_features
from carv_distill.attribution.pilot import pilot_sampler
from carv_distill.attribution.projection import build_projector
from carv_distill.attribution.vmapped import VmapGradients
from carv_distill.carv import Draws, NoiseLevelSampler, Proposal, stream
from carv_distill.errors import UserError
from carv_distill.teachers.denoiser import NetworkDenoiser
from carv_distill.teachers.network import UNetNetwork
from carv_distill.teachers.parametrisation import EDMPreconditioning
from carv_distill.teachers.pipelines.teacher import load_text_teacher
from carv_distill.teachers.schedule import EDMSchedule
from carv_distill.variance import NoiseLevelProfile, VarianceBudget
from tests.helpers.linear import SCHEDULE, Linear, Plain, linear_gradients, mean_gradient
from tests.helpers.linear_gaussian import holds
from tests.helpers.tiny_latent import save_tiny_pipeline
from tests.helpers.tiny_unet import tiny_unet

SAMPLER = NoiseLevelSampler(Proposal.from_weights(torch.tensor([1.0, 2.0, 3.0]), 0.1), "stratified")
PLAIN = build_projector("none", 1, 0)
X = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8], [0.9, 0.1, 0.1]], dtype=torch.float64)


def unet_gradients(dtype: torch.dtype = torch.float64, **options: object) -> VmapGradients:
    unet = tiny_unet(labels=5, add_attention=True, attention_head_dim=4).to(dtype).eval()
    denoiser = NetworkDenoiser(UNetNetwork(unet), EDMPreconditioning()).requires_grad_(False)
    return VmapGradients(denoiser, EDMSchedule(0.05, 5.0), **options)  # type: ignore[arg-type]


def batch(n: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = stream("batch")
    return torch.randn(n, 1, 8, 8, generator=g, dtype=dtype), torch.randint(5, (n,), generator=g)


def draws_of(
    shape: tuple[int, ...], groups: int = 2, each: int = 3, dtype: torch.dtype = torch.float64
) -> Draws:
    return SAMPLER.draw(groups, each, shape, stream("draws"), dtype=dtype)


def loop(gradients: VmapGradients, x: Tensor, cond: Tensor | None, draws: Draws, group: int) -> Tensor:
    """One backward() for each sample and draw, then the weighted mean over draws."""
    denoiser = gradients.loss.denoiser
    parameters = dict(denoiser.network.named_parameters())
    wanted = [parameters[n] for n in gradients.loss.chosen]
    for p in wanted:
        p.requires_grad_(True)
    rows = []
    for i in range(len(x)):
        total: Tensor | float = 0.0
        for u, weight, eps in zip(draws.u[group], draws.weight[group], draws.eps[group], strict=True):
            sigma = gradients.loss.schedule.sigma(u[None])
            c = denoiser.precondition(sigma)
            x_t = x[i] + sigma * eps
            label = None if cond is None else cond[i : i + 1]
            error = denoiser(x_t[None], sigma, label)[0] - x[i]
            loss = weight * (error / c.out).square().mean()
            for p in wanted:
                p.grad = None
            loss.backward()
            flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
            total = total + torch.cat([g.flatten() for g in flat]) / len(draws.u[group])
        assert isinstance(total, Tensor)
        rows.append(total)
    denoiser.requires_grad_(False)
    return torch.stack(rows)


def test_equal_to_a_loop_of_backward() -> None:
    """With attention, labels and importance weights; float64: to rounding, float32: to 1e-5 of the norm."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        gradients, (x, labels) = unet_gradients(dtype), batch(dtype=dtype)
        draws = draws_of((1, 8, 8), dtype=dtype)
        found = gradients(x, labels, draws.u[0], draws.weight[0], draws.eps[0])
        expected = loop(gradients, x, labels, draws, 0)
        assert found.dtype == dtype
        assert ((found - expected).norm(dim=1) < tolerance * expected.norm(dim=1)).all()
        apart = gradients.of_draws(x, labels, draws.u[0], draws.eps[0])
        one = [gradients(x[i : i + 1], labels[i : i + 1], draws.u[0, i : i + 1], torch.ones(1, dtype=dtype),
                         draws.eps[0, i : i + 1]) for i in range(3)]  # fmt: skip
        assert (apart - torch.cat(one)).norm() < tolerance * apart.norm()


def test_a_text_to_image_teacher_and_one_without_conditions(tmp_path: Path) -> None:
    teacher = load_text_teacher(save_tiny_pipeline(tmp_path)).double()
    gradients = VmapGradients(teacher.denoiser, teacher.schedule)
    x = torch.randn(2, 4, 4, 4, generator=stream("latents"), dtype=torch.float64)
    cond = teacher.prompts(["a red torus", "a blue cube"]).to(torch.float64)
    draws = draws_of((4, 4, 4))
    found = gradients(x, cond, draws.u[0], draws.weight[0], draws.eps[0])
    assert torch.allclose(found, loop(gradients, x, cond, draws, 0), rtol=1e-9, atol=1e-12)

    unet = tiny_unet().double().eval()
    denoiser = NetworkDenoiser(UNetNetwork(unet), EDMPreconditioning()).requires_grad_(False)
    gradients = VmapGradients(denoiser, EDMSchedule(0.05, 5.0))
    images, _ = batch()
    draws = draws_of((1, 8, 8))
    found = gradients(images, None, draws.u[1], draws.weight[1], draws.eps[1])
    assert torch.allclose(found, loop(gradients, images, None, draws, 1), rtol=1e-9, atol=1e-12)


class Video(nn.Module):
    """A convolution over time and space."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 3, padding=1).double()

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None) -> Tensor:
        return self.conv(x) * c_noise.view(-1, 1, 1, 1, 1)


def test_latents_of_a_video() -> None:
    gradients = VmapGradients(NetworkDenoiser(Video(), EDMPreconditioning()), EDMSchedule(0.05, 5.0))
    x = torch.randn(2, 2, 3, 4, 5, generator=stream("video"), dtype=torch.float64)
    draws = draws_of((2, 3, 4, 5))
    found = gradients(x, None, draws.u[0], draws.weight[0], draws.eps[0])
    assert torch.allclose(found, loop(gradients, x, None, draws, 0), rtol=1e-10, atol=1e-13)


def test_some_parameters_by_pattern() -> None:
    everything, some = unet_gradients(), unet_gradients(patterns=["*conv_in*", "*mid_block*"])
    assert 0 < some.loss.layout.dimension < everything.loss.layout.dimension
    assert all("conv_in" in n or "mid_block" in n for n in some.loss.chosen)
    x, labels = batch()
    draws = draws_of((1, 8, 8))
    arguments = (x, labels, draws.u[0], draws.weight[0], draws.eps[0])
    sizes = dict(everything.loss.denoiser.network.named_parameters())
    parts = dict(
        zip(
            everything.loss.chosen,
            everything(*arguments).split([sizes[n].numel() for n in everything.loss.chosen], 1),
            strict=True,
        )
    )
    assert torch.allclose(some(*arguments), torch.cat([parts[n] for n in some.loss.chosen], 1), rtol=1e-10)
    with pytest.raises(UserError, match=r"--parameters: '\*conv_inn\*' matches none of the \d+ parameters"):
        unet_gradients(patterns=["*conv_inn*"])


def test_no_parameters_are_one_line() -> None:
    """A network without any, no pattern at all: found before a gradient, or a device, is asked for."""
    empty = NetworkDenoiser(nn.Identity(), Plain())
    with pytest.raises(UserError, match=r"^--parameters: the network has no parameters"):
        VmapGradients(empty, SCHEDULE)
    with pytest.raises(UserError, match=r"^--parameters: no pattern was given .*allowed: names as weight"):
        VmapGradients(NetworkDenoiser(Linear(torch.eye(3)), Plain()), SCHEDULE, ())


def test_a_pilots_gradient_that_is_not_finite_is_named() -> None:
    """The pilot runs before any feature is written: of three training samples the last holds infinity."""
    x = torch.ones(3, 3, dtype=torch.float64)
    x[2, 0] = torch.inf
    pipeline = attribution_pipeline(linear_gradients(), build_projector("none", 1), x, None, chunk=4)
    with pytest.raises(UserError, match=r"^training sample 2: its gradient holds NaN or infinity$"):
        pilot_sampler(pipeline, 4, 0, torch.device("cpu"))


def test_features_do_not_depend_on_the_chunk() -> None:
    gradients, (x, labels) = unet_gradients(), batch(5)
    draws = draws_of((1, 8, 8))
    projector = build_projector("countsketch", 50, 3)
    whole = sample_features(gradients, projector, x, labels, draws, chunk=5)
    assert whole.shape == (5, 2, 50)
    assert torch.allclose(sample_features(gradients, projector, x, labels, draws, chunk=2), whole, atol=1e-6)
    layout = gradients.loss.layout
    one = gradients(x[3:4], labels[3:4], draws.u[1], draws.weight[1], draws.eps[1])
    total = projector.begin(layout, 1)
    for name, part in zip(layout.sizes, one.split([*layout.sizes.values()], 1), strict=True):
        total.add(name, part)
    assert torch.allclose(whole[3, 1], total.features()[0].float(), atol=1e-6)


def test_the_mean_of_normalised_draws() -> None:
    gradients, (x, labels) = unet_gradients(), batch(2)
    draws = draws_of((1, 8, 8), groups=1)
    found = sample_features(gradients, PLAIN, x, labels, draws, 2, normalise_draws=True)[:, 0]
    expected = torch.zeros_like(found, dtype=torch.float64)
    for k in range(3):
        one = torch.ones(1, dtype=torch.float64)
        g = gradients(x, labels, draws.u[0, k : k + 1], one, draws.eps[0, k : k + 1])
        expected += draws.weight[0, k] * g / g.norm(dim=1, keepdim=True) / 3
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_a_zero_gradient_cannot_be_normalised() -> None:
    gradients = linear_gradients()
    for parameter in gradients.loss.chosen.values():
        parameter.data.zero_()
    x = torch.ones(2, 3, dtype=torch.float64)
    x[1] = 0  # D = 0 is right there
    draws = draws_of((3,), groups=1, each=1)
    with pytest.raises(UserError, match="sample 1: a draw's gradient is zero"):
        sample_features(gradients, PLAIN, x, None, draws, 2, normalise_draws=True)


def test_bf16_is_near_and_gradients_stay_float32() -> None:
    x, labels = batch(dtype=torch.float32)
    draws = draws_of((1, 8, 8), dtype=torch.float32)
    arguments = (x, labels, draws.u[0], draws.weight[0], draws.eps[0])
    exact, near = (
        unet_gradients(torch.float32)(*arguments),
        unet_gradients(torch.float32, precision="bf16")(*arguments),
    )
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert (torch.cosine_similarity(near, exact) > 0.995).all()


def test_losses_are_those_that_are_differentiated() -> None:
    """A step against the gradient lowers the loss by step · ‖g‖² to first order."""
    gradients, (x, labels) = unet_gradients(), batch(2)
    draws = draws_of((1, 8, 8))
    arguments = (x, labels, draws.u[0], draws.weight[0], draws.eps[0])
    g, before = gradients(*arguments)[0], gradients.loss.of_samples(*arguments)
    start = 0
    for p in gradients.loss.denoiser.network.parameters():
        p.data -= 1e-7 * g[start : start + p.numel()].view_as(p)
        start += p.numel()
    drop = (before - gradients.loss.of_samples(*arguments))[0]
    assert torch.isclose(drop, 1e-7 * g.square().sum(), rtol=1e-3)


def test_mean_over_draws_is_the_exact_gradient() -> None:
    """20,000 stratified draws of a linear denoiser against the closed form, within 4 SE."""
    gradients = linear_gradients()
    x = torch.randn(2, 3, generator=stream("x"), dtype=torch.float64)
    means = []
    for group in range(20):
        draws = SAMPLER.draw(1, 1000, (3,), stream("exact", group), dtype=torch.float64)
        means.append(gradients(x, None, draws.u[0], draws.weight[0], draws.eps[0]))
    found = torch.stack(means)
    error = found.mean(0) - mean_gradient(gradients, x)
    assert (error.abs() < 4 * found.std(0) / 20**0.5).all()


def pipeline_of(dim: int = 3):  # type: ignore[no-untyped-def]
    gradients = linear_gradients(dim)
    return gradients, attribution_pipeline(gradients, build_projector("none", 1, 0), X, None, chunk=5)


def test_the_budget_of_a_linear_denoiser() -> None:
    """Between: the spread of the exact mean gradients over the training set. Level: E g given u is a constant
    plus 2/D σ(u)² W, so tr Var_u = (2/D)² ‖W‖² Var σ²."""
    gradients, pipeline = pipeline_of()
    budget = VarianceBudget.measure(pipeline, (), stream("budget"), upstreams=250, levels=4, noises=4)
    mean = mean_gradient(gradients, X)
    between = (mean - mean.mean(0)).square().sum(1).mean()
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    weight = next(iter(gradients.loss.chosen.values()))
    level = (2 / 3) ** 2 * weight.square().sum() * SCHEDULE.sigma(u).square().var()
    for estimate, truth in ((budget.between, between), (budget.within_level, level)):
        assert abs(estimate.value - truth) < 4 * estimate.se
    assert budget.within_noise.value > 0
    assert holds(budget.total, float(budget.between.value + budget.within.value))


def test_the_profile_of_antithetic_pairs() -> None:
    """g(ε) = even + odd at each level: pairs keep twice the even part. Where W = 0 the gradient is
    −2/D x (x + σ ε)ᵀ, whose noise is odd: pairs leave nothing, and q ∝ √E‖g‖² is as without them."""
    gradients, pipeline = pipeline_of()
    for p in gradients.loss.chosen.values():
        p.data.zero_()
    plain, paired = (
        NoiseLevelProfile.measure(pipeline, (), stream("profile"), 4, 200, noise=noise)
        for noise in ("iid", "antithetic")
    )
    assert (paired.noise_variance < 1e-25).all()
    sigma = SCHEDULE.sigma((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).view(4, -1)
    square = X.square().sum(1).mean()
    fourth = X.square().sum(1).square().mean()
    noise = (2 / 3) ** 2 * square * 3 * sigma.square().mean(1)
    second = noise + (2 / 3) ** 2 * fourth
    assert ((plain.noise_variance - noise).abs() < 4 * plain.noise_variance_se).all()
    for found in (plain, paired):
        assert ((found.second_moment - second).abs() < 4 * found.second_moment_se).all()
