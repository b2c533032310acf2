import pytest
import torch
from torch import nn

from carv_distill.engine.optimisation import ema_update, frozen_copy, ramped


def linear(value: float) -> nn.Linear:
    network = nn.Linear(2, 2).double()
    for p in network.parameters():
        nn.init.constant_(p, value)
    return network


def test_frozen_copy_is_independent_and_frozen() -> None:
    """Same values, no gradient, evaluation mode; the original is left as it was and may move on."""
    network = linear(1.0).train()
    copy = frozen_copy(network)
    assert not copy.training
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    with torch.no_grad():
        network.weight.fill_(5)
    assert (copy.weight == 1).all()
    assert not any(p.requires_grad for p in copy.parameters())


@pytest.mark.parametrize(
    ("updates", "decay"),
    [(0, 1 / 10), (1, 2 / 11), (8, 9 / 18), (10**6, 0.98), (431, 432 / 441), (440, 0.98)],
)
def test_one_update(updates: int, decay: float) -> None:
    """θ̄ ← δ θ̄ + (1 − δ) θ with δ = min(0.98, (1 + n)/(10 + n)); the ramp ends at n = 440."""
    average, network = frozen_copy(linear(1.0)), linear(3.0)
    ema_update([*average.parameters()], [*network.parameters()], ramped(0.98, updates))
    for p in average.parameters():
        torch.testing.assert_close(p, torch.full_like(p, decay * 1 + (1 - decay) * 3), rtol=1e-12, atol=0)
    assert all((p == 3).all() for p in network.parameters())


def test_no_decay_copies_and_full_decay_ramps() -> None:
    """Decay 0 follows the network exactly; decay 1 still forgets the start by its ramp."""
    average, network = frozen_copy(linear(1.0)), linear(3.0)
    ema_update([*average.parameters()], [*network.parameters()], ramped(0.0, 5))
    assert (average.weight == 3).all()
    average = frozen_copy(linear(1.0))
    ema_update([*average.parameters()], [*network.parameters()], ramped(1.0, 0))
    torch.testing.assert_close(average.weight, torch.full_like(average.weight, 2.8))


def test_many_updates_against_the_recursion() -> None:
    """100 updates of a moving network equal the scalar recursion to 1e-12."""
    average, expected = frozen_copy(linear(0.0)), 0.0
    for n in range(100):
        ema_update([*average.parameters()], [*linear(float(n)).parameters()], ramped(0.9, n))
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    torch.testing.assert_close(
        average.bias, torch.full((2,), expected, dtype=torch.float64), rtol=1e-12, atol=0
    )
