"""Random pictures of a render: what they are, their pull-back, and that they leave the mean alone."""

from __future__ import annotations

import torch
from torch import Tensor

from carv_distill.carv import NoiseLevelSampler, Proposal, Upstream, average_residual, carv_loss, stream
from carv_distill.text_to_3d.composition import EXTRA, compose, composed

SIZE = 6


def renders(count: int, seed: int = 0) -> Tensor:
    """Colours times opacity, and opacity, float64."""
    g = torch.Generator().manual_seed(seed)
    colour, opacity = (torch.rand(count, c, SIZE, SIZE, generator=g, dtype=torch.float64) for c in (3, 1))
    return torch.cat([colour * opacity, opacity], 1)


def extra(count: int, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, EXTRA, SIZE, SIZE, generator=g, dtype=torch.float64)


def test_an_opaque_render_hides_the_background_and_an_empty_one_is_it() -> None:
    x = renders(64)
    x[:32, :3], x[:32, 3] = x[:32, :3] / x[:32, 3:], 1
    x[32:] = 0
    picture = compose(x, extra(64))
    shown = (picture.image + 1) / 2
    torch.testing.assert_close(shown[32:], picture.behind[32:])
    for row, colours in zip(shown[:32], x[:32, :3], strict=True):  # an order of the colours, or its inverse
        found = [c for channel in row for c, own in enumerate(colours) if torch.allclose(channel, own)]
        inverse = [c for channel in row for c, own in enumerate(colours) if torch.allclose(channel, 1 - own)]
        assert sorted(found or inverse) == [0, 1, 2]


def test_every_order_and_sign_comes_as_often_as_it_should() -> None:
    n = 24_000
    picture = compose(torch.zeros(n, 4, 3, 3), torch.randn(n, EXTRA, 3, 3, generator=stream(0)))
    kinds = picture.back[:, 0] * 6 + picture.back[:, 1] * 2 + (picture.sign.flatten() < 0)
    counts = kinds.unique(return_counts=True)[1]
    assert len(counts) == 12
    se = (n * (1 / 12) * (11 / 12)) ** 0.5
    assert (counts - n / 12).abs().max() < 4 * se
    assert 0 <= picture.behind.min() <= picture.behind.max() <= 1


def test_the_pull_back_is_the_transposed_derivative() -> None:
    x, numbers = renders(12).requires_grad_(), extra(12)
    picture = compose(x, numbers)
    residual = torch.randn(picture.image.shape, generator=stream(2), dtype=torch.float64)
    (expected,) = torch.autograd.grad(picture.image, x, residual)
    torch.testing.assert_close(picture.pulled(residual), expected, rtol=0, atol=1e-14)


def test_a_picture_per_draw_and_per_render_have_one_mean() -> None:
    """A residual that is linear in the picture; 4 standard errors, which the test computes."""
    x = renders(1)

    def residual(p: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        return p * p + 0.1 * eps

    def directions(per_render: bool, count: int) -> Tensor:
        sampler, found = NoiseLevelSampler(Proposal.uniform()), []
        channels = 3 if per_render else 3 + EXTRA
        for i in range(count):
            one = torch.randn(1, EXTRA, SIZE, SIZE, generator=stream(i, 3), dtype=torch.float64)
            drawn = sampler.draw(1, 4, (channels, SIZE, SIZE), generator=stream(i), dtype=x.dtype)
            found.append(
                average_residual(composed(residual, one if per_render else None), x, drawn).flatten()
            )
        return torch.stack(found)

    by_render, by_draw = directions(True, 800), directions(False, 800)
    apart = by_render.mean(0) - by_draw.mean(0)
    se = ((by_render.var(0) + by_draw.var(0)) / 800).sqrt()
    assert (apart / se).abs().max() < 4.5  # of 144 entries
    assert by_draw.var(0).sum() < 0.4 * by_render.var(0).sum()  # ¼ and a little noise


def test_a_draw_may_be_larger_than_x() -> None:
    x = renders(2).requires_grad_()
    upstream = Upstream(x, composed(lambda p, u, eps, index: p + eps), noise=(3 + EXTRA, SIZE, SIZE))
    assert upstream.noise_shape == (3 + EXTRA, SIZE, SIZE)
    sampler = NoiseLevelSampler(Proposal.uniform())
    drawn = sampler.draw(2, 3, upstream.noise_shape, generator=stream(0), dtype=x.dtype)
    loss, direction = carv_loss(upstream, drawn, stream(1), chunk=2)
    assert direction.shape == x.shape
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, direction / 2)
    assert Upstream(x, upstream.residual).noise_shape == (4, SIZE, SIZE)
