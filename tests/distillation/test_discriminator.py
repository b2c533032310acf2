"""The discriminator on the fake score's features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.carv import stream, surrogate
from carv_distill.data.images import load_images
from carv_distill.distillation.building import build_module
from carv_distill.distillation.discriminator import (
    Discriminator,
    discriminator_loss,
    feature_shapes,
    generator_direction,
)
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.engine.optimisation import ParameterVector
from carv_distill.errors import UserError
from carv_distill.teachers.edm.networks import DhariwalUNet, SongUNet
from carv_distill.teachers.network import ImageNetwork
from carv_distill.teachers.teacher import raw_network
from tests.helpers.edm_networks import small
from tests.helpers.tiny_unet import tiny_unet
from tests.helpers.trainers import bare_trainer

MakeConfig = Callable[..., DMDConfig]
GAN = ("dmd.gan.student_weight=0.5", "dmd.gan.fake_weight=0.1")
FASTGEN = (
    *GAN,
    "dmd.gan.features=teacher",
    "dmd.gan.scales=2",
    "dmd.gan.optimiser=own",
    "dmd.gan.lr=1e-3",
    "dmd.gan.beta1=0.5",
    "dmd.fake_loss=x0",
)
FIRST = torch.zeros(1, dtype=torch.long)
R1 = (*GAN, "dmd.gan.r1_weight=10", "dmd.gan.r1_noise=0.2")
KINDS = [GAN, FASTGEN, R1]


def build(config: DMDConfig) -> DMDModule:
    return build_module(config, load_images("digits"))


@pytest.mark.parametrize("words", [GAN, FASTGEN])
def test_the_direction_is_the_gradient_by_the_samples(
    small_config: MakeConfig, words: tuple[str, ...]
) -> None:
    """Against one backward through generator and discriminator, float64: 1e-10; nothing else is touched."""
    module = build(small_config(*words)).double()
    head = module.objective.discriminator
    assert head is not None
    z, labels = module.objective.upstream_noise(3, stream("z"))
    sigma, eps = (
        torch.tensor([0.1, 1.0, 10.0]).double(),
        torch.randn(3, 1, 8, 8, generator=stream("e")).double(),
    )
    x = module.objective.generate(module.objective.student, z, labels)
    parameters = list(module.objective.student.parameters())
    read = module.objective.read
    assert read is (module.objective.fake if words == GAN else module.objective.teacher)
    joint = F.softplus(-head.logits(read, x, sigma, eps, labels)).mean()
    expected = torch.autograd.grad(joint, parameters, retain_graph=True)
    direction = generator_direction(read, head, x, sigma, eps, labels)
    found = torch.autograd.grad((x * direction).sum() / 3, parameters)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert max(float(g.abs().max()) for g in found) > 1e-6
    assert all(p.grad is None for p in [*module.objective.fake.parameters(), *head.parameters()])


def test_a_head_learns_to_tell_apart() -> None:
    """Features of mean −1 and +1: the loss falls from 2 ln 2 below 0.2; first weights follow the seed."""
    network = raw_network(tiny_unet())
    head, same, other = (Discriminator(network, FIRST, 1, seed) for seed in (0, 0, 1))
    assert torch.equal(head.heads[0][0].weight, same.heads[0][0].weight)
    assert not torch.equal(head.heads[0][0].weight, other.heads[0][0].weight)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    g = stream("features")
    losses = []
    for _ in range(60):
        fake, real = (torch.randn(32, 8, 4, 4, generator=g) + side for side in (-1, 1))
        loss = discriminator_loss(head([fake]), head([real]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2


@pytest.mark.parametrize(
    "words", [*KINDS, (*GAN, "dmd.fake_reuse=false"), (*FASTGEN, "teacher.precision=bfloat16")]
)
def test_an_update_with_a_discriminator_trains_head_and_student(
    small_config: MakeConfig, words: tuple[str, ...]
) -> None:
    module = build(small_config(*words))
    o = module.objective
    assert o.discriminator is not None

    def learning() -> list[Tensor]:
        last = [head[-1].weight for head in o.discriminator.heads]  # type: ignore[union-attr]
        return [p.detach().clone() for p in (*last, next(o.student.parameters()), next(o.fake.parameters()))]

    before = learning()
    bare_trainer(2).fit(module)
    assert all(not torch.equal(a, b) for a, b in zip(before, learning(), strict=True))
    assert {"fake", "student"} == set(module.latest_losses)
    assert 0 < module.metrics()["loss/discriminator"] < 10
    assert len(module.denoising) == module.options.fake_updates_per_student
    assert module.metrics()["loss/fake"] == torch.stack(module.denoising).mean()
    assert 0 < module.metrics()["loss/fake"] < module.latest_losses["fake"]


@pytest.mark.parametrize("words", [*(pytest.param(w, marks=pytest.mark.slow) for w in KINDS[:-1]), KINDS[-1]])
def test_one_process_that_accumulates_makes_the_discriminators_gradient_too(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Two shares of four against the mean of their losses, float64: the first gradients to 1e-10."""
    config = small_config(*words, "dmd.global_batch=8", "dmd.fake_updates_per_student=1")
    module = build(config)
    gradients: list[Tensor] = []
    collect = ParameterVector.collect_gradient

    def keep(vector: ParameterVector) -> None:
        collect(vector)
        gradients.append(vector.gradients[0].clone())

    monkeypatch.setattr(ParameterVector, "collect_gradient", keep)
    bare_trainer(1, "64-true").fit(module)

    other = build(config).double()
    images, labels = next(iter(other.train_dataloader()))
    losses = []
    for share in other.shares:
        part = slice(4 * share.index, 4 * share.index + 4)
        made = other.objective.student_samples(other.streams(share.index, 0, "samples", 0)[0])
        real = images[part].double(), labels[part]
        losses.append(other.objective.fake_loss(share, made, *other.streams(share.index, 0, "fake", 0), real))
    o = other.objective
    assert bool(o.head_parameters) is (words == FASTGEN)
    parameters = [*o.fake_parameters, *o.head_parameters]
    parts = torch.autograd.grad(
        torch.stack(losses).mean(), parameters, materialize_grads=True, allow_unused=True
    )
    found = torch.cat(gradients[: 1 + bool(o.head_parameters)])
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in parts]), rtol=0, atol=1e-10)


