"""Processes of one run are the same program."""

from __future__ import annotations

import pytest

from carv_distill.engine.interruptions import check_equal
from carv_distill.errors import UserError


def test_what_differs_is_named() -> None:
    check_equal([{"a": 1, "b": 2}] * 3)
    with pytest.raises(UserError, match="b: process 2 has 3, process 0 has 2"):
        check_equal([{"a": 1, "b": 2}] * 2 + [{"a": 1, "b": 3}])
    with pytest.raises(UserError, match="c: process 1 has 1, process 0 has None"):
        check_equal([{}, {"c": 1}])
