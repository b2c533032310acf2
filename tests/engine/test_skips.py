"""Steps without anything finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from carv_distill.carv import FiniteDraws
from carv_distill.engine.skips import StepSkips
from carv_distill.errors import UserError


def step(skips: StepSkips, *finite: bool, gradient: float = 1.0) -> float:
    draws = FiniteDraws()
    draws.add(torch.tensor(finite))
    return float(skips.skip(draws, [torch.ones(3), torch.tensor([gradient])], 1))


def counts(skips: StepSkips) -> list[float]:
    return [float(skips.counts[name]) for name in StepSkips.NAMES]


def test_a_step_is_left_out_without_a_finite_draw_or_gradient() -> None:
    skips = StepSkips(3, "advice")
    assert step(skips, True, False, True) == 0
    assert counts(skips) == [1, 0, 0, 0]
    assert step(skips, False, False) == 1
    assert step(skips, True, True, gradient=float("nan")) == 1
    assert counts(skips) == [3, 2, 2, 2]
    assert step(skips, True) == 0
    assert step(skips, True, gradient=float("inf")) == 1
    assert counts(skips) == [3, 3, 1, 2]
    skips.check()
    other = StepSkips(3, "advice")
    other.load_state_dict(skips.state_dict())
    assert counts(other) == counts(skips)
    assert {k: float(v) for k, v in other.metrics().items()} == {
        "nonfinite/draws": 3,
        "nonfinite/skipped_steps": 3,
    }


def test_too_many_in_a_row_are_found_later_too() -> None:
    """Three in a row, then a good one: a look after that stops the run as one before would have."""
    skips = StepSkips(3, "lower the rate")
    for _ in range(3):
        step(skips, False)
    step(skips, True)
    with pytest.raises(UserError, match=r"^3 steps in a row had no finite draw.*\(lower the rate\)$"):
        skips.check()


def parameters_and_state(optimizer: torch.optim.Adam) -> list[Tensor]:
    (p,) = optimizer.param_groups[0]["params"]
    return [p.detach().clone(), *(t.clone() for t in optimizer.state[p].values())]


def test_a_fused_optimiser_stays_as_it_is() -> None:
    """Parameters, moments and its number of steps stay; the next step is as if there had been none."""
    one, two = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    skipping, plain = (torch.optim.Adam([p], 0.1, fused=True) for p in (one, two))
    for found in (0.0, 1.0, 0.0):
        one.grad = torch.full((5,), torch.nan) if found else torch.arange(5.0)
        before = parameters_and_state(skipping) if found else []
        skipping.found_inf = torch.tensor(found)
        skipping.step()
        if found:
            assert all(map(torch.equal, parameters_and_state(skipping), before))
            continue
        two.grad = torch.arange(5.0)
        plain.step()
    assert all(map(torch.equal, parameters_and_state(skipping), parameters_and_state(plain)))


def test_processes_leave_out_a_step_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of 4 draws: 0 and 3 finite is a step, 0 and 0 is none; both count what the other lost."""
    others = iter((3.0, 0.0, 0.0))

    def average(vector: Tensor, world_size: int) -> None:
        vector.add_(next(others)).div_(world_size)

    monkeypatch.setattr("carv_distill.engine.skips.average_over_ranks", average)
    skips = StepSkips(3, "advice")
    for finite, skipped, total in ((0, 0, 5), (0, 1, 13), (1, 0, 20)):
        draws = FiniteDraws()
        draws.add(torch.arange(4) < finite)
        assert float(skips.skip(draws, [torch.ones(1)], 2)) == skipped
        assert float(skips.counts["dropped"]) == total
