"""Rows of conditions, and what happens to them on the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from carv_distill.carv import stream
from carv_distill.teachers.condition import Condition, HeldCondition, interpolated, joined, repeated, tensors


def condition(rows: int = 3) -> Condition:
    g = stream("condition")
    return Condition(
        torch.randn(rows, 5, 4, generator=g),
        mask=torch.ones(rows, 5, dtype=torch.long).tril(2),
        pooled=torch.randn(rows, 6, generator=g),
        time_ids=torch.arange(rows * 6.0).view(rows, 6),
        guidance=torch.linspace(1, 4, rows),
    )


def same(a: Condition, b: Condition) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_rows_of_every_part() -> None:
    cond = condition()
    assert len(cond) == 3
    assert len(tensors(cond)) == 5
    picked = cond[torch.tensor([2, 0, 0, 1])]
    for part, whole in zip(tensors(picked), tensors(cond), strict=True):
        assert torch.equal(part, whole[[2, 0, 0, 1]])
    assert same(cond[1:2], cond[torch.tensor([1])])
    one = cond[1]
    assert one.embeddings.shape == (5, 4)
    assert one.guidance is not None
    assert one.guidance.shape == ()
    assert len(tensors(Condition(torch.zeros(2, 3, 4))[1])) == 1
    assert cond.bytes == sum(p.numel() * p.element_size() for p in tensors(cond))


def test_a_repeated_row_is_not_copied() -> None:
    one = condition()[1]
    many = repeated(one, 4)
    assert isinstance(many, Condition)
    assert same(many, condition()[torch.tensor([1] * 4)])
    assert many.embeddings.data_ptr() == one.embeddings.data_ptr()
    label = repeated(torch.tensor(7), 3)
    assert isinstance(label, Tensor)
    assert label.tolist() == [7, 7, 7]


def test_joined() -> None:
    cond = condition()
    both = joined(cond[:1], cond[1:])
    assert isinstance(both, Condition)
    assert same(both, cond)
    labels = joined(torch.tensor([1]), torch.tensor([2, 3]))
    assert isinstance(labels, Tensor)
    assert labels.tolist() == [1, 2, 3]
    with pytest.raises(TypeError, match="a label and a prompt"):
        joined(torch.tensor([1]), cond)
    with pytest.raises(TypeError, match="one condition has mask, the other has none"):
        joined(cond, Condition(cond.embeddings, None, cond.pooled, cond.time_ids, cond.guidance))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_precision_is_that_of_numbers_alone(dtype: torch.dtype) -> None:
    cond = condition().to(dtype)
    assert cond.mask is not None
    assert cond.mask.dtype == torch.long
    assert {p.dtype for p in tensors(cond) if p.is_floating_point()} == {dtype}
    moved = condition().to("meta", dtype)
    assert {p.device.type for p in tensors(moved)} == {"meta"}
    assert moved.embeddings.dtype == dtype


def test_vmap_maps_over_the_rows() -> None:
    cond = condition()

    def value(one: Condition, scale: Tensor) -> Tensor:
        assert one.mask is not None
        assert one.pooled is not None
        return scale * (one.embeddings * one.mask[:, None]).sum() + one.pooled.sum()

    found = vmap(value, in_dims=(0, None))(cond, torch.tensor(2.0))
    exact = torch.stack([value(cond[i], torch.tensor(2.0)) for i in range(3)])
    torch.testing.assert_close(found, exact)


def test_a_held_condition_moves_and_is_not_kept() -> None:
    module = nn.Module()
    module.held, module.layer = HeldCondition(condition()), nn.Linear(2, 2)
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}
    module.double()
    assert isinstance(module.held, HeldCondition)
    value = module.held.value
    assert isinstance(value, Condition)
    assert value.embeddings.dtype == torch.float64
    assert value.mask is not None
    assert value.mask.dtype == torch.long
    module.to("meta")
    assert {p.device.type for p in tensors(module.held.value)} == {"meta"}
    label = HeldCondition(torch.tensor(3)).double()
    assert isinstance(label.value, Tensor)
    assert label.value.dtype == torch.long


def test_conditions_between_two() -> None:
    """Floating parts by their shares, in their own precision; a token counts where it counts in either."""
    first, second = (
        Condition(torch.full((3, 2, 1), v).half(), torch.tensor([m] * 3), torch.full((3, 1), -v))
        for v, m in ((1.0, [1, 0]), (5.0, [1, 1]))
    )
    found = interpolated(first, second, torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert found.embeddings[:, 1, 0].tolist() == [1, 2, 5]
    assert found.embeddings.dtype == torch.float16
    assert found.mask is not None
    assert found.pooled is not None
    assert found.mask.tolist() == [[1, 1]] * 3
    assert found.pooled[:, 0].tolist() == [-1, -2, -5]
    assert found.guidance is None
    first, second = (Condition(torch.zeros(1, 1, 1), torch.tensor([[m]])) for m in (False, True))
    assert interpolated(first, second, torch.zeros(1)).mask.tolist() == [[True]]  # type: ignore[union-attr]