def test_a_student_term_without_a_discriminator_is_refused(small_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"dmd\.gan\.fake_weight: 0, but dmd\.gan\.student_weight is 0\.5"):
        build(small_config("dmd.gan.student_weight=0.5"))


# the published teachers' networks, by their constructors' arguments
CIFAR10 = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "label_dim": 10, "augment_dim": 9}
IMAGENET64 = {"img_resolution": 64, "in_channels": 3, "out_channels": 3, "label_dim": 1000}


@pytest.mark.parametrize(
    ("network", "scales", "parameters"),
    [
        (lambda: SongUNet(**CIFAR10, channel_mult=(2, 2, 2)), 3, 9_444_867),
        pytest.param(*(lambda: DhariwalUNet(**IMAGENET64), 1, 18_879_745), marks=pytest.mark.slow),
    ],
    ids=["FastGen on CIFAR-10", "FastGen and DMD2 on ImageNet-64"],
)
def test_the_heads_of_the_published_teachers(
    network: Callable[[], SongUNet | DhariwalUNet], scales: int, parameters: int
) -> None:
    """C channels at side s: log₂(s/4) + 1 convolutions of 16 C² + C with norms of 2 C, then C + 1.

    9.4 million at sides 32, 16, 8 of 256 channels, 18.9 million at side 8 of 768.
    """
    with torch.device("meta"):
        built = network()
    raw = raw_network(built.to_empty(device="cpu"))  # no first weights: only shapes are asked for
    shapes = feature_shapes(raw, FIRST)[:scales]
    found = sum(p.numel() for p in Discriminator(raw, FIRST, scales, 0).parameters())
    by_hand = sum((16 * c * c + 3 * c) * (s // 4).bit_length() + c + 1 for c, s in shapes)
    assert found == by_hand == parameters


@pytest.mark.parametrize("side", [1, 3, 4, 7, 8, 16, 20])
def test_a_head_takes_any_side(side: int) -> None:
    """One number for each picture, whatever the lowest side is."""

    class Network(torch.nn.Module):
        shape = 1, 8, 8

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encoder(self, x: Tensor, c_noise: Tensor, cond: Tensor) -> list[Tensor]:
            return [x.new_zeros(len(x), 8, side, side)]

    head = Discriminator(Network(), FIRST, 1, 0)  # type: ignore[arg-type]
    assert head([torch.randn(3, 8, side, side)]).shape == (3, 1)


def test_shapes_are_the_encoders() -> None:
    networks: list[ImageNetwork] = [raw_network(small("adm")), raw_network(tiny_unet(labels=4))]
    assert [feature_shapes(n, FIRST) for n in networks] == [[(128, 4), (64, 8)], [(8, 4), (8, 8)]]


def test_more_sides_than_there_are_is_refused(small_config: MakeConfig) -> None:
    with pytest.raises(
        UserError, match=r"dmd\.gan\.scales: 3, but the teacher's encoder has 2 \(sides 4, 8\)"
    ):
        build(small_config(*GAN, "dmd.gan.scales=3"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dmd.gan.r1_weight=1",), r"dmd\.gan\.fake_weight: 0, but dmd\.gan\.r1_weight is 1"),
        ((*GAN, "dmd.gan.lr=1e-4"), r"dmd\.gan\.lr: 0\.0001 is for dmd\.gan\.optimiser: own"),
        ((*GAN, "dmd.gan.beta2=0"), r"dmd\.gan\.beta2: 0 is for dmd\.gan\.optimiser: own"),
    ],
)
def test_what_does_not_go_together(small_config: MakeConfig, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        small_config(*words)


def test_a_frozen_teachers_features_teach_the_head_alone(small_config: MakeConfig) -> None:
    """The fake score's gradient is that of its denoising loss; read from the fake score it is not."""
    for words, alone in ((FASTGEN, True), ((*FASTGEN, "dmd.gan.features=fake"), False)):
        module = build(small_config(*words)).double()
        o, (share,) = module.objective, module.shares
        samples = o.student_samples(stream("samples"))
        real = o.student_samples(stream("real"))
        gradients = []
        for images in (None, real):
            loss = o.fake_loss(share, samples, stream("own"), stream("shared"), images)
            gradients.append(torch.autograd.grad(loss, o.fake_parameters[-1])[0])
            found = torch.autograd.grad(
                o.fake_loss(share, samples, stream("own"), stream("shared"), images),
                o.fake_parameters,
                allow_unused=True,
            )
            gradients[-1] = torch.cat([g.flatten() for g in found if g is not None])
        assert torch.equal(*gradients) is alone


def test_an_own_optimiser_has_its_own_rate_and_betas(small_config: MakeConfig) -> None:
    """They follow the fake score's schedule; without them the fake score's are taken."""
    module = build(small_config(*FASTGEN, "dmd.warmup=4"))
    trainer = bare_trainer(2)
    trainer.fit(module)
    _, fake, head = (o.param_groups[0] for o in trainer.optimizers)
    assert head["lr"] == pytest.approx(0.5e-3)
    assert head["betas"] == (0.5, module.options.beta2)
    assert fake["lr"] == pytest.approx(module.options.fake_lr / 2)
    assert trainer.global_step == 2
    assert {int(s["step"]) for s in trainer.optimizers[2].state.values()} == {4}
    plain = build(small_config(*GAN, "dmd.gan.optimiser=own"))
    assert plain.configure_optimizers()[2].param_groups[0]["lr"] == plain.options.fake_lr


def test_the_penalty_is_the_squared_change_under_a_little_noise(small_config: MakeConfig) -> None:
    """As s → 0 the penalty over s² tends to the mean of ‖∇h‖², which is R1: with s = 1e-4, by 64 noises of
    each of 4 pictures, within 4 standard errors."""
    module = build(small_config(*GAN)).double()
    o, head = module.objective, module.objective.discriminator
    assert head is not None
    x, labels = o.student_samples(stream("real"))
    sigma = torch.tensor([0.1, 0.5, 2.0, 8.0]).double()
    leaf = x.clone().requires_grad_()
    h = head.logits(o.read, leaf, sigma, torch.zeros_like(x), labels)
    (gradient,) = torch.autograd.grad(h.sum(), leaf)
    changes = []
    for i in range(64):
        eps = torch.randn(x.shape, generator=stream("near", i), dtype=x.dtype)
        changes.append(
            (head.logits(o.read, x + 1e-4 * eps, sigma, torch.zeros_like(x), labels) - h).square().mean()
            / 1e-8
        )
    found = torch.stack(changes).detach()
    exact = gradient.square().flatten(1).sum(1).mean()
    assert (found.mean() - exact).abs() < 4 * found.std() / 8


def clone(g: torch.Generator) -> torch.Generator:
    """One that draws the same from here on."""
    return torch.Generator().set_state(g.get_state())


def test_the_discriminators_loss_in_logits() -> None:
    """−log(1 − D) of what is generated and −log D of what is real, D = 1/(1 + e^(−h)), float64."""
    generated, real = (torch.randn(5, 2, generator=stream(name), dtype=torch.float64) for name in "ab")

    def right(h: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-h))

    expected = -torch.log(1 - right(generated)).mean() - torch.log(right(real)).mean()
    torch.testing.assert_close(discriminator_loss(generated, real), expected, rtol=0, atol=1e-14)
    assert discriminator_loss(torch.tensor(-3.0), torch.tensor(3.0)) < 0.1
    assert discriminator_loss(torch.tensor(3.0), torch.tensor(-3.0)) > 6


@pytest.mark.parametrize("words", [GAN, FASTGEN])
def test_what_is_added_to_the_students_loss(small_config: MakeConfig, words: tuple[str, ...]) -> None:
    """student_weight · C·H·W · (−log D), as the matching term is a sum over a picture's entries where the
    published settings have their mean: by the student's gradient, float64, 1e-10."""
    module = build(small_config(*words)).double()
    o, head = module.objective, module.objective.discriminator
    assert head is not None
    g = stream("upstream")
    upstream = o.pipeline()(4, g)
    assert upstream.push is not None
    again = clone(g)
    found = torch.autograd.grad(
        surrogate(upstream.x, upstream.push(g)), o.student_parameters, retain_graph=True
    )
    _, labels = o.upstream_noise(4, stream("upstream"))
    drawn = o.fake_sampler.draw(4, 1, upstream.x.shape[1:], again, 0, 1, dtype=upstream.x.dtype)
    h = head.logits(o.read, upstream.x, o.schedule.sigma(drawn.u[:, 0]), drawn.eps[:, 0], labels)
    loss = 0.5 * (1 * 8 * 8) * torch.log1p(torch.exp(-h)).mean()
    expected = torch.autograd.grad(loss, o.student_parameters)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert max(float(a.abs().max()) for a in expected) > 1e-4


@pytest.mark.parametrize("words", [R1, (*FASTGEN, "dmd.gan.r1_weight=10", "dmd.gan.r1_noise=0.2")])
def test_what_is_added_to_the_fake_scores_loss(small_config: MakeConfig, words: tuple[str, ...]) -> None:
    """fake_weight (log(1 + e^h) of samples + log(1 + e^−h) of real ones) + r1_weight (h(real + s ε) −
    h(real))², means of all, beside the denoising loss: float64, 1e-12, with each draw written out."""
    module = build(small_config(*words)).double()
    o, head, (share,) = module.objective, module.objective.discriminator, module.shares
    assert head is not None
    (x, labels), (real, of_real) = o.student_samples(stream("samples")), o.student_samples(stream("real"))
    real = real + 1.0  # tell-tale: the two may not be taken for each other
    own, shared = stream("own"), stream("shared")
    plain = o.fake_loss(share, (x, labels), own, shared)
    streams = clone(own), clone(shared)

    def level(of: Tensor) -> tuple[Tensor, Tensor]:
        drawn = o.fake_sampler.draw(
            len(of), 1, of.shape[1:], streams[0], share.index, share.count, shared=streams[1], dtype=of.dtype
        )
        return o.schedule.sigma(drawn.u[:, 0]), drawn.eps[:, 0]

    of_samples = head.logits(o.read, x, *level(x), labels)
    sigma, eps = level(real)
    h = head.logits(o.read, real, sigma, eps, of_real)
    near = torch.randn(real.shape, generator=streams[0], dtype=real.dtype)
    moved = head.logits(o.read, real + 0.2 * near, sigma, eps, of_real)
    told_apart = torch.log1p(torch.exp(of_samples)).mean() + torch.log1p(torch.exp(-h)).mean()
    expected = plain + 0.1 * told_apart + 10 * ((moved - h) ** 2).mean()
    found = o.fake_loss(share, (x, labels), stream("own"), stream("shared"), (real, of_real))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(o.latest_denoising, plain.detach())  # what is logged as its loss
    assert (of_samples.mean() - h.mean()).detach().abs() > 1e-4
    assert (moved - h).detach().square().mean() > 1e-6
