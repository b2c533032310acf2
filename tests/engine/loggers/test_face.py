"""Troubles of a logger stay its own."""

from __future__ import annotations

import pytest

from carv_distill.engine.loggers.face import Guard


def test_after_the_first_trouble_it_gets_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    guard, done = Guard("A store", ConnectionError), []

    def fails() -> None:
        raise ConnectionError("gone")

    guard(lambda: done.append(1))
    guard(fails)
    guard(lambda: done.append(2))
    guard(fails)
    assert done == [1]
    said = [record.message for record in caplog.records]
    assert said == ["A store takes nothing more of this run (gone); metrics.csv has all its rows"]


def test_other_mistakes_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        Guard("A store", ConnectionError)(lambda: 1 / 0)
