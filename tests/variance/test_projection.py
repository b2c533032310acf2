"""The count sketch."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import stream
from carv_distill.variance import CountSketch
from carv_distill.variance import projection as projection_module


def test_squared_norms_are_kept_in_expectation() -> None:
    """Over 2,000 seeds at m = 16: mean within 4 SE of ‖g‖², variance at most 2‖g‖⁴/m, within
    4 SE of the mean squared deviation.
    """
    g = torch.randn(50, generator=stream("g"), dtype=torch.float64)
    norm = g.square().sum()
    found = torch.stack([CountSketch(16, seed)(g).square().sum() for seed in range(2000)])
    assert abs(found.mean() - norm) < 4 * found.std() / 2000**0.5
    spread = (found - norm).square()
    assert spread.mean() < 2 * norm**2 / 16 + 4 * spread.std() / 2000**0.5


def test_inner_products_are_kept_in_expectation() -> None:
    """Over 2,000 seeds at m = 16, d = 50: mean within 4 SE of ⟨x, y⟩ and variance within
    (‖x‖²‖y‖² + ⟨|x|, |y|⟩²)/m, within 4 SE of the mean squared deviation.
    """
    x, y = torch.randn(2, 50, generator=stream("xy"), dtype=torch.float64)
    both = torch.stack([x, y])
    found = torch.stack([CountSketch(16, seed)(both).prod(0).sum() for seed in range(2000)])
    bound = (x.square().sum() * y.square().sum() + (x * y).abs().sum().square()) / 16
    assert abs(found.mean() - x @ y) < 4 * found.std() / 2000**0.5
    spread = (found - x @ y).square()
    assert spread.mean() < bound + 4 * spread.std() / 2000**0.5


def test_two_coordinates_of_different_blocks_meet_once_in_m() -> None:
    """Over 2,000 seeds at m = 8: 1/m within 4 SE, with signs that agree in half; those of one block never."""
    unit = torch.eye(20, dtype=torch.float64)[[1, 4, 17]]
    found = torch.stack([CountSketch(8, seed)(unit) for seed in range(2000)])
    one, other, last = found.unbind(1)
    assert not (one * other).any()
    product = (one * last).sum(1)
    share = product.square().mean()
    assert abs(share - 1 / 8) < 4 * (1 / 8 * 7 / 8 / 2000) ** 0.5
    assert abs(product.mean()) < 4 * (1 / 8 / 2000) ** 0.5


@pytest.mark.parametrize("d", [5, 8, 40, 43])
def test_it_is_linear_and_the_same_at_every_call(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    """Also for fewer coordinates than buckets, and a last block that is not full."""
    monkeypatch.setattr(projection_module, "BLOCK", 16)
    a, b = torch.randn(2, d, generator=stream("ab"), dtype=torch.float64)
    sketch = CountSketch(8, seed=3)
    torch.testing.assert_close(sketch(a + 2 * b), sketch(a) + 2 * sketch(b), rtol=0, atol=1e-12)
    assert torch.equal(sketch(a), CountSketch(8, seed=3)(a))
    assert not torch.equal(sketch(a), CountSketch(8, seed=4)(a))
    if d <= 8:
        torch.testing.assert_close(sketch(a).square().sum(), a.square().sum())


def test_leading_dimensions_are_vectors() -> None:
    x = torch.randn(2, 3, 100, generator=stream("rows"), dtype=torch.float64)
    sketch = CountSketch(16)
    rows = torch.stack([sketch(row) for row in x.flatten(0, 1)]).view(2, 3, 16)
    assert torch.equal(sketch(x), rows)
    assert torch.equal(sketch(x.movedim(1, 0)), rows.movedim(1, 0))
    assert sketch(x[:0]).shape == (0, 3, 16)


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 0.0), (torch.float32, 1e-6), (torch.bfloat16, 2**-9)]
)
def test_sums_are_of_float32_at_least(dtype: torch.dtype, error: float) -> None:
    """What bfloat16 loses is its own rounding alone: 2⁻⁹ of each number, and so of the norm."""
    x = torch.randn(4, 10_000, generator=stream("types"), dtype=torch.float64)
    exact, found = CountSketch(8)(x), CountSketch(8)(x.to(dtype))
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert (found - exact).norm() <= error * x.norm()


def test_the_way_for_a_gpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 1003, generator=stream("gpu"), dtype=torch.float64)
    monkeypatch.setattr(projection_module, "BLOCK", 256)
    slices = CountSketch(16)(x)
    monkeypatch.setattr(projection_module, "_add_slices", projection_module._add_gathered)
    torch.testing.assert_close(CountSketch(16)(x), slices, rtol=0, atol=1e-12)


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        CountSketch(0)
