"""The count sketch."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv import CountSketch, stream
from carv_distill.carv import projection as projection_module


def test_squared_norms_are_kept_in_expectation() -> None:
    """Over 2,000 seeds at m = 16: mean within 4 SE of ‖g‖², variance at most 2‖g‖⁴/m, to 10 %."""
    g = torch.randn(50, generator=stream("g"), dtype=torch.float64)
    norm = g.square().sum()
    found = torch.stack([CountSketch(16, seed)(g).square().sum() for seed in range(2000)])
    assert abs(found.mean() - norm) < 4 * found.std() / 2000**0.5
    assert found.var() < 2.2 * norm**2 / 16


def test_it_is_linear_and_the_same_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_module, "BLOCK", 7)
    a, b = torch.randn(2, 40, generator=stream("ab"), dtype=torch.float64)
    sketch = CountSketch(8, seed=3)
    torch.testing.assert_close(sketch(a + 2 * b), sketch(a) + 2 * sketch(b), rtol=0, atol=1e-12)
    assert torch.equal(sketch(a), CountSketch(8, seed=3)(a))
    assert not torch.equal(sketch(a), CountSketch(8, seed=4)(a))


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        CountSketch(0)
