"""Order of the results and the line after each, with one worker and with two."""

from __future__ import annotations

from functools import partial

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
