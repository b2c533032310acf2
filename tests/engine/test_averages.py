"""Averages in the host's memory: here on a CPU, which has one memory; tests/gpu has the other half."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from carv_distill.engine.averages import Averaging, HostAveraging
from carv_distill.engine.optimisation import ParameterVector, frozen_copy


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_make_the_same_average(dtype: torch.dtype) -> None:
    """Three updates of a first average, which is a network, and of a row; bit for bit."""
    results = []
    for averaging in (Averaging(), HostAveraging()):
        learner = network().to(dtype)
        average = frozen_copy(learner)
        theta = ParameterVector(list(learner.parameters()))
        first = averaging.vector(list(average.parameters()), 1)
        row = averaging.kept(theta.theta.detach().clone())
        for step in range(3):
            averaging.before_step()
            with torch.no_grad():
                theta.theta += torch.randn(theta.theta.shape, generator=torch.Generator().manual_seed(step))
            theta.average_into(first.local, 0.9, averaging.update)
            theta.average_into(theta.cut(row), 0.3, averaging.update)
        averaging.finish()
        results.append([torch.cat([p.flatten() for p in average.parameters()]), row])
        assert torch.equal(
            first.whole(first.local), results[-1][0]
        )  # the network's parameters are views of it
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(*results[0])


def test_the_host_keeps_a_copy() -> None:
    row = torch.arange(4.0)
    kept = HostAveraging().kept(row)
    row += 1
    assert kept.tolist() == [0, 1, 2, 3]
    assert Averaging().kept(row) is row


def test_parameters_come_back_to_where_they_were() -> None:
    """Also when the block fails."""
    averaging, average = HostAveraging(), network()
    before = [p.data_ptr() for p in average.parameters()]

    def fail() -> None:
        with averaging.on_device(average.parameters(), torch.device("cpu")):
            for p in average.parameters():
                p.data = p.data.clone()  # as on another device
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.data_ptr() for p in average.parameters()] == before
