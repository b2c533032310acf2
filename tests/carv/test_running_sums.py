"""Running sums by bin."""

from __future__ import annotations

import pytest
import torch

from carv_distill.carv.running_sums import RunningSums


def test_sums_decay_with_every_step_and_add_within_one() -> None:
    sums = RunningSums(2, ("a",), decay=0.5)
    index = torch.tensor([0, 1, 1])
    sums.add(0, sums.rows(index, a=torch.tensor([1.0, 2.0, 3.0])))
    sums.add(0, sums.rows(index[:1], a=torch.tensor([1.0])))
    assert sums["a"].tolist() == [2, 5]
    sums.add(2, sums.rows(index[:1], a=torch.tensor([8.0])))
    assert sums["a"].tolist() == [2 / 4 + 8, 5 / 4]


def test_places_fall_into_equal_bins() -> None:
    index = RunningSums(4, ("a",), 1.0).index(torch.tensor([0.0, 0.24, 0.25, 0.99, 1.0]))
    assert index.tolist() == [0, 0, 1, 3, 3]


def test_the_present_is_refused() -> None:
    sums = RunningSums(1, ("a",), 1.0)
    sums.refuse_present(0, "proposal")
    row = sums.rows(torch.tensor([0]), a=torch.ones(1))
    sums.add(3, row)
    sums.refuse_present(4, "proposal")
    with pytest.raises(ValueError, match="the proposal of step 3 was asked for after step 3 was observed"):
        sums.refuse_present(3, "proposal")
    with pytest.raises(ValueError, match="step 2 was observed after step 3"):
        sums.add(2, row)


def test_a_state_goes_on_to_the_bit_and_a_foreign_one_is_refused() -> None:
    one, two = (RunningSums(3, ("a", "b"), 0.9) for _ in range(2))
    values = {"a": torch.rand(5, dtype=torch.float64), "b": torch.rand(5, dtype=torch.float64)}
    index = torch.tensor([0, 1, 2, 2, 0])
    rows = one.rows(index, **values)
    one.add(1, rows)
    two.load_state_dict(one.state_dict())
    for sums in (one, two):
        sums.add(4, rows)
    assert all(torch.equal(one[name], two[name]) for name in ("a", "b"))
    with pytest.raises(ValueError, match="not a, c"):
        RunningSums(3, ("a", "c"), 0.9).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="not 2 bins"):
        RunningSums(2, ("a", "b"), 0.9).load_state_dict(one.state_dict())


def test_loaded_sums_follow_the_draws_to_their_device() -> None:
    """A checkpoint is loaded before a trainer moves the networks; a second device that every machine has."""
    one, two = (RunningSums(3, ("a",), 0.9) for _ in range(2))
    row = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    one.add(1, row)
    two.load_state_dict(one.state_dict(), "cpu")
    two.add(2, row.to("meta"))
    assert two["a"].device.type == "meta"


@pytest.mark.parametrize(("bins", "decay"), [(0, 1.0), (1, 0.0), (1, 1.5)])
def test_arguments_outside_their_range_are_refused(bins: int, decay: float) -> None:
    with pytest.raises(ValueError, match="must"):
        RunningSums(bins, ("a",), decay)
