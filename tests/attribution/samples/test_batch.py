from __future__ import annotations

import torch

from carv_distill.attribution.samples.batch import SampleBatch
from carv_distill.teachers.condition import Condition


def test_rows_are_picked_with_their_condition_and_weights() -> None:
    x = torch.arange(24.0).view(4, 2, 3)
    batch = SampleBatch(x, Condition(x.view(4, 3, 2)), x[:, 0])
    for rows in ([3, 0, 3], torch.tensor([3, 0, 3])):
        some = batch[rows]
        assert len(some) == 3
        assert isinstance(some.cond, Condition)
        assert some.weight is not None
        for part, whole in zip(some.tensors(), batch.tensors(), strict=True):
            assert torch.equal(part, whole[[3, 0, 3]])
    assert torch.equal(batch[1:3].x, x[1:3])


def test_a_move_keeps_the_precision_of_conditions() -> None:
    x = torch.zeros(2, 1, 3)
    moved = SampleBatch(x, Condition(torch.zeros(2, 4, 5)), x[:, 0]).to("cpu", torch.float64)
    assert [t.dtype for t in moved.tensors()] == [torch.float64, torch.float32, torch.float64]


def test_what_is_not_there_stays_away() -> None:
    batch = SampleBatch(torch.zeros(2, 1, 3))
    assert batch[:1].cond is None
    assert batch.to("cpu").weight is None
    assert len(batch.tensors()) == 1
