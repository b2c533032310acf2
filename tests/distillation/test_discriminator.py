"""The discriminator on the fake score's features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from carv_distill.carv import stream
from carv_distill.data.images import load_images
from carv_distill.distillation.discriminator import Discriminator, discriminator_loss, generator_direction
from carv_distill.distillation.module import DMDModule
from carv_distill.distillation.options import DMDConfig
from carv_distill.distillation.preparation import build_module
from carv_distill.errors import UserError
from tests.helpers.trainers import bare_trainer

MakeConfig = Callable[..., DMDConfig]
GAN = ("dmd.gan.student_weight=0.5", "dmd.gan.fake_weight=0.1")


def build(config: DMDConfig) -> DMDModule:
    return build_module(config, load_images("digits"))


def test_the_direction_is_the_gradient_by_the_samples(small_config: MakeConfig) -> None:
    """Against one backward through generator and discriminator, float64: 1e-10; nothing else is touched."""
    module = build(small_config(*GAN)).double()
    head = module.objective.discriminator
    assert head is not None
    z, labels = module.objective.upstream_noise(3, stream("z"))
    sigma, eps = (
        torch.tensor([0.1, 1.0, 10.0]).double(),
        torch.randn(3, 1, 8, 8, generator=stream("e")).double(),
    )
    x = module.objective.generate(module.objective.student, z, labels)
    parameters = list(module.objective.student.parameters())
    joint = F.softplus(-head.logits(module.objective.fake, x, sigma, eps, labels)).mean()
    expected = torch.autograd.grad(joint, parameters, retain_graph=True)
    direction = generator_direction(module.objective.fake, head, x, sigma, eps, labels)
    found = torch.autograd.grad((x * direction).sum() / 3, parameters)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert max(float(g.abs().max()) for g in found) > 1e-6
    assert all(p.grad is None for p in [*module.objective.fake.parameters(), *head.parameters()])


def test_a_head_learns_to_tell_apart() -> None:
    """Features of mean −1 and +1: the loss falls from 2 ln 2 below 0.2; first weights follow the seed."""
    head, same, other = Discriminator(8, 0), Discriminator(8, 0), Discriminator(8, 1)
    assert torch.equal(head.reduce.weight, same.reduce.weight)
    assert not torch.equal(head.reduce.weight, other.reduce.weight)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    g = stream("features")
    losses = []
    for _ in range(60):
        fake, real = (torch.randn(32, 8, 4, 4, generator=g) + side for side in (-1, 1))
        loss = discriminator_loss(head(fake), head(real))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2


@pytest.mark.parametrize("reuse", ["true", "false"])
def test_an_update_with_a_discriminator_trains_head_and_student(small_config: MakeConfig, reuse: str) -> None:
    module = build(small_config(*GAN, f"dmd.fake_reuse={reuse}"))
    assert module.objective.discriminator is not None
    before = [
        p.clone()
        for p in (module.objective.discriminator.out.weight, next(module.objective.student.parameters()))
    ]
    bare_trainer(2).fit(module)
    after = [module.objective.discriminator.out.weight, next(module.objective.student.parameters())]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {"fake", "student"} == set(module.latest_losses)
    assert 0 < module.metrics()["loss/discriminator"] < 10


def test_one_process_that_accumulates_makes_the_discriminators_gradient_too(small_config: MakeConfig) -> None:
    """Two shares of four against the mean of their losses, float64: the first gradient to 1e-10."""
    config = small_config(*GAN, "dmd.global_batch=8", "dmd.fake_updates_per_student=1")
    module = build(config)
    gradients: list[Tensor] = []
    collect = module._collect

    def keep(vector: object) -> None:
        collect(vector)  # type: ignore[arg-type]
        gradients.append(vector.theta.grad.clone())  # type: ignore[attr-defined]

    module._collect = keep  # type: ignore[method-assign]
    bare_trainer(1, "64-true").fit(module)

    other = build(config).double()
    images, labels = next(iter(other.train_dataloader()))
    losses = []
    for share in other.shares:
        part = slice(4 * share.index, 4 * share.index + 4)
        made = other.objective.student_samples(other.streams(share.index, 0, "samples", 0)[0])
        real = images[part].double(), labels[part]
        losses.append(other.objective.fake_loss(share, made, *other.streams(share.index, 0, "fake", 0), real))
    parts = torch.autograd.grad(
        torch.stack(losses).mean(), other.objective.fake_parameters, materialize_grads=True, allow_unused=True
    )
    torch.testing.assert_close(gradients[0], torch.cat([g.flatten() for g in parts]), rtol=0, atol=1e-10)


def test_a_student_term_without_a_discriminator_is_refused(small_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"dmd\.gan\.fake_weight: 0, but dmd\.gan\.student_weight is 0\.5"):
        build(small_config("dmd.gan.student_weight=0.5"))
