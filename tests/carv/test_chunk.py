"""Memory that runs out in the draw loop."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from carv_distill.carv import (
    AdaptiveProposal,
    Chunk,
    NoiseLevelSampler,
    Proposal,
    StepStatistics,
    average_residual,
    stream,
)


def network_of(memory: int, calls: list[int]) -> object:
    """A residual that holds so many rows at a time."""

    def residual(x: Tensor, u: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        calls.append(len(u))
        if len(u) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x * u[:, None] + eps

    return residual


def test_where_memory_ends_the_chunk_is_halved_for_good_and_nothing_else_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """12 rows where 4 fit: 12 and 6 fail, then 3 at a time, also in the next call; bit for bit the same."""
    x = torch.randn(3, 5, generator=stream("x"))
    draws = NoiseLevelSampler(Proposal.uniform()).draw(3, 4, (5,), stream("draws"))
    exact = average_residual(network_of(12, []), x, draws)  # type: ignore[arg-type]
    chunk, calls = Chunk(), list[int]()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = average_residual(network_of(4, calls), x, draws, chunk)  # type: ignore[arg-type]
            assert torch.equal(found, exact)
    assert calls == [12, 6, *[3] * 8]
    assert [r.getMessage() for r in caplog.records] == [
        f"out of memory with {n} re-noisings per network call; going on with {n // 2} (estimator.chunk)"
        for n in (12, 6)
    ]


def test_a_row_that_does_not_fit_is_an_error() -> None:
    draws = NoiseLevelSampler(Proposal.uniform()).draw(1, 4, (5,), stream(0))
    with pytest.raises(torch.OutOfMemoryError):
        average_residual(network_of(0, []), torch.zeros(1, 5), draws, Chunk())  # type: ignore[arg-type]


def test_what_draws_teach_does_not_depend_on_the_chunk() -> None:
    """A proposal learns every draw once, also of calls that were done again; sums agree to 1e-12."""
    x = torch.randn(3, 5, generator=stream("x"))
    draws = NoiseLevelSampler(Proposal.uniform()).draw(3, 4, (5,), stream("draws"))
    learned = []
    for memory in (12, 4):
        adaptive, statistics = AdaptiveProposal(4), StepStatistics()
        average_residual(
            network_of(memory, []),  # type: ignore[arg-type]
            x,
            draws,
            Chunk(),
            lambda u, r, index, a=adaptive, to=statistics: to.record(a, a.rows(u, r, index)),  # type: ignore[misc]
        )
        assert "sums" not in adaptive.state_dict() or not adaptive.state_dict()["sums"]
        statistics.commit(0, lambda rows: rows)
        learned.append(adaptive.state_dict()["sums"])
        assert learned[-1]["weight"].sum() == 12
    torch.testing.assert_close(*learned, rtol=1e-12, atol=0)


def test_processes_tell_equally_many_rows() -> None:
    """One row a bin, whatever was drawn, so that a gather of unequal chunks cannot hang."""
    adaptive, statistics, shapes = AdaptiveProposal(6), StepStatistics(), []
    for n in (1, 50):
        statistics.record(adaptive, adaptive.rows(torch.rand(n, 1), torch.randn(n, 1, 3)))
        statistics.commit(n, lambda rows: shapes.append(rows.shape) or rows)  # type: ignore[func-returns-value]
    assert shapes == [(6, 3)] * 2


def test_a_chunk_that_is_not_to_be_halved_is_an_error() -> None:
    """Of several processes that call one network together, one alone may not make other calls."""
    draws, chunk, calls = (
        NoiseLevelSampler(Proposal.uniform()).draw(1, 4, (5,), stream(0)),
        Chunk(),
        list[int](),
    )
    chunk.halves = False
    with pytest.raises(torch.OutOfMemoryError):
        average_residual(network_of(2, calls), torch.zeros(1, 5), draws, chunk)  # type: ignore[arg-type]
    assert calls == [4]
    assert chunk.rows is None
