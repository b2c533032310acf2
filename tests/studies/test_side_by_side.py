"""Order of the results and the line after each, with one worker and with two."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pytest

from studies.side_by_side import side_by_side


def square(value: int) -> int:
    return value * value


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 30])
def test_results_keep_their_order(workers: int, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    results = side_by_side([partial(square, n) for n in range(count)], workers, "threading")
    assert results == [n * n for n in range(count)]
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" done")[0] for line in told] == [f"{n} of {count}" for n in range(1, count + 1)]


def test_an_error_of_a_call_is_the_callers() -> None:
    with pytest.raises(ValueError, match="base"):
        side_by_side([partial(int, "x", 99)], 1)


def test_what_is_left_goes_by_the_calls_that_were_not_there_already(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two results are read in 10 ms, two take 1,000 and 2,000 s; the others go by these."""
    clock = iter([0, 0.01, 1, 1.01, 2, 1002, 1002, 3002, 3002, 3002.01, 3002.01, 3003])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr("studies.side_by_side.Parallel", lambda *_, **__: in_turn)
    side_by_side([partial(square, n) for n in range(6)], 2)
    assert capsys.readouterr().err.splitlines() == [
        "1 of 6 done",
        "2 of 6 done",
        "3 of 6 done, about 25 min left",
        "4 of 6 done, about 25 min left",
        "5 of 6 done, about 25 min left",
        "6 of 6 done",
    ]


def in_turn(calls: Iterable[Any]) -> Iterator[Any]:
    """joblib's calls, one after another."""
    return (function(*arguments) for function, arguments, _ in calls)
